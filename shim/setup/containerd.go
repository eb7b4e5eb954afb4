package setup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	hostfiles "github.com/peregrine-dev/peregrine/config"
)

const (
	mainConfigPath = "/etc/containerd/config.toml"
	dropInPath     = "/etc/containerd/conf.d/flashcube.toml"
	shimBinary     = "containerd-shim-flashcube-v1"
	address        = "/run/containerd/containerd.sock"

	// patience is for daemons that answer at once or not at all.
	patience = 2 * time.Second
)

// containerd is the host's.
type containerd struct {
	running bool
	path    string // its PATH: where it looks for runtimes
}

// usualPath is a service's under systemd, systemd.exec(5).
const usualPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// findContainerd asks the process behind containerd's socket for its PATH. Where none
// answers it is what systemd would start one with.
func findContainerd(ctx context.Context) containerd {
	return behind(ctx, address)
}

func behind(ctx context.Context, socket string) containerd {
	unknown := containerd{path: usualPath}
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "unix", socket)
	if err != nil {
		return unknown
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return unknown
	}
	var peer *unix.Ucred
	err = raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || peer == nil || peer.Pid == 0 {
		return unknown
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", peer.Pid))
	if err != nil {
		return unknown
	}
	for _, v := range strings.Split(string(environment), "\x00") {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			return containerd{true, path}
		}
	}
	return containerd{running: true}
}

// runtimePath is what CRI needs to know of the program in bin: nothing if containerd
// finds it by itself.
func runtimePath(bin string, daemon containerd) string {
	program := filepath.Join(bin, shimBinary)
	if found, err := lookPath(shimBinary, daemon.path); err == nil && found == program {
		return ""
	}
	for _, dir := range filepath.SplitList(daemon.path) {
		if filepath.Clean(dir) == bin {
			return "" // and it will be there
		}
	}
	return program
}

// DropIn returns containerd's configuration for CRI's handler flashcube. runtimePath is
// the program, empty if containerd finds it in its PATH.
func DropIn(runtimePath string) ([]byte, error) {
	return hostfiles.Render(dropInPath, map[string]string{"Path": runtimePath})
}

// criSections are CRI's in containerd's configuration, by its major versions.
var criSections = []string{"io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"}

// handlers are CRI's runtimes in a configuration.
func handlers(dump []byte) (map[string]bool, error) {
	var c struct {
		Plugins map[string]any `toml:"plugins"`
	}
	if err := toml.Unmarshal(dump, &c); err != nil {
		return nil, fmt.Errorf("read containerd's configuration: %w", err)
	}
	all := map[string]bool{}
	for _, section := range criSections {
		cri, _ := c.Plugins[section].(map[string]any)
		inner, _ := cri["containerd"].(map[string]any)
		runtimes, _ := inner["runtimes"].(map[string]any)
		for name := range runtimes {
			all[name] = true
		}
	}
	return all, nil
}

// errNoContainerd is returned where there is none to ask.
var errNoContainerd = errors.New("containerd is not on PATH")

// Registered asks containerd whether its configuration has CRI's handler. path is
// another PATH in which containerd may be.
func Registered(ctx context.Context, path string) (bool, error) {
	command := "dump"
	if _, err := os.Stat(mainConfigPath); errors.Is(err, os.ErrNotExist) {
		command = "default" // which it then has; before 2.0 it would fail to dump it
	}
	dump, err := containerdConfig(ctx, path, "config", command)
	if err != nil {
		return false, err
	}
	all, err := handlers(dump)
	return all[Name], err
}

// containerdConfig is a configuration that containerd prints.
func containerdConfig(ctx context.Context, path string, args ...string) ([]byte, error) {
	program, err := exec.LookPath("containerd")
	if errors.Is(err, exec.ErrNotFound) {
		program, err = lookPath("containerd", path)
		if err != nil {
			return nil, errNoContainerd
		}
	}
	if err != nil {
		return nil, err
	}
	var diagnostics bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = &diagnostics
	dump, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("containerd %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(diagnostics.Bytes()))
	}
	return dump, nil
}

// merges tells whether containerd adds a drop-in's CRI section to what the main file has.
// Lines before 2.0 put it in the other's place, and with it in the place of every other
// runtime and option, runc's own among them. It is tried, on files aside.
func merges(ctx context.Context, path string, dropIn []byte) (_ bool, err error) {
	dir, err := os.MkdirTemp("", "peregrine-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	main, added := filepath.Join(dir, "config.toml"), filepath.Join(dir, "added.toml")
	text := fmt.Sprintf("version = 2\nimports = [%q]\n[plugins.%q.containerd.runtimes.other]\nruntime_type = \"io.containerd.other.v1\"\n", added, criSections[1])
	if err := errors.Join(os.WriteFile(main, []byte(text), 0o600), os.WriteFile(added, dropIn, 0o600)); err != nil {
		return false, err
	}
	dump, err := containerdConfig(ctx, path, "--config", main, "config", "dump")
	if err != nil {
		return false, err
	}
	all, err := handlers(dump)
	return all["other"] && all[Name], err
}

// Advise tells what is left to do after the files are installed.
func Advise(ctx context.Context, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bin, daemon := filepath.Dir(self), findContainerd(ctx)
	runtime := Runtime
	if _, err := lookPath(shimBinary, daemon.path); err != nil {
		runtime = filepath.Join(bin, shimBinary)
		fmt.Fprintf(out, "note: containerd does not look for runtimes in %s; name the path\n", bin)
	}
	registered, err := Registered(ctx, daemon.path)
	switch {
	case errors.Is(err, errNoContainerd):
		fmt.Fprintln(out, "note: there is no containerd yet; install again once there is, for CRI")
	case err != nil:
		fmt.Fprintf(out, "note: could not ask containerd (%v); CRI may not know the runtime flashcube\n", err)
	case !registered:
		dropIn, err := DropIn(runtimePath(bin, daemon))
		if err != nil {
			return err
		}
		can, err := merges(ctx, daemon.path, dropIn)
		if err != nil {
			return err
		}
		if can {
			fmt.Fprintf(out, "note: containerd doesn't read %s; have imports in %s name it\n", dropInPath, mainConfigPath)
			break
		}
		fmt.Fprintf(out, "note: this containerd would forget CRI's other settings over a drop-in; for CRI, put this into %s:\n%s"+
			"  and list runc in the same way (runtime_type \"io.containerd.runc.v2\") if it is not there yet\n", mainConfigPath, indent(section(dropIn)))
	}
	fmt.Fprintf(out, "use the runtime by --runtime %s, in pods by a RuntimeClass with handler flashcube\n", runtime)
	return nil
}

// section is a drop-in without what comes before its first table.
func section(dropIn []byte) string {
	text := string(dropIn)
	return text[strings.Index(text, "["):]
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ") + "\n"
}
