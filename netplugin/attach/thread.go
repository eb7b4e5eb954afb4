package attach

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// thread is the calling goroutine's, held until unlock.
type thread struct {
	home *os.File // its network namespace
	lost bool     // it could not be brought home
}

func lockThread() (*thread, error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("open this thread's network namespace: %w", err)
	}
	return &thread{home: home}, nil
}

// unlock gives the thread back. One that is lost stays locked to its goroutine and ends
// with it: no other goroutine may ever run in the wrong namespace.
func (t *thread) unlock() {
	t.home.Close()
	if !t.lost {
		runtime.UnlockOSThread()
	}
}

// in calls f inside a network namespace.
func (t *thread) in(ns *os.File, f func() error) (err error) {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	defer func() {
		if back := unix.Setns(int(t.home.Fd()), unix.CLONE_NEWNET); back != nil {
			t.lost = true
			err = fmt.Errorf("return from the container's network namespace: %w", back)
		}
	}()
	return f()
}
