package claim

import "syscall"

// The functions here are what package os would do, without what os does at start.

// retry repeats a system call that a signal interrupted; Go's runtime sends itself some.
func retry(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

func open(path string, flags int, mode uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = syscall.Open(path, flags|syscall.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// writeAll writes all of data. A failed write leaves a part of it.
func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := syscall.Write(fd, data)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// writeFile makes or replaces a file, not atomically.
func writeFile(path string, data []byte) error {
	fd, err := open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC, 0o600)
	if err != nil {
		return failed("write", path, err)
	}
	defer syscall.Close(fd)
	if err := writeAll(fd, data); err != nil {
		return failed("write", path, err)
	}
	return nil
}

// replaceFile makes or replaces a file in one step: nobody sees half of it.
func replaceFile(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := writeFile(tmp, data); err != nil {
		return err
	}
	if err := syscall.Rename(tmp, path); err != nil {
		return failed("rename", tmp, err)
	}
	return nil
}

// names lists a directory, without "." and "..". If some are enough, it
// ends after the first block that has entries.
func names(dir string, some bool) ([]string, error) {
	fd, err := open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, failed("open", dir, err)
	}
	defer syscall.Close(fd)
	var (
		all []string
		buf [4096]byte
	)
	for {
		n, err := syscall.ReadDirent(fd, buf[:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return nil, failed("list", dir, err)
		}
		if n <= 0 {
			return all, nil
		}
		if _, _, all = syscall.ParseDirent(buf[:n], -1, all); some && len(all) > 0 {
			return all, nil
		}
	}
}

// removeFlat deletes a directory of files. Of one that has directories, these remain.
func removeFlat(dir string) {
	all, err := names(dir, false)
	if err != nil {
		return
	}
	for _, name := range all {
		_ = syscall.Unlink(dir + "/" + name)
	}
	_ = syscall.Rmdir(dir)
}

// Exists tells whether something is at path, or may be: only a certain no is false. A
// link that leads nowhere is nothing.
func Exists(path string) bool {
	return syscall.Access(path, 0) != syscall.ENOENT
}
