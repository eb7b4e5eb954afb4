// Package sim runs a world as discrete events around a planner: the same planner that a live
// service has, asked at each period for what to do, and what it says is done at the costs of a
// calibration.
//
// What is modelled: Poisson streams and traces of requests; actors that run one turn at a time
// from a mailbox in order; servers that run as many turns at once as they have cores; messages
// that take the time of the distance; the processor's time for messages between servers; waits
// for answers; births, deaths, failures; moves, starts, drains, resizes.
//
// In snapshots, an actor's latency is that of requests and of calls that are waited for, from when
// they were sent until they were answered; a server's is that of its actors; usage is measured
// since the last snapshot, of a new server since it serves; queues are those of the moment. The
// N-th server that is started is "server N", from 0 on.
//
// What is not modelled: memory and network are counted, but don't slow anything when they run out; a
// turn that runs keeps its speed when its server is resized; a node is never slower than the sum
// of its servers.
package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// Planner is asked at the end of each period. It must not change the snapshot, nor keep it to
// change it later.
type Planner interface {
	Plan(*model.Snapshot, model.Memory) model.Plan
}

// Options change how a world is run. The zero value runs it as it is.
type Options struct {
	// Servers is how many there are at first; 0 is as many as the world says. With another
	// number than that the places of actors in the world mean nothing: actors are dealt out
	// evenly, type by type.
	Servers int
	// Period is between plans; 0 is the world's.
	Period time.Duration
	// Duration is how long to run; 0 is the world's.
	Duration time.Duration
	// Seed is of all that is drawn; 0 is the world's.
	Seed uint64
	// Overload is above which share of its cores a server counts as overloaded; 0 is 0.9.
	Overload float64
	// MaxMessages and MaxWaits bound the messages under way and the turns that wait for
	// answers; what is beyond is dropped and counted. 0 is a million.
	MaxMessages, MaxWaits int
	// Progress is told after each period how far the run is.
	Progress func(at, of time.Duration)
	// Record is given each snapshot, the memory before and the plan. An error ends the run.
	Record func(*model.Step) error
}

// ErrStuck is a world whose messages beget messages without time going on.
var ErrStuck = errors.New("the simulation doesn't get on: functions call each other in a circle that takes no time; give them a service time")

// sameTime is how many events of one moment are taken for a world that is stuck.
const sameTime = 4_000_000

// Run runs a world to its end, or until ctx ends: then its error is returned. It changes nothing
// of w. The same world, planner and options give the same result.
func Run(ctx context.Context, w *world.World, p Planner, o Options) (*Result, error) {
	o = o.defaults(w)
	r, err := prepare(w, p, o)
	if err != nil {
		return nil, err
	}
	if err := r.loop(ctx); err != nil {
		return nil, err
	}
	return r.finish(), nil
}

func (o Options) defaults(w *world.World) Options {
	if o.Servers == 0 {
		o.Servers = w.Servers
	}
	if o.Period == 0 {
		o.Period = w.Period
	}
	if o.Duration == 0 {
		o.Duration = w.Duration
	}
	if o.Seed == 0 {
		o.Seed = w.Seed
	}
	if o.Overload == 0 {
		o.Overload = 0.9
	}
	if o.MaxMessages == 0 {
		o.MaxMessages = 1_000_000
	}
	if o.MaxWaits == 0 {
		o.MaxWaits = 1_000_000
	}
	return o
}

// loop takes event by event until the duration is over.
func (r *run) loop(ctx context.Context) error {
	end := int64(r.options.Duration)
	var last int64
	var since uint64
	for len(r.heap.events) > 0 && r.heap.events[0].at <= end {
		e := r.heap.pop()
		r.now = e.at
		r.result.Events++
		if r.result.Events&0xfff == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if e.at != last {
				last, since = e.at, r.result.Events
			} else if r.result.Events-since > sameTime {
				return fmt.Errorf("%w (at %s)", ErrStuck, time.Duration(e.at))
			}
		}
		if err := r.handle(e); err != nil {
			return err
		}
	}
	r.now = end
	return ctx.Err()
}

func (r *run) handle(e event) error {
	switch e.kind() {
	case evArrival:
		r.arrive(e.a)
	case evDeliver:
		r.deliver(e.a, e.b)
	case evTurn:
		r.turnEnds(e.a, uint32(e.b))
	case evTail:
		r.tailEnds(e.a, uint32(e.b))
	case evReply:
		r.replied(e.a, e.b == 1)
	case evMoved:
		r.moveEnds(e.a, uint32(e.b))
	case evUp:
		r.serverUp(e.a)
	case evGone:
		r.serverGone(e.a)
	case evResized:
		r.resized(e.a)
	case evWeight:
		r.weightChanges(e.a, e.b)
	case evWorld:
		r.worldEvent(e.a)
	case evRecover:
		r.recover(e.a)
	case evNodeBack:
		r.nodes[e.a].down = false
	case evTick:
		return r.tick()
	}
	return nil
}
