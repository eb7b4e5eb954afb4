package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Lock claims a root, which it makes, for this process: one daemon, or one command that
// does its work without it. The kernel lets go of it when the process dies; the caller
// closes it. It is ErrFailedPrecondition while another process has it.
func Lock(root string) (*os.File, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("create the root: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the root %s: %w; make it writable or choose another root", root, err)
	}
	// A daemon that is killed while it starts a program leaves a child that shares
	// its lock until it is that program. Another daemon holds it for longer.
	deadline := time.Now().Add(time.Second)
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process uses the root %s; stop it first: %w", root, errdefs.ErrFailedPrecondition)
		}
		return nil, fmt.Errorf("lock the root %s: %w", root, err)
	}
	return f, nil
}
