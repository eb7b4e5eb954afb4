package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// OOM watches for processes killed, or on v1 stopped, because the cgroup ran out
// of memory. It needs one goroutine of its owner's to call Wait and no thread:
// it sleeps in Go's poller.
type OOM struct {
	dir   string
	file  *os.File
	v2    bool
	kills uint64
	// populated is whether the v2 cgroup was seen with processes.
	populated bool
	once      sync.Once
}

// OOM begins to watch; events from then on are seen even if Wait is called
// later. The caller closes it. An error wraps ErrFailedPrecondition where there
// is no memory controller, and ErrNotFound where the cgroup is gone.
func (c *Cgroup) OOM() (*OOM, error) {
	o := &OOM{v2: c.host.unified, dir: c.paths["memory"]}
	if o.v2 {
		o.dir = c.paths[""]
	}
	if o.dir == "" {
		return nil, fmt.Errorf("no memory hierarchy is mounted; mount it to see containers run out of memory: %w", errdefs.ErrFailedPrecondition)
	}
	var fd int
	var err error
	if o.v2 {
		fd, err = o.inotify()
	} else {
		fd, err = o.eventfd()
	}
	if err != nil {
		return nil, classify(fmt.Errorf("cannot watch for out of memory: %w", err))
	}
	o.file = os.NewFile(uintptr(fd), "oom")
	return o, nil
}

// eventfd has the kernel signal an eventfd for memory.oom_control
// (Documentation/admin-guide/cgroup-v1/memory.rst, section 10).
func (o *OOM) eventfd() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, err
	}
	control, err := open(o.dir, "memory.oom_control", unix.O_RDONLY)
	if err == nil {
		err = write(o.dir, "cgroup.event_control", fmt.Sprintf("%d %d", fd, control))
		_ = unix.Close(control)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// inotify watches memory.events, of which the kernel notifies as of a change to
// a file, and cgroup.events, which tells when the last process has left.
func (o *OOM) inotify() (int, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return -1, err
	}
	for _, f := range []string{"memory.events", "cgroup.events"} {
		if _, err := unix.InotifyAddWatch(fd, o.dir+"/"+f, unix.IN_MODIFY); err != nil {
			_ = unix.Close(fd)
			return -1, &os.PathError{Op: "watch", Path: o.dir + "/" + f, Err: err}
		}
	}
	if o.kills, err = o.count("memory.events", "oom_kill "); err == nil {
		var n uint64
		n, err = o.count("cgroup.events", "populated ")
		o.populated = n > 0
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// count is the number after key in a file of lines of keys and numbers.
func (o *OOM) count(file, key string) (uint64, error) {
	data, err := read(o.dir, file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(data) {
		if v, ok := strings.CutPrefix(line, key); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 10, 64)
		}
	}
	return 0, nil
}

// look reports what happened on v2 since it last looked: whether processes were
// killed, or io.EOF.
func (o *OOM) look() (killed bool, err error) {
	kills, err := o.count("memory.events", "oom_kill ")
	if err == nil && kills > o.kills {
		o.kills = kills
		return true, nil
	}
	var n uint64
	if err == nil {
		n, err = o.count("cgroup.events", "populated ")
	}
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV):
		return false, io.EOF
	case err != nil:
		return false, fmt.Errorf("cannot wait for out of memory: %w", err)
	case n == 0 && o.populated:
		// Its removal would not be told.
		return false, io.EOF
	}
	o.populated = n > 0
	return false, nil
}

// Wait blocks until the cgroup has run out of memory since the last Wait, once
// for any number of times. It returns io.EOF when the cgroup is gone, on v2 as
// soon as its last process is, and os.ErrClosed after Close. One goroutine at a
// time may call it.
func (o *OOM) Wait() error {
	buf := make([]byte, 512)
	for {
		if o.v2 {
			if killed, err := o.look(); killed || err != nil {
				return err
			}
		}
		n, err := o.file.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return os.ErrClosed
		}
		if err != nil {
			return fmt.Errorf("cannot wait for out of memory: %w", err)
		}
		if o.v2 {
			continue
		}
		// The kernel signals the removal of the cgroup as well.
		var st unix.Stat_t
		if err := unix.Stat(o.dir, &st); err != nil {
			return io.EOF
		}
		if n == 8 && binary.NativeEndian.Uint64(buf) > 0 {
			return nil
		}
	}
}

// Close ends the watch; a Wait in progress returns. It may be called again and
// from any goroutine.
func (o *OOM) Close() error {
	var err error
	o.once.Do(func() { err = o.file.Close() })
	return err
}
