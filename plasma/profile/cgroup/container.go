// Package cgroup reads what containers use, directly from their cgroups (version 1, 2, or some
// controllers of each) and their network namespaces. Descriptors stay open between readings: a
// reading costs some microseconds, a hundredth of asking containerd.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Descriptors is how many a Container holds at most.
const Descriptors = 6

const (
	// none is no descriptor.
	none = -1
	// seldom is which of its readings reads the memory's statistics, which cost more than all
	// else together, for a part that changes slowly.
	seldom = 4
)

var (
	legacyCPU      = []string{"throttled_time"}
	unifiedCPU     = []string{"usage_usec", "throttled_usec"}
	legacyInactive = []string{"total_inactive_file"}
	inactive       = []string{"inactive_file"}
)

// Container is one that is read. It is of one process: when that ends, so do its readings,
// whoever gets its number next. It is not for several goroutines at once. Close it after use: as
// long as it is open, a network namespace that it reads stays.
type Container struct {
	pid  int
	path string

	process int // pidfd
	network int // net/dev; none if the network is the host's

	legacy  bool // of the processor's controllers
	usage   int  // version 1 only
	cpu     int
	memory  int
	stat    int
	file    []string // that memory's statistics name
	scratch [2]uint64

	inactive [1]uint64 // bytes, of the last time that statistics were read
	reads    int
}

// Open opens a process's container. A cgroup, if it isn't empty, is where its processes are, as
// /proc/PID/cgroup has it for the processor, or the end of that: the process must be in it.
// errdefs.ErrNotFound: there is no such process, or it is elsewhere.
func (h *Hierarchies) Open(pid int, cgroup string) (_ *Container, err error) {
	c := &Container{pid: pid, process: none, network: none, usage: none, cpu: none, memory: none, stat: none}
	defer func() {
		if err != nil {
			c.Close()
			err = fmt.Errorf("container of process %d: %w", pid, gone(err))
		}
	}()
	if c.process, err = unix.PidfdOpen(pid, 0); err != nil {
		c.process = none
		return nil, err
	}
	dir := "/proc/" + strconv.Itoa(pid)
	text, err := os.ReadFile(dir + "/cgroup")
	if err != nil {
		return nil, err
	}
	if err := c.open(h, membership(string(text)), cgroup); err != nil {
		return nil, err
	}
	own, err := namespaceOf(dir)
	if err != nil {
		return nil, err
	}
	if own != h.network {
		if c.network, err = file(dir, "net/dev"); err != nil {
			return nil, err
		}
	}
	return c, c.alive() // or it was of another process
}

func (c *Container) open(h *Hierarchies, of map[string]string, cgroup string) error {
	dir, legacy, err := h.directory(of, "cpu", cgroup)
	if err != nil {
		return err
	}
	c.path, c.legacy = dir, legacy
	if legacy {
		account, _, err := h.directory(of, "cpuacct", cgroup)
		if err != nil {
			return err
		}
		if c.usage, err = file(account, "cpuacct.usage"); err != nil {
			return err
		}
	}
	if c.cpu, err = file(dir, "cpu.stat"); err != nil {
		return err
	}
	dir, legacy, err = h.directory(of, "memory", cgroup)
	if err != nil {
		return err
	}
	name := "memory.current"
	c.file = inactive
	if legacy {
		name, c.file = "memory.usage_in_bytes", legacyInactive
	}
	// A unified hierarchy need not count memory.
	if c.memory, err = file(dir, name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if c.stat, err = file(dir, "memory.stat"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func file(dir, name string) (int, error) {
	path := filepath.Join(dir, name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return none, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// buffers are for one file each. Those of cgroups are some hundred bytes, or thousands.
var buffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// Read reads. errdefs.ErrNotFound: the process has ended, or its cgroup was removed.
func (c *Container) Read() (r Reading, err error) {
	buffer := buffers.Get().(*[16 << 10]byte)
	defer buffers.Put(buffer)
	defer func() {
		if err != nil {
			err = fmt.Errorf("read container of process %d: %w", c.pid, gone(err))
		}
	}()
	r.At = time.Now()
	if err := c.readCPU(&r, buffer[:]); err != nil {
		return Reading{}, err
	}
	if err := c.readMemory(&r, buffer[:]); err != nil {
		return Reading{}, err
	}
	if c.network != none {
		if r.Network, err = c.readNetwork(buffer[:]); err != nil {
			return Reading{}, err
		}
	}
	return r, c.alive()
}

func (c *Container) readCPU(r *Reading, buffer []byte) error {
	text, err := read(c.cpu, buffer)
	if err != nil {
		return err
	}
	v := &c.scratch
	if !c.legacy {
		v[1] = 0 // not there unless the controller is on
		if fields(text, unifiedCPU, v[:]); !fields(text, unifiedCPU[:1], v[:1]) {
			return fmt.Errorf("cpu.stat has no usage: %w", errdefs.ErrInvalidArgument)
		}
		r.CPU, r.Throttled = time.Duration(v[0])*time.Microsecond, time.Duration(v[1])*time.Microsecond
		return nil
	}
	if fields(text, legacyCPU, v[:1]) {
		r.Throttled = time.Duration(v[0])
	}
	if text, err = read(c.usage, buffer); err != nil {
		return err
	}
	n, err := number(text)
	r.CPU = time.Duration(n)
	return err
}

func (c *Container) readMemory(r *Reading, buffer []byte) error {
	if c.memory == none {
		return nil
	}
	text, err := read(c.memory, buffer)
	if err != nil {
		return err
	}
	if r.Memory, err = number(text); err != nil || c.stat == none {
		return err
	}
	if c.reads++; c.reads%seldom == 1 {
		if text, err = read(c.stat, buffer); err != nil {
			return err
		}
		fields(text, c.file, c.inactive[:])
	}
	r.Memory -= min(r.Memory, c.inactive[0])
	return nil
}

// readNetwork reads the interfaces' counters.
func (c *Container) readNetwork(buffer []byte) (uint64, error) {
	n := 0
	for n < len(buffer) { // it gives a page at a time
		more, err := unix.Pread(c.network, buffer[n:], int64(n))
		if err != nil && err != unix.EINTR {
			return 0, fmt.Errorf("read net/dev: %w", err)
		}
		if err == nil && more == 0 {
			break
		}
		n += max(0, more)
	}
	return traffic(buffer[:n]), nil
}

// read reads a file of a cgroup, which gives all there is at once.
func read(fd int, buffer []byte) ([]byte, error) {
	for {
		n, err := unix.Pread(fd, buffer, 0)
		if err == nil {
			return buffer[:n], nil
		}
		if err != unix.EINTR {
			return nil, err
		}
	}
}

// Path is the directory of the cgroup that counts the processor's time.
func (c *Container) Path() string { return c.path }

// Network opens the container's network namespace, for the caller to close; nil if it is the
// host's. errdefs.ErrNotFound: the process has ended.
func (c *Container) Network() (*os.File, error) {
	if c.network == none {
		return nil, nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.pid))
	if err != nil {
		return nil, fmt.Errorf("network namespace of process %d: %w", c.pid, gone(err))
	}
	if err := c.alive(); err != nil { // it may be another process's
		f.Close()
		return nil, gone(err)
	}
	return f, nil
}

// alive fails if the process has ended, even if nobody has waited for it yet.
func (c *Container) alive() error {
	fds := []unix.PollFd{{Fd: int32(c.process), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("poll process %d: %w", c.pid, err)
		case n > 0:
			return fmt.Errorf("process %d has ended: %w", c.pid, unix.ESRCH)
		default:
			return nil
		}
	}
}

// Close gives the descriptors back. It may be called again.
func (c *Container) Close() {
	for _, fd := range []*int{&c.process, &c.network, &c.usage, &c.cpu, &c.memory, &c.stat} {
		if *fd != none {
			unix.Close(*fd)
			*fd = none
		}
	}
}

// gone says in errdefs' terms that there is nothing (any more).
func gone(err error) error {
	for _, e := range []error{unix.ESRCH, unix.ENOENT, unix.ENODEV, unix.EINVAL} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		}
	}
	return err
}
