package cube

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/initproc"
	"github.com/peregrine-dev/peregrine/shim/plan"
)

// Exec is a further process of a container, before and while it starts. It is a child
// of this process.
type Exec struct {
	Pid    int
	socket int
}

// Exec starts the helper that becomes a further process of the container whose init
// pidfd is of. own is whether the container has a pid namespace of its own, to begin in.
func (b *Builder) Exec(pidfd *os.File, own bool) (*Exec, error) {
	var pidns *os.File
	if own {
		pidns = pidfd
	}
	pid, socket, err := b.launch("exec", 0, pidns)
	if err != nil {
		return nil, err
	}
	return &Exec{pid, socket}, nil
}

// Create brings the process in, up to its program; it was put into the container's
// cgroups before. files are the caller's, and so is console.
func (e *Exec) Create(p *plan.Exec, files []*os.File) (console *os.File, err error) {
	if err := send(e.socket, initproc.Exec, p, files); err != nil {
		return nil, err
	}
	return answer(e.socket)
}

// Start runs the program.
func (e *Exec) Start() error { return start(e.socket) }

// Close lets go of it: a process whose program doesn't run yet ends.
func (e *Exec) Close() error { return unix.Close(e.socket) }

// Pidfd opens a process.
func Pidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("pidfd_open", err))
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}
