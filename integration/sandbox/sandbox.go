// Package sandbox runs a program where it can leave nothing behind: in process and
// mount namespaces of its own. When it ends, however it ends, the kernel ends every
// process it started, and takes its mounts and the loop devices under them with it.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

// variable tells the copies of the program apart: without it, it is the caller's; then
// comes init, then the inside.
const variable = "PEREGRINE_SANDBOX"

// stage is what variable said. Programs that this one starts are not told: they may make
// sandboxes of their own.
var stage = func() string {
	s := os.Getenv(variable)
	os.Unsetenv(variable)
	return s
}()

// Run makes the rest of the program run inside. On the outside it does not return
// until the inside has ended: then done is true and code is its exit code. Inside, it
// returns at once with done false. SIGINT and SIGTERM reach the inside, once.
//
// It needs root. It must be called before anything else is started.
func Run(ctx context.Context) (code int, done bool, err error) {
	switch stage {
	case "inside":
		return 0, false, nil
	case "init":
		code, err := initProcess()
		return code, true, err
	}
	// The signal that follows the parent's death is tied to the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	cmd := again("init")
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
		Setpgid:    true, // a terminal's ^C comes from here, once
	}
	if err := cmd.Start(); err != nil {
		return 1, true, fmt.Errorf("start in namespaces of its own: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case <-ctx.Done():
			_ = cmd.Process.Signal(unix.SIGTERM)
			ctx = context.Background()
		case err := <-ended:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = nil
			}
			return cmd.ProcessState.ExitCode(), true, err
		}
	}
}

// initProcess is process 1 of the namespaces: it prepares them, starts the program
// again, and reaps whoever loses its parent.
func initProcess() (int, error) {
	if err := prepare(); err != nil {
		return 1, err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	cmd := again("inside")
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait for children: %w", err)
		case pid == cmd.Process.Pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		case pid == cmd.Process.Pid:
			return status.ExitStatus(), nil
		}
	}
}

// prepare cuts the mount namespace off from the host's and gives it a /proc and a
// /run of its own.
func prepare() error {
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	} {
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

func again(next string) *exec.Cmd {
	// Not /proc/self/exe: that is another program once /proc is another.
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), variable+"="+next)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}
