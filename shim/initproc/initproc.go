// Package initproc is what runs inside a container before its program does: the init,
// which turns a cube into the container by a plan.Container and becomes its program; the
// helper that brings a further process in by a plan.Exec; and the maker of a cube, which
// prepares new namespaces and ends, for they live on with who opens them.
//
// Everything happens on the main thread: namespaces, credentials and filters belong to
// threads. The other threads of the Go runtime do nothing of importance, and end with
// execve(2).
package initproc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// Socket is the file descriptor of the socket to the shim, of type SOCK_SEQPACKET.
const Socket = 3

// Messages of the shim, each one packet. Create and Exec carry file descriptors: a
// memfd with the plan as JSON, then those the plan names. Enter carries those of files
// only, Join those of namespaces after its list; they come before. All are answered.
const (
	Enter  = 'g' // files that put the thread that writes 0 to them in the container's cgroups
	Join   = 'j' // namespaces, and a list of plan.Join
	Create = 'c'
	Exec   = 'e'
	Start  = 's'
)

// Ready is the packet that the maker of a cube and an init send when they are ready. The
// maker ends when the socket closes.
const Ready = 'r'

// Arguments of an init that is to make its own namespaces a cube, and of one whose
// network namespace is new too.
const (
	OwnCube    = "own"
	OwnNetwork = "network"
)

// Main is the program; it doesn't return. The caller holds the main thread.
func Main(args []string) {
	debug.SetGCPercent(-1) // short and small: no thread shall wake for the collector
	err := run(args)
	reply(err, None)
	os.Exit(1)
}

// None is no file descriptor.
const None = -1

func run(args []string) error {
	// Nothing of the host's that leaks in here is the container's.
	if err := unix.CloseRange(Socket, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	// What runs in the container must not read or trace this process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the init not dumpable: %w", err)
	}
	if len(args) < 2 {
		return errors.New("usage: flashcube-init cube|init|exec; the shim runs it")
	}
	switch args[1] {
	case "cube":
		return runCube()
	case "init":
		return runInit(slices.Contains(args, OwnCube), slices.Contains(args, OwnNetwork))
	case "exec":
		return runExec()
	}
	return fmt.Errorf("unknown command %q", args[1])
}

func runCube() error {
	if err := prepare(true); err != nil {
		return err
	}
	if err := send([]byte{Ready}, None); err != nil {
		return err
	}
	_, _, err := receive() // which ends this process
	return err
}

func runInit(cube, network bool) error {
	if cube {
		if err := prepare(network); err != nil {
			return err
		}
		if err := mountProc(); err != nil {
			return err
		}
	}
	if err := rehearse(); err != nil {
		return err
	}
	if err := send([]byte{Ready}, None); err != nil {
		return err
	}
	var p plan.Container
	fds, err := receivePlan(Create, &p)
	if err != nil {
		return err
	}
	program, console, err := become(&p, fds)
	if err != nil {
		return err
	}
	reply(nil, console)
	err = program.run()
	// By now the container counts as started, and is told so where its program would:
	// as runc does it.
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
	return nil
}

// rehearse decodes a plan, so that what Go does for the first time, and the pages it
// needs, are done with when it counts.
func rehearse() error {
	text, err := json.Marshal(plan.Container{
		Mounts: []plan.Mount{{Propagation: []uintptr{1}}}, Devices: []plan.Device{{}},
		MaskedPaths: []string{"/"},
		Process:     plan.Process{Args: []string{"-"}, Groups: []uint32{1}, Rlimits: []plan.Rlimit{{}}, Seccomp: []byte{0}},
	})
	if err != nil {
		return err
	}
	var p plan.Container
	return json.Unmarshal(text, &p)
}

// receive waits for a message.
func receive() (kind byte, fds []int, err error) {
	var buf [16]byte
	oob := make([]byte, unix.CmsgSpace(256*4))
	n, oobn, _, _, err := retry5(func() (int, int, int, unix.Sockaddr, error) {
		return unix.Recvmsg(Socket, buf[:], oob, unix.MSG_CMSG_CLOEXEC)
	})
	if err != nil {
		return 0, nil, fmt.Errorf("receive from the shim: %w", err)
	}
	if n == 0 { // the shim is gone
		os.Exit(0)
	}
	if n != 1 {
		return 0, nil, fmt.Errorf("message %q: %w", buf[:n], unix.EBADMSG)
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, err
	}
	for _, m := range cmsgs {
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			return 0, nil, err
		}
		fds = append(fds, more...)
	}
	return buf[0], fds, nil
}

// receivePlan waits for the plan that a message of a kind carries, and enters cgroups
// and namespaces before if it is told to. It returns the files that the plan names.
func receivePlan(want byte, into any) ([]int, error) {
	for {
		kind, fds, err := receive()
		if err != nil {
			return nil, err
		}
		switch kind {
		case want:
			return decode(fds, into)
		case Enter:
			err = enterCgroups(fds)
		case Join:
			err = enterNamespaces(fds)
		default:
			err = fmt.Errorf("message %q where a plan is due", kind)
		}
		if err != nil {
			return nil, err
		}
		reply(nil, None)
	}
}

// decode reads the plan that is the first of a message's files, and returns the others.
func decode(fds []int, into any) ([]int, error) {
	if len(fds) == 0 {
		return nil, errors.New("a message without its plan")
	}
	text, err := readAll(fds[0])
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return nil, fmt.Errorf("decode the plan: %w", err)
	}
	unix.Close(fds[0])
	return fds[1:], nil
}

func retry5(f func() (int, int, int, unix.Sockaddr, error)) (n, oobn, flags int, from unix.Sockaddr, err error) {
	for {
		n, oobn, flags, from, err = f()
		if err != unix.EINTR {
			return
		}
	}
}

func readAll(fd int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	text := make([]byte, st.Size)
	for done := 0; done < len(text); {
		n, err := unix.Pread(fd, text[done:], int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, errors.New("the plan is cut short")
		}
		done += n
	}
	return text, nil
}

// reply answers the shim, with one file descriptor or None.
func reply(err error, fd int) {
	var r plan.Reply
	if err != nil {
		r.Error = err.Error()
		var errno syscall.Errno
		if errors.As(err, &errno) {
			r.Errno = int(errno)
		}
	}
	text, merr := json.Marshal(r)
	if merr != nil {
		text = []byte(`{"Error":"unknown"}`)
	}
	// The shim sees a closed socket if this fails.
	_ = send(text, fd)
}

func send(text []byte, fd int) error {
	var oob []byte
	if fd != None {
		oob = unix.UnixRights(fd)
	}
	for {
		err := unix.Sendmsg(Socket, text, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// at is the file descriptor at a position of those that came with a plan.
func at(fds []int, position int) (int, error) {
	if position < 0 || position >= len(fds) {
		return None, fmt.Errorf("the plan names descriptor %d of %d", position, len(fds))
	}
	return fds[position], nil
}
