// Command containerd-shim-flashcube-v1 is what containerd executes for the runtime
// io.containerd.flashcube.v1: `start`, which claims a running shim and answers its
// address, and `delete`, after a container has gone. containerd waits for both, once per
// container each, so this program imports next to nothing; the shim itself is
// flashcube-shim.
package main

import (
	"strconv"
	"syscall"

	"github.com/peregrine-dev/peregrine/internal/version"
	"github.com/peregrine-dev/peregrine/shim/claim"
)

const name = "containerd-shim-flashcube-v1"

func main() {
	out, err := run()
	if err == nil {
		err = write(1, out)
	}
	if err != nil {
		_ = write(2, []byte(name+": "+err.Error()+"\n"))
		syscall.Exit(1)
	}
	syscall.Exit(0)
}

// run returns what to print. Nothing goes to standard error unless it fails: containerd
// reads that together with the answer.
func run() ([]byte, error) {
	args, err := arguments()
	if err != nil {
		return nil, err
	}
	o, err := parse(args)
	if err != nil {
		return nil, err
	}
	switch {
	case o.version:
		return []byte(name + ":\n  Version:  " + version.Version + "\n"), nil
	case o.info:
		return nil, become([]string{claim.ShimBinary, "-info"})
	case o.action == "start":
		return start(o)
	case o.action == "delete":
		return remove(o)
	}
	return nil, claim.Text("want start or delete, as containerd calls it, and not \"" + o.action + "\"")
}

// start answers the address of a shim for the bundle in the working directory.
func start(o *options) ([]byte, error) {
	if o.id == "" || o.namespace == "" {
		return nil, claim.Text("start needs -id and -namespace")
	}
	stdin, err := readAll(0)
	if err != nil {
		return nil, &claim.Error{Op: "read", Path: "standard input", Err: err}
	}
	bundle, err := syscall.Getwd()
	if err != nil {
		return nil, &claim.Error{Op: "find", Path: "the bundle", Err: err}
	}
	_, maxVersion := syscall.Getenv("MAX_SHIM_VERSION")
	protocol, params := claim.Detect(stdin, o.id, o.namespace, maxVersion)
	ttrpc, _ := syscall.Getenv("TTRPC_ADDRESS")
	c := claim.Claimer{
		Dir:         claim.Profile(claim.Root(), "default"),
		Shim:        shimPath,
		AddressFile: protocol != claim.Bootstrap,
	}
	address, err := c.Take(&claim.Request{
		ID: o.id, Namespace: o.namespace, Bundle: bundle,
		TTRPCAddress:  either(params.TTRPCAddress, ttrpc),
		GRPCAddress:   either(params.GRPCAddress, o.address),
		PublishBinary: either(params.Binary, o.publishBinary),
		Parent:        syscall.Getppid(),
		Debug:         o.debug || params.LogLevel <= -4,
	})
	if err != nil {
		return nil, err
	}
	return claim.Answer(protocol, address), nil
}

// killed is the exit status of a process that SIGKILL ended. Stock shims report it for a
// container whose end nobody saw.
const killed = 128 + 9

// remove answers for a container of which nothing is left: the shim took away its state
// and its link when it was deleted, or the part died before a container was made. All
// else is for a program that knows what a container is.
func remove(o *options) ([]byte, error) {
	bundle := either(o.bundle, ".")
	if claim.Exists(bundle+"/"+claim.StateFile) || claim.Exists(bundle+"/"+claim.Link) {
		return nil, become(append([]string{claim.ShimBinary, "-cleanup"}, o.flags...))
	}
	var now syscall.Timeval
	if err := syscall.Gettimeofday(&now); err != nil {
		return nil, err
	}
	return claim.DeleteResponse(killed, now.Sec, int32(now.Usec)*1000), nil
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// become replaces this program by flashcube-shim. It returns only an error.
func become(argv []string) error {
	path := shimPath()
	if path == "" {
		return claim.Text("can't find " + claim.ShimBinary + "; install it beside this program or in the PATH of containerd")
	}
	return &claim.Error{Op: "execute", Path: path, Err: syscall.Exec(path, argv, syscall.Environ())}
}

// shimPath looks for flashcube-shim beside this program, then in PATH. It is empty if
// there is none.
func shimPath() string {
	if self, err := readlink("/proc/self/exe"); err == nil {
		for i := len(self) - 1; i >= 0; i-- {
			if self[i] == '/' {
				if path := self[:i+1] + claim.ShimBinary; executable(path) {
					return path
				}
				break
			}
		}
	}
	search, _ := syscall.Getenv("PATH")
	for len(search) > 0 {
		dir := search
		search = ""
		for i := range len(dir) {
			if dir[i] == ':' {
				dir, search = dir[:i], dir[i+1:]
				break
			}
		}
		if path := dir + "/" + claim.ShimBinary; len(dir) > 0 && dir[0] == '/' && executable(path) {
			return path
		}
	}
	return ""
}

func executable(path string) bool { return syscall.Access(path, 1) == nil }

func readlink(path string) (string, error) {
	buf := make([]byte, syscall.PathMax)
	n, err := syscall.Readlink(path, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// limit is the most that is read from standard input, as with stock shims.
const limit = 10 << 20

// readAll reads up to the end of a descriptor.
func readAll(fd int) ([]byte, error) {
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := syscall.Read(fd, buf[len(buf):cap(buf)])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return buf, nil
		}
		if buf = buf[:len(buf)+n]; len(buf) > limit {
			return nil, claim.Text("more than " + strconv.Itoa(limit) + " bytes")
		}
	}
}

func write(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := syscall.Write(fd, data)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
