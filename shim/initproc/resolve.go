package initproc

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const maxSymlinks = 255 // as filepath-securejoin and runc have it

var errNotExist error = unix.ENOENT

// lookup opens an existing path below a root with O_PATH; no symlink leads out of it.
// ENOENT and ENOTDIR say that it isn't there.
func lookup(root int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(root, path, &how)
		// EAGAIN: something was renamed meanwhile, and ".." might have escaped.
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
}

// provide is lookup that makes what is missing: directories, and at the end of path a
// directory or an empty file. Symlinks to what isn't there are followed, within root.
func provide(root int, path string, file bool) (int, error) {
	fd, err := lookup(root, path)
	if err != errNotExist {
		return fd, err
	}
	return create(root, path, file)
}

// create walks path a component at a time, with the open directories from the root down
// as its memory: ".." is the one before, whatever was renamed meanwhile.
func create(root int, path string, file bool) (_ int, err error) {
	dirs := []int{root}
	defer func() {
		for _, fd := range dirs[1:] {
			unix.Close(fd)
		}
	}()
	todo := strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		dir := dirs[len(dirs)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(dirs) > 1 {
				unix.Close(dir)
				dirs = dirs[:len(dirs)-1]
			}
			continue
		}
		fd, err := open(dir, name, file && last(todo))
		if err != nil {
			return None, fmt.Errorf("%s of %s: %w", name, path, err)
		}
		target, err := readlink(fd)
		if err == unix.EINVAL || err == unix.ENOENT { // not a symlink
			dirs = append(dirs, fd)
			continue
		}
		unix.Close(fd)
		if err != nil {
			return None, err
		}
		if links++; links > maxSymlinks {
			return None, fmt.Errorf("%s: %w", path, unix.ELOOP)
		}
		if strings.HasPrefix(target, "/") {
			for _, fd := range dirs[1:] {
				unix.Close(fd)
			}
			dirs = dirs[:1]
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	fd := dirs[len(dirs)-1]
	if len(dirs) == 1 {
		return unix.FcntlInt(uintptr(root), unix.F_DUPFD_CLOEXEC, 0)
	}
	dirs = dirs[:len(dirs)-1]
	return fd, nil
}

// last reports whether no name is left.
func last(todo []string) bool {
	for _, name := range todo {
		if name != "" && name != "." {
			return false
		}
	}
	return true
}

// open opens a name in a directory, itself and not what it links to, and makes it first
// if need be.
func open(dir int, name string, file bool) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.ENOENT {
			return fd, err
		}
		if file {
			fd, err = unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o755)
			if err == nil {
				unix.Close(fd)
			}
		} else {
			err = unix.Mkdirat(dir, name, 0o755)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return None, err
		}
	}
}

func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
