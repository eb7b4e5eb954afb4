package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// First and longest pause between two attempts to remove a busy cgroup. runc
// begins with as much.
const (
	deletePause    = time.Millisecond
	deletePauseMax = 100 * time.Millisecond
)

// Delete removes the cgroup and the sub-cgroups the container made in it from
// every hierarchy. A process that is dying keeps a cgroup busy for a moment, so
// Delete tries again, with growing pauses, until ctx ends. It does not kill: see
// Kill. Parents stay, as runc leaves them. What is gone already is no error, so
// Delete may be called again. An error wraps ErrFailedPrecondition while
// processes remain.
func (c *Cgroup) Delete(ctx context.Context) error {
	left := c.dirs
	pause := deletePause
	for {
		var busy []member
		var last error
		for _, m := range left {
			if err := remove(m.dir); err != nil {
				busy = append(busy, m)
				last = err
			}
		}
		if len(busy) == 0 {
			return nil
		}
		left = busy
		if !errors.Is(last, unix.EBUSY) {
			return classify(fmt.Errorf("cannot remove cgroup: %w", last))
		}
		select {
		case <-ctx.Done():
			pids, _ := tree(busy[0].dir)
			return fmt.Errorf("cgroup %s still has processes %v; kill them first: %w: %w: %w", busy[0].dir, pids, last, context.Cause(ctx), errdefs.ErrFailedPrecondition)
		case <-time.After(pause):
		}
		pause = min(2*pause, deletePauseMax)
	}
}

// remove removes dir and what is below it; EBUSY says that it has processes.
func remove(dir string) error {
	err := rmdir(dir)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	// v1 and v2 say EBUSY for sub-cgroups too.
	for _, sub := range children(dir) {
		if err := remove(sub); err != nil {
			return err
		}
	}
	return rmdir(dir)
}

func rmdir(dir string) error {
	for {
		err := unix.Rmdir(dir)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.ENOTEMPTY):
			err = unix.EBUSY
			fallthrough
		case !errors.Is(err, unix.EINTR):
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
}
