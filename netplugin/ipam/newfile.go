package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// newFile makes a file that is complete from when it has its name. It reports false if
// the name is taken.
func newFile(dir, name, content string) (bool, error) {
	made, err := nameless(dir, name, content)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		// The filesystem has no nameless files, or /proc isn't there.
		made, err = renamed(dir, name, content)
	}
	if err != nil {
		return false, fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
	}
	return made, nil
}

// nameless leaves nothing when it is killed: see O_TMPFILE in open(2).
func nameless(dir, name, content string) (bool, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		return false, err
	}
	return linked(fmt.Sprintf("/proc/self/fd/%d", fd), filepath.Join(dir, name))
}

// renamed leaves a file with a name that means nothing when it is killed; the next call
// for the same name overwrites it.
func renamed(dir, name, content string) (bool, error) {
	draft := filepath.Join(dir, ".new-"+name)
	if err := os.WriteFile(draft, []byte(content), 0o600); err != nil {
		return false, err
	}
	defer os.Remove(draft)
	return linked(draft, filepath.Join(dir, name))
}

func linked(from, to string) (bool, error) {
	err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	return err == nil, err
}
