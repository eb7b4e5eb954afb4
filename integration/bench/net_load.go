package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Cores of the loads: what the receiving node does is on one, and who sends is on the
// other, so that neither pays for the other.
const (
	farCore  = 0
	nearCore = 1
)

// urgent is whether a thread is to run as soon as it can: it preempts what is not.
type urgent bool

// pinned runs f on a thread of its own, on a core. The thread ends with f: nobody else
// inherits what it is.
func pinned(core int, now urgent, f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var set unix.CPUSet
		set.Set(core)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			ended <- fmt.Errorf("run on core %d, of which the bench needs two: %w", core, err)
			return
		}
		if now {
			if err := preempting(); err != nil {
				ended <- err
				return
			}
		}
		ended <- f()
	}()
	return <-ended
}

// preempting makes this thread preempt others. Where the real-time class is not to be had,
// it is as nice to it as the kernel lets.
func preempting() error {
	err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
	if errors.Is(err, unix.EPERM) {
		err = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
	}
	if err != nil {
		return fmt.Errorf("raise the priority of a thread (needs CAP_SYS_NICE): %w", err)
	}
	return nil
}

// awake keeps both cores from sleeping while f runs, with threads that run when nobody else
// does: it takes a virtual machine long to wake a core, and how long depends on the host.
func awake(f func() error) error {
	var g errgroup.Group
	var stop atomic.Bool
	for _, core := range []int{farCore, nearCore} {
		g.Go(func() error {
			return pinned(core, false, func() error {
				if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0); err != nil {
					return fmt.Errorf("keep a core awake: %w", err)
				}
				for !stop.Load() {
				}
				return nil
			})
		})
	}
	err := f()
	stop.Store(true)
	return errors.Join(err, g.Wait())
}

// flow is packets that are sent at a steady rate, in bursts.
type flow struct {
	generator
	rate int          // packets per second
	sent atomic.Int64 // packets
}

// send sends the flows from one thread until ctx ends, each at its rate, or slower if that is
// more than the core can do: what could not be sent in time is forgone. begun is closed when
// it begins. It ends after a minute, whatever happens.
func send(ctx context.Context, begun chan<- struct{}, flows ...*flow) error {
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return pinned(nearCore, true, func() error {
		close(begun)
		due := make([]time.Time, len(flows)) // of the next burst
		for bounded.Err() == nil {
			now := time.Now()
			next := now.Add(time.Millisecond)
			for i, f := range flows {
				if !now.Before(due[i]) {
					sent, err := f.emit()
					if err != nil {
						return err
					}
					if sent {
						f.sent.Add(burst)
					}
					due[i] = after(due[i], now, f.rate)
				}
				if due[i].Before(next) {
					next = due[i]
				}
			}
			// The runtime's timers are too coarse.
			pause := unix.NsecToTimespec(max(time.Until(next).Nanoseconds(), 0))
			if err := unix.Nanosleep(&pause, nil); err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
		}
		return nil
	})
}

// after is when the burst after one that was due is due.
func after(due, now time.Time, rate int) time.Time {
	const behind = 10 // bursts that are made up for
	each := time.Second * burst / time.Duration(rate)
	if due = due.Add(each); due.Before(now.Add(-behind * each)) {
		return now
	}
	return due
}

// during runs f while the flows are sent, from settle after they began.
func during(ctx context.Context, settle time.Duration, flows []*flow, f func() error) error {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	g, sending := errgroup.WithContext(sending)
	begun := make(chan struct{})
	g.Go(func() error { return send(sending, begun, flows...) })
	var err error
	select { // a busy machine takes its time to make a thread
	case <-begun:
		err = wait(sending, settle)
	case <-sending.Done():
		err = context.Cause(sending)
	}
	if err == nil {
		err = f()
	}
	stop()
	return errors.Join(err, g.Wait())
}

// sink makes a UDP socket count what it gets and keep nothing: a filter drops it where a
// program would be told. So no program has a part in what is measured.
func sink(fd int) error {
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
}

// sunk is how many packets a sink got so far.
func sunk(fd int) (int64, error) {
	var info [9]uint32 // SK_MEMINFO_VARS, linux/sock_diag.h; the last is SK_MEMINFO_DROPS
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("count a socket's packets: %w", errno)
	}
	return int64(info[8]), nil
}

// wait waits, unless ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
