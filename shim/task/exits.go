package task

import (
	"sync"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/go-runc"
)

// exits tells who waits for a process that it ended.
type exits struct {
	mu      sync.Mutex
	watched map[int]func(runc.Exit)
	// early are exits of processes nobody watches yet, kept while some are being made.
	early  map[int]runc.Exit
	making int
}

// watchExits listens to the reaper until done is closed.
func watchExits(done <-chan struct{}) *exits {
	e := &exits{watched: map[int]func(runc.Exit){}, early: map[int]runc.Exit{}}
	ch := reaper.Default.Subscribe()
	go func() {
		defer reaper.Default.Unsubscribe(ch)
		for {
			select {
			case exit := <-ch:
				e.exited(exit)
			case <-done:
				return
			}
		}
	}()
	return e
}

func (e *exits) exited(exit runc.Exit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f, ok := e.watched[exit.Pid]
	if ok {
		delete(e.watched, exit.Pid)
		go f(exit)
	} else if e.making > 0 {
		e.early[exit.Pid] = exit
	}
}

// begin comes before a process is made that is to be watched; the function it returns,
// which may be called more than once, after watch.
func (e *exits) begin() (end func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.making++
	return sync.OnceFunc(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.making--; e.making == 0 {
			clear(e.early)
		}
	})
}

// watch has f called, in a goroutine of its own, when a process ends or has ended.
func (e *exits) watch(pid int, f func(runc.Exit)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if exit, ok := e.early[pid]; ok {
		delete(e.early, pid)
		go f(exit)
		return
	}
	e.watched[pid] = f
}
