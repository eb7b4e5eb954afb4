package pool

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/pool/priority"
)

// launch starts a shim that builds a part in a directory of its own, at low priority. It is
// a child of this process and in nothing else bound to it. init, if not nil, is the
// sealed program of its cube, which it gets as descriptor 3. The caller closes log, which has
// what the shim writes to its standard error also when it removed its directory.
func launch(shim, part string, init *os.File) (_ process, log *os.File, err error) {
	if err := os.Mkdir(part, 0o700); err != nil {
		return process{}, nil, fmt.Errorf("make a part: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(part))
		}
	}()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return process{}, nil, fmt.Errorf("make a part: %w", err)
	}
	defer null.Close()
	// A file, because a pipe would break when this process ends, and a program dies that
	// writes its errors there.
	log, err = os.OpenFile(filepath.Join(part, claim.LogFile), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return process{}, nil, fmt.Errorf("make a part: %w", err)
	}
	// What Go opens is closed in children. This is for what was passed on to this process;
	// before Linux 5.11 it would be passed on to parts, too.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	args, files := []string{shim, "-dir", part}, []uintptr{null.Fd(), null.Fd(), log.Fd()}
	if init != nil {
		args, files = append(args, "-init", "3"), append(files, init.Fd())
	}
	pid, err := priority.Low(func() (int, error) {
		return syscall.ForkExec(shim, args, &syscall.ProcAttr{
			Dir:   "/",
			Env:   environment(),
			Files: files,
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
	})
	if err != nil {
		return process{}, nil, errors.Join(fmt.Errorf("start %s: %w", shim, err), log.Close())
	}
	p, err := identify(pid)
	if err != nil {
		return process{pid: pid}, log, nil // it has ended already, and will be waited for
	}
	return p, log, nil
}

// environment is what a shim inherits: not the notifications and sockets of a daemon.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC", "INVOCATION_ID", "JOURNAL_STREAM":
		default:
			env = append(env, v)
		}
	}
	return env
}

// note writes a part's pid file unless the shim has: after a crash of ours it says whether
// the part is still in the making.
func note(part string, p process) error {
	f, err := os.OpenFile(filepath.Join(part, claim.PidFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return nil // it has, or is ready already
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d %d\n", p.pid, p.start)
	return errors.Join(err, f.Close())
}

// lastWords is the end of what a part wrote to its standard error.
func lastWords(log *os.File) string {
	const most = 500
	if log == nil {
		return ""
	}
	fi, err := log.Stat()
	if err != nil {
		return ""
	}
	text := make([]byte, min(fi.Size(), most))
	n, _ := log.ReadAt(text, fi.Size()-int64(len(text)))
	return strings.Join(strings.Fields(string(text[:n])), " ")
}

// reap waits for a child that has ended and returns how. ok is false while it runs.
func reap(pid int) (how string, ok bool) {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return "ended", true // not our child, or not any more
		case got == 0:
			return "", false
		case status.Signaled():
			return "killed by " + unix.SignalName(status.Signal()), true
		default:
			return fmt.Sprintf("exit status %d", status.ExitStatus()), true
		}
	}
}
