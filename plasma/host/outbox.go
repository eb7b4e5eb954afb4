package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/failpoint"
	"github.com/peregrine-dev/peregrine/plasma/host/lane"
	"github.com/peregrine-dev/peregrine/plasma/host/store"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// maxIdleLanes is how many lanes with nothing to send are kept, so that the next send needs no
// new one.
const maxIdleLanes = 128

// outbox is what an actor has sent and that is not answered. The actor's mu guards it.
type outbox struct {
	lanes  map[placement.Actor]*outLane
	count  int // with those that are not stored yet
	bytes  int
	loaded bool
	ctx    context.Context // of deliveries; nil: none are begun
	cancel context.CancelFunc
}

// outLane is a lane to one actor.
type outLane struct {
	to      placement.Actor
	id      lane.ID
	acked   uint64 // the last that was answered
	next    uint64
	queue   []*api.Send // stored, not answered; the first may be under way
	sending bool
}

func newLaneID() (id lane.ID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

func (o *outbox) lane(to placement.Actor) *outLane {
	l := o.lanes[to]
	if l == nil {
		if o.lanes == nil {
			o.lanes = map[placement.Actor]*outLane{}
		}
		l = &outLane{to: to, id: newLaneID(), next: 1}
		o.lanes[to] = l
	}
	return l
}

// assign numbers messages that are to be stored.
func (o *outbox) assign(sends []*api.Send) {
	for _, s := range sends {
		l := o.lane(placement.Of(s.GetTo()))
		s.Lane, s.Number = slices.Clone(l.id[:]), l.next
		l.next++
		o.count++
		o.bytes += len(s.GetBody())
	}
}

// rollback takes back the numbers of messages that were not stored.
func (o *outbox) rollback() {
	o.count, o.bytes = 0, 0
	for _, l := range o.lanes {
		l.next = l.acked + uint64(len(l.queue)) + 1
		o.count += len(l.queue)
		for _, s := range l.queue {
			o.bytes += len(s.GetBody())
		}
	}
}

// load begins with what was stored, which is in the order of lanes and numbers.
func (o *outbox) load(sends []*api.Send) error {
	for _, s := range sends {
		id, err := lane.Of(s.GetLane())
		if err != nil {
			return err
		}
		l := o.lane(placement.Of(s.GetTo()))
		if len(l.queue) == 0 {
			l.id, l.acked = id, s.GetNumber()-1
		} else if l.id != id || s.GetNumber() != l.next {
			return fmt.Errorf("message %d to %s is stored out of order: %w", s.GetNumber(), l.to, errdefs.ErrDataLoss)
		}
		l.queue = append(l.queue, s)
		l.next = s.GetNumber() + 1
		o.count++
		o.bytes += len(s.GetBody())
	}
	o.loaded = true
	return nil
}

// all gives the messages, those of a lane in order.
func (o *outbox) all() (all []*api.Send) {
	for _, l := range o.lanes {
		all = append(all, l.queue...)
	}
	return all
}

func (o *outbox) busy() bool {
	for _, l := range o.lanes {
		if l.sending {
			return true
		}
	}
	return false
}

// room tells whether an actor may send more in the turn under way.
func (a *actor) room(sends, bytes int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.outbox.count+sends > maxSends || a.outbox.bytes+bytes > maxOutBytes {
		return fmt.Errorf("%d messages of %d bytes are not answered yet: %w", a.outbox.count, a.outbox.bytes, errdefs.ErrResourceExhausted)
	}
	return nil
}

// release begins to deliver messages that are stored; mu is held.
func (a *actor) release(sends []*api.Send) {
	for _, s := range sends {
		l := a.outbox.lane(placement.Of(s.GetTo()))
		l.queue = append(l.queue, s)
	}
	if len(sends) > 0 {
		a.startSends()
	}
}

// startSends delivers what there is; mu is held.
func (a *actor) startSends() {
	if a.phase != serving {
		return
	}
	for _, l := range a.outbox.lanes {
		if l.sending || len(l.queue) == 0 {
			continue
		}
		if a.outbox.ctx == nil {
			a.outbox.ctx, a.outbox.cancel = context.WithCancel(a.host.ctx)
		}
		l.sending = true
		a.host.work.Add(1)
		go a.deliver(a.outbox.ctx, l)
	}
}

// stopSends has deliveries end soon; mu is held.
func (a *actor) stopSends() {
	if a.outbox.cancel != nil {
		a.outbox.cancel()
		a.outbox.ctx, a.outbox.cancel = nil, nil
	}
}

// deliver sends the messages of a lane, one after the other.
func (a *actor) deliver(ctx context.Context, l *outLane) {
	defer a.host.work.Done()
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(l.queue) > 0 && ctx.Err() == nil {
		s := l.queue[0]
		a.mu.Unlock()
		err := a.host.router.send(ctx, a.name, s)
		failpoint.Hit(failpoint.OutboxAnswered)
		a.mu.Lock()
		switch {
		case err == nil:
			a.answered(l, s)
		case errors.Is(err, errLane):
			a.relane(l)
		}
	}
	l.sending = false
	if len(l.queue) == 0 && len(a.outbox.lanes) > maxIdleLanes && l.next == l.acked+1 {
		delete(a.outbox.lanes, l.to)
	}
	a.signal()
	// What came while ctx had ended belongs to the next owner, or to a later start.
	a.startSends()
}

// answered forgets a message; mu is held.
func (a *actor) answered(l *outLane, s *api.Send) {
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.acked = s.GetNumber()
	a.outbox.count--
	a.outbox.bytes -= len(s.GetBody())
	a.dirty = a.dirty || a.typ.Durable == Periodic
	if a.typ.Durable == EachTurn && a.phase != gone {
		// Not in the chain: what it forgets was stored before, whatever happens to turns.
		a.host.store.Submit(&store.Write{Bytes: 64, Apply: func(tx *store.Tx) error {
			return tx.DropSends(a.name, s.GetLane(), s.GetNumber())
		}})
	}
}

// relane goes on with a new lane when the receiver does not know the old one: it has lost what it
// knew, so it isn't durable. mu is held, and let go of meanwhile.
func (a *actor) relane(l *outLane) {
	if err := a.wait(a.host.ctx, func() bool { return a.inflight == 0 }); err != nil {
		return
	}
	old, id := l.id, newLaneID()
	sends := make([]*api.Send, len(l.queue))
	for i, s := range l.queue {
		sends[i] = &api.Send{To: s.GetTo(), Function: s.GetFunction(), Body: s.GetBody(), Lane: slices.Clone(id[:]), Number: uint64(i) + 1}
	}
	last := l.next
	l.id, l.acked, l.queue, l.next = id, 0, sends, uint64(len(sends))+1
	a.dirty = a.dirty || a.typ.Durable == Periodic
	if a.typ.Durable != EachTurn {
		return
	}
	done := make(chan struct{})
	a.submit(a.outbox.bytes, func(tx *store.Tx) error {
		if err := tx.DropSends(a.name, old[:], last); err != nil {
			return err
		}
		for _, s := range sends {
			if err := tx.PutSend(a.name, s); err != nil {
				return err
			}
		}
		return nil
	}, func(error) { close(done) })
	a.mu.Unlock()
	<-done
	a.mu.Lock()
}
