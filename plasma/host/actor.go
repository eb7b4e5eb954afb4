package host

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/lane"
	"github.com/peregrine-dev/peregrine/plasma/host/meter"
	"github.com/peregrine-dev/peregrine/plasma/host/store"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// phase is whether an actor serves.
type phase int

const (
	serving  phase = iota
	leaving        // a move away is under way: it holds its messages
	arriving       // a move here is under way: the same
	gone           // it is here no more; look again
)

// maxInflight is how many turns of an actor may have ended and not be stored.
const maxInflight = 64

// actor is one that is in memory. mu guards all of it but behavior, which belongs to whoever has
// set running, or holds mu while it is not set.
type actor struct {
	host *Host
	name placement.Actor
	typ  *Type

	mu      sync.Mutex
	phase   phase
	owner   placement.Owner // where it is, when it is gone
	queue   fifo
	running bool          // a goroutine works on it
	changed chan struct{} // closed when it is running no more, or less is in flight; nil if nobody waits

	behavior Behavior
	loaded   bool   // what follows is as it is stored, or newer
	exists   bool   // it has had a turn and was not deleted since
	saved    []byte // the state after the last turn that can be fallen back to
	lanes    lane.Table
	timers   map[string]*api.Timer
	outbox   outbox
	chain    *store.Chain
	inflight int
	dirty    bool // periodic: there is more than is stored
	wantSave bool

	incoming *incoming // arriving

	meter   meter.Meter
	touched bool
	last    uint32 // tick of the last turn
	refs    map[string][]placement.Actor
	metrics map[string]float64
}

func (h *Host) newActor(name placement.Actor, typ *Type) *actor {
	a := &actor{host: h, name: name, typ: typ, chain: new(store.Chain)}
	a.last = h.tick.Load()
	return a
}

func (a *actor) durable() bool { return a.typ.Durable != None }

// enqueue puts a message into the mailbox. An errAgain is an actor that is here no more.
func (a *actor) enqueue(m *message) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase == gone {
		return errAgain
	}
	if a.queue.len() >= a.host.limits.Mailbox {
		return errFull
	}
	if a.typ != nil && m.timer == 0 && !a.host.allows(a.typ, m.function) {
		return fmt.Errorf("%s has no function %s: %w", a.typ.Name, m.function, errdefs.ErrNotFound)
	}
	if !a.touched {
		a.touched = true
		a.host.touch(a)
	}
	m.tick = a.host.tick.Load()
	if m.weight = a.meter.Arrive(m.from, m.function, len(m.body)); m.weight > 0 {
		m.at = time.Now()
	}
	a.queue.push(m)
	a.kick()
	return nil
}

// kick has a goroutine work on the actor if there is something to do; mu is held.
func (a *actor) kick() {
	if a.running || a.phase != serving || (a.queue.len() == 0 && !a.wantSave) || a.inflight >= maxInflight ||
		(a.chain.Failed() && a.inflight > 0) {
		return
	}
	a.running = true
	a.host.dispatch(a)
}

// run does what there is to do.
func (a *actor) run() {
	a.mu.Lock()
	for a.step() {
	}
	a.running = false
	a.signal()
	a.mu.Unlock()
}

// step does one thing, and tells whether there may be more; mu is held, and let go of meanwhile.
func (a *actor) step() bool {
	if a.phase != serving || a.inflight >= maxInflight {
		return false
	}
	if a.chain.Failed() {
		if a.inflight > 0 {
			return false // until all that were on top of the failure have ended
		}
		a.forget()
	}
	if a.wantSave {
		a.wantSave = false
		a.save()
		return true
	}
	m := a.queue.pop()
	if m == nil {
		return false
	}
	if !m.taken.CompareAndSwap(false, true) {
		return true // its caller waits no more
	}
	a.last = a.host.tick.Load()
	if a.last-m.tick >= lateTicks {
		select {
		case a.host.late <- struct{}{}:
		default:
		}
	}
	if !a.host.lease.valid() {
		m.answer(nil, errLapsed)
		return true
	}
	if err := a.ensure(); err != nil {
		m.answer(nil, err)
		return true
	}
	if m.number > 0 && a.repeated(m) {
		return true
	}
	if m.timer != 0 {
		t := a.timers[m.function]
		if t == nil || t.GetAt() != m.timer {
			return true
		}
		m.body = t.GetBody()
	}
	a.mu.Unlock()
	c, t := a.turn(m)
	a.mu.Lock()
	a.end(m, c, t)
	return true
}

// repeated answers a message of a lane that is not to be processed; mu is held.
func (a *actor) repeated(m *message) bool {
	verdict, l, err := a.lanes.Check(m.lane, m.number, time.Now())
	switch {
	case err != nil:
		m.answer(nil, err)
	case verdict == lane.Repeat:
		if l.GetError() != "" {
			err = &Error{l.GetError()}
		}
		body := l.GetBody()
		a.after(func(failed error) {
			if failed != nil {
				m.answer(nil, failed)
				return
			}
			m.answer(body, err)
		})
	default:
		return false
	}
	return true
}

// signal wakes those who wait for the actor to stand still; mu is held.
func (a *actor) signal() {
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

// wait waits until ok; mu is held, and let go of meanwhile.
func (a *actor) wait(ctx context.Context, ok func() bool) error {
	for !ok() {
		if a.changed == nil {
			a.changed = make(chan struct{})
		}
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
			a.mu.Lock()
		case <-ctx.Done():
			a.mu.Lock()
			return ctx.Err()
		}
	}
	return nil
}

// settle waits until all turns that have ended are stored. The actor's own turn may call it.
func (a *actor) settle(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.wait(ctx, func() bool { return a.inflight == 0 }); err != nil {
		return fmt.Errorf("wait for the turn before to be stored: %w", err)
	}
	if a.chain.Failed() {
		return fmt.Errorf("the turn before could not be stored: %w", errdefs.ErrAborted)
	}
	return nil
}

// drain answers all that waits; mu is held.
func (a *actor) drain(err error) {
	for m := a.queue.pop(); m != nil; m = a.queue.pop() {
		if m.taken.CompareAndSwap(false, true) {
			m.answer(nil, err)
		}
	}
}
