package host

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/lane"
	"github.com/peregrine-dev/peregrine/plasma/host/peer"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// How long to wait before a message is tried again: doubled from the first to the second.
const (
	retryFirst = 2 * time.Millisecond
	retryLast  = 250 * time.Millisecond
)

// errLane says that the receiver does not know a send's lane.
var errLane = errors.New("the lane is not known")

// router brings messages to where their actors are.
type router struct {
	self   string // the server; empty for a client
	local  func(context.Context, placement.Actor, *message) result
	owners *owners
	pool   *peer.Pool
	lanes  callLanes
	closed <-chan struct{}
}

// outgoing is a message on its way. A lane is used when it first leaves the process.
type outgoing struct {
	to       placement.Actor
	function string
	body     []byte
	from     placement.Actor
	chain    []placement.Actor
	trace    string
	lane     *callLane
}

// call brings a message to its actor, wherever it goes meanwhile, and gives the answer.
func (r *router) call(ctx context.Context, o *outgoing) ([]byte, error) {
	if t := traceOf(ctx); t != "" {
		o.trace = t
	}
	var last error
	unknown := false // an attempt may have had its effect
	for delay := time.Duration(0); ; delay = next(delay) {
		if err := r.pause(ctx, delay); err != nil {
			if last != nil {
				err = fmt.Errorf("%w: %w", err, last)
			}
			return nil, fmt.Errorf("call %s of %s: %w", o.function, o.to, err)
		}
		owner, ok := r.owners.owner(o.to)
		if !ok {
			last = fmt.Errorf("no server for it is known: %w", errdefs.ErrUnavailable)
			continue
		}
		res := r.try(ctx, owner, o)
		var app *Error
		var moved *errMoved
		switch {
		case res.err == nil || errors.As(res.err, &app):
			r.lanes.put(o.to, o.lane)
			return res.body, res.err
		case errors.As(res.err, &moved):
			if owner.Epoch < moved.owner.Epoch {
				r.owners.view.Learn(o.to, moved.owner)
				delay = -1 // at once
			}
			last = res.err
			continue
		case isLane(res.err) && !unknown && o.lane != nil:
			// The actor has lost what it knew of earlier calls. This one it hasn't seen.
			o.lane = newCallLane()
			last = res.err
			continue
		}
		last = res.err
		kind := effectOf(res.err)
		switch {
		case kind == effectUnknown && o.lane != nil:
			unknown = true
		case kind != effectNone: // without a lane, a message in doubt can't be repeated
			return nil, fmt.Errorf("call %s of %s: %w", o.function, o.to, res.err)
		}
	}
}

// try makes one attempt.
func (r *router) try(ctx context.Context, owner placement.Owner, o *outgoing) result {
	if owner.Server == r.self && r.local != nil {
		m := messages.Get().(*message)
		m.function, m.body, m.from, m.chain, m.trace = o.function, o.body, o.from, o.chain, o.trace
		if o.lane != nil {
			m.lane, m.number = o.lane.id, o.lane.next
		}
		return r.local(ctx, o.to, m)
	}
	if o.lane == nil {
		o.lane = r.lanes.get(o.to)
	}
	req := &api.DeliverRequest{
		To: o.to.API(), Function: o.function, Body: o.body, Lane: o.lane.id[:], Number: o.lane.next, Traceparent: o.trace,
	}
	if o.from != (placement.Actor{}) {
		req.From = o.from.API()
	}
	for _, a := range o.chain {
		req.Chain = append(req.Chain, a.API())
	}
	return r.remote(ctx, owner, req)
}

// remote delivers to another host.
func (r *router) remote(ctx context.Context, owner placement.Owner, req *api.DeliverRequest) result {
	server, ok := r.owners.view.Server(owner.Server)
	if !ok || server.Instance == 0 {
		return result{err: fmt.Errorf("server %s is not there: %w", owner.Server, errdefs.ErrUnavailable)}
	}
	p, err := r.pool.Get(ctx, server)
	if err != nil {
		return result{err: err}
	}
	resp, err := p.Deliver(ctx, req)
	if err != nil {
		return result{err: native(err)}
	}
	if m := resp.GetMoved(); m != nil {
		return result{err: &errMoved{placement.Owner{Server: m.GetServer(), Epoch: m.GetEpoch()}}}
	}
	if resp.GetError() != "" {
		return result{err: &Error{resp.GetError()}}
	}
	return result{body: resp.GetBody()}
}

// send brings a message of an outbox to its actor and returns nil when that has answered, or
// never will.
func (r *router) send(ctx context.Context, from placement.Actor, s *api.Send) error {
	id, err := lane.Of(s.GetLane())
	if err != nil {
		return nil
	}
	o := &outgoing{
		to: placement.Of(s.GetTo()), function: s.GetFunction(), body: s.GetBody(), from: from,
		lane: &callLane{id, s.GetNumber()},
	}
	for delay := time.Duration(0); ; delay = next(delay) {
		if err := r.pause(ctx, delay); err != nil {
			return err
		}
		owner, ok := r.owners.owner(o.to)
		if !ok {
			continue
		}
		res := r.try(ctx, owner, o)
		var app *Error
		var moved *errMoved
		switch {
		case res.err == nil || errors.As(res.err, &app), errdefs.IsAlreadyExists(res.err),
			errdefs.IsNotFound(res.err), errdefs.IsInvalidArgument(res.err):
			return nil
		case errors.As(res.err, &moved):
			if owner.Epoch < moved.owner.Epoch {
				r.owners.view.Learn(o.to, moved.owner)
				delay = -1
			}
		case isLane(res.err):
			return errLane
		}
	}
}

func isLane(err error) bool {
	return errdefs.IsFailedPrecondition(err) && strings.Contains(err.Error(), "LANE")
}

// next gives the delay after one; after a negative one there is none.
func next(delay time.Duration) time.Duration {
	switch {
	case delay < 0:
		return 0
	case delay == 0:
		return retryFirst
	}
	return min(2*delay, retryLast)
}

// pause waits, less if the placement changes meanwhile.
func (r *router) pause(ctx context.Context, delay time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if delay <= 0 {
		return nil
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.owners.view.Changed():
	case <-r.closed:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// callLane is a lane for calls; one call at a time has it.
type callLane struct {
	id   lane.ID
	next uint64
}

func newCallLane() *callLane { return &callLane{newLaneID(), 1} }

// maxCallLanes is how many lanes wait for their next call.
const maxCallLanes = 4096

// callLanes keeps lanes for the next call. One of a call with no clear end is dropped: its actor
// forgets it in time.
type callLanes struct {
	mu   sync.Mutex
	free map[placement.Actor][]*callLane
	n    int
}

func (c *callLanes) get(to placement.Actor) *callLane {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.free[to]
	if len(all) == 0 {
		return newCallLane()
	}
	l := all[len(all)-1]
	if all = all[:len(all)-1]; len(all) == 0 {
		delete(c.free, to)
	} else {
		c.free[to] = all
	}
	c.n--
	return l
}

// put gives back the lane of a call that was answered.
func (c *callLanes) put(to placement.Actor, l *callLane) {
	if l == nil {
		return
	}
	l.next++
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.free == nil {
		c.free = map[placement.Actor][]*callLane{}
	}
	for a := range c.free {
		if c.n < maxCallLanes {
			break
		}
		c.n -= len(c.free[a])
		delete(c.free, a)
	}
	c.free[to] = append(c.free[to], l)
	c.n++
}
