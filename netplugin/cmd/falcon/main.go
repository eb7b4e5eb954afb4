// Command falcon is the CNI plugin: it hands its work to the node's agent, falcond. DEL and
// GC are done without the agent, too.
//
// It is executed for every container and waited for: it imports next to nothing.
package main

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// version is what VERSION answers; see netplugin/netconf for what each means.
const version = `{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`

// Codes of CNI, spec/SPEC.md, "Error".
const (
	codeIO          = 5
	codeNamespace   = 8 // of the CNI library
	codeTryLater    = 11
	codeUnavailable = 50
)

func main() {
	command := os.Getenv("CNI_COMMAND")
	if command == "VERSION" {
		os.Stdout.WriteString(version + "\n")
		return
	}
	config, err := io.ReadAll(io.LimitReader(os.Stdin, protocol.MaxRequest))
	if err != nil {
		fail(codeIO, "read the network configuration from standard input", err)
	}
	namespace, err := openNamespace(command)
	if err != nil {
		fail(codeNamespace, "open the network namespace CNI_NETNS", err)
	}
	request := protocol.Encode(os.Environ(), config)
	output, ok, err := protocol.Call(filepath.Join(root(), protocol.Socket), request, namespace)
	switch {
	case err == nil:
		os.Stdout.Write(output)
		if !ok {
			os.Exit(1)
		}
	case command == "DEL" || command == "GC":
		alone(config)
	case command == "STATUS":
		fail(codeUnavailable, "start falcond on this node", err)
	default:
		fail(codeTryLater, "start falcond on this node", err)
	}
}

// root is the agent's directory.
func root() string {
	if dir := os.Getenv("FALCON_ROOT"); dir != "" {
		return dir
	}
	return protocol.Root
}

// openNamespace opens the container's network namespace, -1 if there is none: only ADD
// fails without.
func openNamespace(command string) (int, error) {
	path := os.Getenv("CNI_NETNS")
	if path == "" {
		return -1, nil // the agent says what is missing
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err == nil {
		return fd, nil
	}
	if command == "ADD" {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return -1, nil
}

// alone does the work without the agent: it becomes `falcond cni`.
func alone(config []byte) {
	program, err := findAgent()
	if err != nil {
		fail(codeTryLater, "falcond does not run, and could not be found to clean up without it", err)
	}
	stdin, err := unix.MemfdCreate("config", unix.MFD_CLOEXEC)
	if err == nil {
		_, err = unix.Write(stdin, config)
	}
	if err == nil {
		_, err = unix.Seek(stdin, 0, io.SeekStart)
	}
	if err == nil {
		err = unix.Dup2(stdin, 0)
	}
	if err == nil {
		err = syscall.Exec(program, []string{program, "cni"}, os.Environ())
	}
	fail(codeIO, "clean up without the agent", err)
}

// findAgent looks beside this program, where it really is, and in the usual places.
func findAgent() (string, error) {
	var dirs []string
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			dirs = append(dirs, filepath.Dir(self))
		}
	}
	for _, dir := range append(dirs, "/usr/local/bin", "/usr/bin") {
		path := filepath.Join(dir, "falcond")
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", &os.PathError{Op: "find", Path: "falcond", Err: syscall.ENOENT}
}

// fail prints an error of CNI and ends.
func fail(code int, message string, err error) {
	os.Stdout.WriteString(`{"cniVersion":"1.1.0","code":` + strconv.Itoa(code) + `,"msg":` + quote(message) + `,"details":` + quote(err.Error()) + "}\n")
	os.Exit(1)
}

// quote makes a JSON string. What isn't printable ASCII is escaped.
func quote(s string) string {
	const hex = "0123456789abcdef"
	out := []byte{'"'}
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', byte(r))
		case r >= ' ' && r < 0x7f:
			out = append(out, byte(r))
		case r > 0xffff:
			out = append(out, '?')
		default:
			out = append(out, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		}
	}
	return string(append(out, '"'))
}
