package host

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// timerRetry is when a timer that could not be put into a mailbox is tried again.
const timerRetry = 100 * time.Millisecond

// due is a timer that waits. It is a hint: the actor knows whether the timer still is set.
type due struct {
	try   int64 // Unix nanoseconds
	at    int64
	actor placement.Actor
	name  string
}

type dueHeap []due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].try < h[j].try }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// clock is the timers of a host's actors, in memory or not.
type clock struct {
	mu   sync.Mutex
	heap dueHeap
	wake chan struct{}
}

func newClock() *clock { return &clock{wake: make(chan struct{}, 1)} }

func (c *clock) add(d due) {
	c.mu.Lock()
	heap.Push(&c.heap, d)
	first := c.heap[0] == d
	c.mu.Unlock()
	if first {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// next gives a timer that is due, or how long to wait for one.
func (c *clock) next(now time.Time) (due, bool, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.heap) == 0 {
		return due{}, false, time.Hour
	}
	if wait := c.heap[0].try - now.UnixNano(); wait > 0 {
		return due{}, false, min(time.Duration(wait), time.Hour)
	}
	return heap.Pop(&c.heap).(due), true, 0
}

// run gives timers to their actors until ctx ends.
func (c *clock) run(ctx context.Context, fire func(due) error) {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for ctx.Err() == nil {
		d, ok, wait := c.next(time.Now())
		if ok {
			if fire(d) != nil {
				d.try = time.Now().Add(timerRetry).UnixNano()
				c.add(d)
			}
			continue
		}
		t.Reset(wait)
		select {
		case <-t.C:
		case <-c.wake:
		case <-ctx.Done():
		}
	}
}

// fire puts a timer into its actor's mailbox. An error means to try again.
func (h *Host) fire(d due) error {
	m := &message{function: d.name, timer: d.at}
	err := h.put(d.actor, m)
	var moved *errMoved
	if errors.As(err, &moved) || errdefs.IsNotFound(err) {
		return nil // it went with its actor
	}
	return err
}

// setTimer sets or clears a timer in memory; mu is held.
func (a *actor) setTimer(t *api.Timer) {
	if t.GetAt() == 0 {
		delete(a.timers, t.GetName())
		return
	}
	if a.timers == nil {
		a.timers = map[string]*api.Timer{}
	}
	a.timers[t.GetName()] = t
	a.host.clock.add(due{t.GetAt(), t.GetAt(), a.name, t.GetName()})
}

// fired adds to the changes of a timer's turn what becomes of the timer, unless the turn has said
// so itself; mu is held.
func (a *actor) fired(m *message, changes []*api.Timer, now time.Time) []*api.Timer {
	for _, t := range changes {
		if t.GetName() == m.function {
			return changes
		}
	}
	t := a.timers[m.function]
	if t == nil {
		return changes
	}
	next := &api.Timer{Name: t.GetName(), Period: t.GetPeriod(), Body: t.GetBody()}
	if p := t.GetPeriod(); p > 0 {
		next.At = t.GetAt() + p
		if late := now.UnixNano() - next.At; late > 0 {
			next.At += (late/p + 1) * p // those that were missed come once
		}
	}
	return append(changes, next)
}

// roomForTimer tells whether an actor may have one more timer.
func (a *actor) roomForTimer(bytes int, name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timers[name] == nil && len(a.timers) >= maxTimers {
		return fmt.Errorf("%d timers are set: %w", len(a.timers), errdefs.ErrResourceExhausted)
	}
	for _, t := range a.timers {
		bytes += len(t.GetBody())
	}
	if a.outbox.bytes+bytes > maxOutBytes {
		return fmt.Errorf("timers and messages of %d bytes: %w", a.outbox.bytes+bytes, errdefs.ErrResourceExhausted)
	}
	return nil
}
