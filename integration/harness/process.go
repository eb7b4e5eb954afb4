package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a daemon that the harness started. It dies with the harness.
type Process struct {
	Name string
	Log  string // file with its output
	Pid  int

	ended chan struct{}
	err   error // valid once ended is closed
}

// start runs a program with its output in log. The environment is PATH and env.
func start(log, path string, env []string, program string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &Process{Name: filepath.Base(program), Log: log, ended: make(chan struct{})}
	cmd := exec.Command(program, args...)
	cmd.Env = append(append(os.Environ(), "PATH="+path), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() {
		// The death signal comes when this thread ends, so it waits as well.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.Pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	return p, nil
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Stop sends SIGTERM and waits; a process that does not end in time is killed, and that
// is an error.
func (p *Process) Stop() error {
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("%s: %w\n%s", p.Name, p.err, p.tail())
		}
		return nil
	case <-time.After(30 * time.Second):
		return errors.Join(fmt.Errorf("%s did not end on SIGTERM\n%s", p.Name, p.tail()), p.Kill())
	}
}

// Kill sends SIGKILL and waits.
func (p *Process) Kill() error {
	err := p.Signal(unix.SIGKILL)
	<-p.ended
	return err
}

// Signal sends a signal; to a process that has ended it does nothing.
func (p *Process) Signal(s unix.Signal) error {
	select {
	case <-p.ended:
		return nil
	default:
		if err := unix.Kill(p.Pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal %s: %w", p.Name, err)
		}
		return nil
	}
}

// ready waits until try succeeds, the process ends, or ctx is done.
func (p *Process) ready(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", p.Name, p.err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready in time: %w\n%s", p.Name, err, p.tail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// tail is the end of the process's log, for error messages.
func (p *Process) tail() string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
