package pool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// program is flashcube-init in memory that nobody can write to, of which all parts built by
// one keeper share the pages.
type program struct {
	path string
	from executable // the file that was copied
	file *os.File   // nil before the first copy
}

// open returns the copy, a new one if the file is another one by now. It stays p's.
func (p *program) open() (*os.File, error) {
	now, err := executableAt(p.path)
	if err != nil {
		return nil, fmt.Errorf("find the init of containers: %w; reinstall it", err)
	}
	if p.file != nil && now == p.from {
		return p.file, nil
	}
	file, err := seal(p.path)
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", p.path, err)
	}
	p.Close()
	p.file, p.from = file, now
	return file, nil
}

// Close lets go of the copy; parts keep theirs.
func (p *program) Close() {
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
}

// seal copies a file to a sealed memfd.
func seal(path string) (_ *os.File, err error) {
	from, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	fd, err := unix.MemfdCreate("flashcube-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 memory is executable without being asked
		fd, err = unix.MemfdCreate("flashcube-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "flashcube-init")
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if _, err := io.Copy(file, from); err != nil {
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, os.NewSyscallError("seal", err)
	}
	return file, nil
}

// installed is when a file last became what it is, by a clock that may have been set
// since: a time to come is none.
func installed(path string, now time.Time) time.Time {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return time.Time{}
	}
	if at := time.Unix(st.Ctim.Unix()); at.Before(now) {
		return at
	}
	return time.Time{}
}
