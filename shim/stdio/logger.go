package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

const (
	// loggerDrain is what a logging binary gets to see the end of its input and leave.
	loggerDrain = 500 * time.Millisecond
	// loggerTerm is what it gets after SIGTERM, as in containerd-shim-runc-v2.
	loggerTerm = 12 * time.Second
)

// logger is a program that takes the outputs of the process.
type logger struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been reaped
}

// openLogger starts the logging binary and gives it the process's outputs.
func (s *IO) openLogger(ctx context.Context, namespace, id string, u *url.URL, uid, gid int) error {
	if namespace == "" {
		return fmt.Errorf("a logging binary needs containerd's namespace: %w", errdefs.ErrFailedPrecondition)
	}
	var outs [2]*os.File
	for i := range outs {
		w, r, err := pipe(uid, gid, noneOurs)
		if err != nil {
			return err
		}
		defer r.Close() // The binary has its own by then.
		s.child[i+1], outs[i] = w, r
	}
	if s.terminal {
		// The terminal is copied into the first. Nothing goes into the second: it ends.
		w, err := nonblocking(s.child[1])
		s.CloseChild()
		if err != nil {
			return err
		}
		s.outputs = append(s.outputs, &output{name: "stdout", dst: &sink{File: w}})
	}
	var err error
	s.logger, err = startLogger(ctx, s.log, loggerCmd(u, namespace, id, outs), u.Scheme == "binary-v2")
	return err
}

// nonblocking returns a file for f that the runtime's poller serves.
func nonblocking(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make %s not block: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// loggerCmd is the interface between a shim and a logging binary: the query gives the
// arguments, each key followed by its first value; the environment names the process;
// 3 and 4 are the outputs, 5 says that it is ready (core/runtime/v2/README.md of
// containerd). The arguments come in the order of the keys.
func loggerCmd(u *url.URL, namespace, id string, outs [2]*os.File) *exec.Cmd {
	query := u.Query()
	keys := make([]string, 0, len(query))
	for k := range query {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var args []string
	for _, k := range keys {
		args = append(args, k, query[k][0])
	}
	cmd := exec.Command(u.Path, args...)
	cmd.Env = []string{"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + namespace}
	cmd.ExtraFiles = outs[:]
	return cmd
}

// startLogger starts a logging binary and waits until it says that it is ready, by
// closing descriptor 5; with strict it must write a byte first, so that one that
// crashed isn't taken for ready.
func startLogger(ctx context.Context, entry *log.Entry, cmd *exec.Cmd, strict bool) (*logger, error) {
	ready, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for the logging binary: %w", err)
	}
	defer ready.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, w)
	exits, err := reaper.Default.Start(cmd)
	w.Close()
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to start binary process: %w", err)
	}
	l := &logger{cmd: cmd, done: make(chan struct{})}
	go func() {
		// The pidfd would stay until the collector comes. It goes after done is closed,
		// so that kill can tell.
		defer func() { _ = cmd.Process.Release() }()
		defer close(l.done)
		if status, err := reaper.Default.Wait(cmd, exits); err != nil || status != 0 {
			entry.WithError(err).Warnf("logging binary %s exited with status %d", cmd.Path, status)
		}
	}()

	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := ready.Read(make([]byte, 1))
	switch {
	case ctx.Err() != nil && n == 0:
		err = ctx.Err()
	case err == io.EOF:
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("failed to read from logging binary %s: %w", cmd.Path, err)
	} else if strict && n == 0 {
		err = fmt.Errorf("logging binary %s did not call ready (it may have crashed or exited prematurely): %w", cmd.Path, errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, errors.Join(err, l.kill())
	}
	return l, nil
}

// stop waits for the logging binary, whose inputs have ended if nobody else holds
// them, and makes it leave when it doesn't. The stock shim asks at once; a plain
// program such as cat would then lose what is in its pipes.
func (l *logger) stop(entry *log.Entry) error {
	if l.exited(loggerDrain) {
		return nil
	}
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return l.kill()
	}
	if l.exited(loggerTerm) {
		return nil
	}
	entry.Warnf("logging binary %s ignores SIGTERM, killing it", l.cmd.Path)
	return l.kill()
}

// exited says whether the binary is gone within d.
func (l *logger) exited(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.done:
		return true
	case <-t.C:
		return false
	}
}

// kill ends the binary without waiting for it. It can't hit another process with the
// same number: os.Process holds a pidfd.
func (l *logger) kill() error {
	err := l.cmd.Process.Kill()
	if err == nil || errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	select {
	case <-l.done: // It may be released by now, which has no error of its own.
		return nil
	default:
	}
	return fmt.Errorf("kill the logging binary %s: %w", l.cmd.Path, err)
}
