// Package priority runs the building of a part behind other work, and gives the part the
// usual priority when it is ready: what runs in a container has nice 0, as with any runtime.
//
// It is a modest nice and neither 19 nor SCHED_IDLE. On a host that is busy for long, with
// nice 19 a part took three times as long as with none, 1 s, and the pool was empty when it was
// needed: then containers start cold, which costs the same work at full priority, and waits for
// it. And making namespaces takes locks of the whole kernel: a task that is hardly ever
// scheduled while it holds them stops everybody. What keeps builds out of the way of a burst
// of starts is that they wait.
//
// Where the scheduler groups sessions (sched_autogroup, sched(7)), nice counts within one
// only, so the session's group is set too.
package priority

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// low has about a third of the weight of nice 0, kernel/sched/core.c.
const low = 5

// Restorable tells whether this process, and the like of it, may raise a priority that was
// lowered: a process may always lower it, but needs CAP_SYS_NICE or RLIMIT_NICE to get
// back. See setpriority(2).
func Restorable() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err == nil && data[0].Effective&(1<<unix.CAP_SYS_NICE) != 0 {
		return true
	}
	var limit unix.Rlimit
	// The limit is 20 - nice.
	return unix.Getrlimit(unix.RLIMIT_NICE, &limit) == nil && limit.Cur >= 20
}

// Low runs start, which starts a process in a session of its own, such that all of that
// process is at low priority, and returns its id. Where that couldn't be undone it only
// runs start.
func Low(start func() (pid int, err error)) (pid int, err error) {
	if !Restorable() {
		return start()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A child inherits from the thread that makes it. The thread ends with this goroutine
		// because it stays locked.
		runtime.LockOSThread()
		if err = unix.Setpriority(unix.PRIO_PROCESS, 0, low); err == nil {
			pid, err = start()
		}
	}()
	<-done
	if err == nil {
		// Without the file there are no such groups; a process that is gone needs none.
		_ = setGroup(pid, low)
	}
	return pid, err
}

// Normal gives every thread of a process, and its session's group, nice 0. It is called
// when no process of the session needs another one. A process that has ended is
// [unix.ESRCH].
func Normal(pid int) error {
	if err := setGroup(pid, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reset the priority of a session: %w", err)
	}
	// A thread that is made meanwhile has its maker's priority: look again until all is well.
	for range 100 {
		changed, err := normalThreads(pid)
		if err != nil {
			return fmt.Errorf("reset the priority of process %d: %w", pid, err)
		}
		if !changed {
			return nil
		}
	}
	return fmt.Errorf("reset the priority of process %d: its threads keep changing", pid)
}

func normalThreads(pid int) (changed bool, err error) {
	tids, err := threads(pid)
	if err != nil {
		return false, err
	}
	for _, tid := range tids {
		nice, err := Nice(tid)
		if err == nil && nice != 0 {
			changed = true
			err = unix.Setpriority(unix.PRIO_PROCESS, tid, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // ended
			return changed, err
		}
	}
	return changed, nil
}

// Nice returns the nice value of a thread, -20 to 19.
func Nice(tid int) (int, error) {
	v, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	return 20 - v, err // the system call returns 20 - nice, 1 to 40
}

func threads(pid int) ([]int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unix.ESRCH
	}
	if err != nil {
		return nil, err
	}
	var tids []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

// setGroup sets the nice value of a session's group of the scheduler.
func setGroup(pid, nice int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/autogroup", pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(nice))
	if errors.Is(err, unix.EINVAL) {
		err = nil // the session of the first process is in no group, kernel/sched/autogroup.c
	}
	return errors.Join(err, f.Close())
}
