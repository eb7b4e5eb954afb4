package sidecar

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// process is the application's, a child.
type process struct {
	child  *os.Process
	exited chan struct{} // closed when the child has ended
	status int           // valid then: as a shell has it, 128 and the signal if that ended it
}

// startProcess runs a command with the caller's streams. In a container its parent is process 1,
// to which all processes come that lose theirs: they are reaped too.
func startProcess(command, env []string) (*process, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return nil, fmt.Errorf("the application: %w", err)
	}
	child, err := os.StartProcess(path, command, &os.ProcAttr{
		Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return nil, fmt.Errorf("start the application: %w", err)
	}
	p := &process{child: child, exited: make(chan struct{})}
	whom := child.Pid
	if os.Getpid() == 1 {
		whom = -1
	}
	go p.reap(whom)
	return p, nil
}

// reap waits for children until the application has ended, which whoever started it makes sure
// of.
func (p *process) reap(whom int) {
	defer close(p.exited)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(whom, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // it is nobody's child: somebody else has reaped it
			p.status = 1
			return
		case pid == p.child.Pid && status.Signaled():
			p.status = 128 + int(status.Signal())
			return
		case pid == p.child.Pid:
			p.status = status.ExitStatus()
			return
		}
	}
}

// signal sends the application a signal, if it still runs.
func (p *process) signal(s os.Signal) error {
	if err := p.child.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send the application %s: %w", s, err)
	}
	return nil
}
