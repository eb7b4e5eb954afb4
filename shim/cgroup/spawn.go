package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Prime has the kernel prepare for processes to change cgroups, and returns when
// it is ready: 5 to 20 ms. For about as long after, Create and Add do not wait;
// without it the first of them waits in its stead. So a shim calls Prime in a
// goroutine the moment it is claimed, long before it has read the spec.
//
// Writing cgroup.procs takes a lock for writing (cgroup_threadgroup_rwsem) whose
// readers, all forks, take it without an atomic operation. The first writer must
// therefore wait for an RCU grace period, and writers in the next grace period
// need not (kernel/rcu/sync.c). Prime moves this process to where it is. On hosts
// whose hierarchies are mounted with favordynmods there is no wait.
//
// Prime is safe for concurrent use. Its error is for the log: nothing depends
// on it.
func (h *Host) Prime() error {
	now, err := h.Below(os.Getpid())
	if err != nil {
		return err
	}
	s := ""
	if _, ok := h.mounts[s]; !ok {
		s = "devices"
	}
	return classify(write(now.home(s), "cgroup.procs", fmt.Sprint(os.Getpid())))
}

// Spawn calls start on a thread that is in the container's v1 cgroups, so that
// the process it starts is born there, and hands it a descriptor of the v2
// directory for clone3 with CLONE_INTO_CGROUP (SysProcAttr.CgroupFD), or -1 to
// leave that out. The new process is then in every hierarchy without the wait
// that Add means ([Host.Prime]). Only one thread of this process is in the
// cgroup, for the time of start, and only on v1. The thread lives on, so
// Pdeathsig is not set off.
//
// start must do no more than start the process, on its own goroutine, and return
// its pid. Where the container's limits forbid one more process, or its init has
// moved to a sub-cgroup of v2, so that none can be born there, Spawn calls start
// again with -1 and then adds the process, which limits do not hinder; runc
// starts every process so. Any other error of start is returned as it is. When
// the process cannot be added it is killed, and the caller must still reap it.
//
// Spawn must not be used while the cgroup is frozen: the thread would freeze with
// it.
func (c *Cgroup) Spawn(start func(cgroup int) (pid int, err error)) error {
	fd := -1
	if _, ok := c.paths[""]; ok {
		dir, err := c.Dir()
		if err != nil {
			return err
		}
		defer func() { _ = dir.Close() }()
		fd = int(dir.Fd())
	}
	born := func() error {
		_, err := start(fd)
		return err
	}
	var err error
	if c.host.unified {
		err = born()
	} else {
		done := make(chan error, 1)
		go c.onThread(born, done)
		err = <-done
	}
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	pid, err := start(-1)
	if err != nil {
		return err
	}
	if err := c.Add(pid); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return err
	}
	return nil
}

// onThread runs f on a thread moved into the v1 cgroups and back.
func (c *Cgroup) onThread(f func() error, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread stands for the whole process: its memory would be
		// charged to the container. Hold it while another does it.
		defer runtime.UnlockOSThread()
		inner := make(chan error, 1)
		go c.onThread(f, inner)
		done <- <-inner
		return
	}
	var back []string
	var err error
	for _, m := range c.dirs {
		if m.subsystem == "" {
			continue
		}
		// 0 is the writing thread; moving itself it needs no lock.
		if err = write(m.dir, "tasks", "0"); err != nil {
			err = classify(fmt.Errorf("cannot enter the cgroup to start a process in it: %w", err))
			break
		}
		back = append(back, m.subsystem)
	}
	if err == nil {
		err = f()
	}
	clean := true
	if len(back) > 0 {
		clean = c.leave(back) == nil
	}
	if clean {
		runtime.UnlockOSThread()
	}
	// A thread that could not leave ends with this goroutine.
	done <- err
}

// leave moves this thread back beside the process's main thread.
func (c *Cgroup) leave(subsystems []string) error {
	now, err := c.host.Below(os.Getpid())
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range subsystems {
		errs = append(errs, write(now.home(s), "tasks", "0"))
	}
	return errors.Join(errs...)
}

// home is the directory of this process's own cgroup in the hierarchy of the
// subsystem, for processes that must leave a container's.
func (h *Host) home(subsystem string) string {
	v := h.mounts[subsystem]
	rel, err := filepath.Rel(v.Root, h.own[subsystem])
	if err != nil || strings.HasPrefix(rel, "..") {
		rel = ""
	}
	return filepath.Join(v.Mountpoint, rel)
}
