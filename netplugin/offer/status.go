package offer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Status is what a Keeper's directory has in it.
type Status struct {
	Ready  int // offers that can be taken
	Taken  int // of containers
	Making int // in the making, or being taken back
	// LastError is why offers can't be kept as they should be, nil if they are.
	LastError error
}

// Status looks at the directory. It may be called at any time, by anybody.
func (k *Keeper) Status() Status {
	all, err := k.listAll()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		err = k.lastErr
	}
	return Status{len(all[ready]), len(all[taken]), len(all[making]), err}
}

// Drain withdraws all offers and takes apart all that no container has, and the
// directories if nothing is left. It is for a Keeper that doesn't run. After an error
// what it could not take apart is in making or done, and it can be called again.
func (k *Keeper) Drain(ctx context.Context) error {
	k.begin()
	ctx = k.logged(ctx)
	if _, err := os.Lstat(k.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := k.prepare(); err != nil {
		return err
	}
	all, err := k.listAll()
	if err != nil {
		return err
	}
	var errs error
	for _, name := range all[ready] {
		errs = errors.Join(errs, k.move(name, ready, making))
	}
	k.reclaim(ctx, all[taken], time.Now())
	for _, s := range []state{making, done} {
		names, err := k.list(s)
		if err != nil {
			return errors.Join(errs, err)
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return errors.Join(errs, err)
			}
			errs = errors.Join(errs, k.takeApart(ctx, s, name))
		}
	}
	return errors.Join(errs, k.removeDirs())
}

// removeDirs removes the directories that are empty. Where an offer is taken, done stays:
// a shim makes sure that it is there, and a moment later renames.
func (k *Keeper) removeDirs() error {
	for _, s := range []state{making, ready, taken, done, ""} {
		err := os.Remove(filepath.Join(k.Dir, string(s)))
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, unix.ENOTEMPTY):
			if s == taken {
				return nil
			}
		default:
			return fmt.Errorf("remove the directories of offers: %w", err)
		}
	}
	return nil
}
