package ipam

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

const (
	// delay is how long a plugin's output may stay open when the plugin has ended or was
	// killed: processes that it has started may have it too.
	delay = 2 * time.Second
	// busyTries is how often a plugin is executed that is just being written, a second apart.
	busyTries = 6
)

// executor implements invoke.Exec. Other than the library's own, it ends when the context
// is done, whatever the plugin has started, and the plugin dies with this process. What a
// plugin that fails writes to its standard error is part of its error.
type executor struct{ invoke.DefaultExec }

func (executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	// "Parent" is a thread where prctl(2) speaks of PR_SET_PDEATHSIG, so this one must
	// not end before the plugin.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for try := 1; ; try++ {
		stdout, err := execOnce(ctx, path, stdin, environ)
		if !errors.Is(err, unix.ETXTBSY) || try == busyTries {
			return stdout, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func execOnce(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, path)
	c.Env, c.Stdin, c.Stdout, c.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	c.WaitDelay = delay
	c.Cancel = func() error {
		err := unix.Kill(-c.Process.Pid, unix.SIGKILL) // and what it has started
		if errors.Is(err, unix.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	err := c.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it has ended well, and left something running
		return stdout.Bytes(), nil
	case c.ProcessState == nil:
		return nil, err // it didn't start
	}
	return nil, failed(err, stdout.Bytes(), stderr.Bytes())
}

// failed is the error that a plugin has written, or what there is in its place.
func failed(err error, stdout, stderr []byte) error {
	var e types.Error
	if len(stdout) > 0 {
		unreadable := json.Unmarshal(stdout, &e)
		if unreadable == nil {
			return &e
		}
		err = fmt.Errorf("%w; it wrote %q, which is no CNI error: %w", err, stdout, unreadable)
	}
	if len(stderr) > 0 {
		err = fmt.Errorf("%w; it says %q", err, stderr)
	}
	return fmt.Errorf("the plugin failed: %w", err)
}
