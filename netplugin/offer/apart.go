package offer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// takeApart ends an offer that is in making or done. If it fails, or is cut short, it can
// be done again.
func (k *Keeper) takeApart(ctx context.Context, s state, name string) error {
	if isID(name) {
		if err := k.Maker.Detach(ctx, name); err != nil {
			return fmt.Errorf("detach %s: %w", name, err)
		}
	}
	return remove(k.path(s, name))
}

// remove removes the files of an offer; what is there may be something else. It doesn't
// go into directories: who knows what is mounted there.
func remove(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := unmount(filepath.Join(path, namespaceFile)); err != nil {
			return err
		}
		entries, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if err := remove1(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return remove1(path)
}

func remove1(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; remove it by hand if it isn't of an offer", err)
	}
	return nil
}
