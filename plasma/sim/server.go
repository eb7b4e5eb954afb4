package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// newServer starts a server on a node. It serves after the time that a start takes; at the
// beginning, at once.
func (r *run) newServer(on int32, limit model.Resources, after time.Duration) int32 {
	i := int32(len(r.servers))
	r.actors = append(r.actors, actor{
		typ: none, server: i, target: none, before: i, head: none, tail: none, current: none,
		status: idle, scale: 1,
	})
	s := server{
		id:      fmt.Sprintf("server %d", i),
		node:    on,
		state:   model.Starting,
		runtime: int32(len(r.actors) - 1),
		started: r.now,
		since:   r.now,
	}
	r.servers = append(r.servers, s)
	r.nodes[on].servers++
	r.nodes[on].cores += limit.CPU
	r.setLimit(i, limit)
	if after == 0 {
		r.serverUp(i)
	} else {
		r.heap.push(r.now+int64(after), evUp, i, 0)
	}
	return i
}

// setLimit gives a server its cores, memory and network.
func (r *run) setLimit(i int32, limit model.Resources) {
	s := &r.servers[i]
	r.accrue(s)
	s.limit = limit
	s.pending = limit
	s.slots = int(math.Ceil(limit.CPU))
	s.speed = limit.CPU / float64(s.slots)
}

// accrue counts the cores of a server up to now.
func (r *run) accrue(s *server) {
	r.result.CoreSeconds += s.limit.CPU * seconds(r.now-s.since)
	s.since = r.now
}

func (r *run) serverUp(i int32) {
	s := &r.servers[i]
	if s.gone || s.state != model.Starting {
		return
	}
	s.state = model.Up
	s.up = r.now
	lost := r.homeless
	r.homeless = nil
	for _, a := range lost {
		if r.actors[a].status == down {
			r.rehome(a)
		}
	}
}

func (r *run) resized(i int32) {
	s := &r.servers[i]
	if s.gone || s.state == model.Down {
		return
	}
	r.setLimit(i, s.pending)
	r.dispatch(i)
}

// stop ends a server that has nothing any more.
func (r *run) stop(i int32) {
	r.servers[i].stopping = true
	r.heap.push(r.now+int64(r.world.Costs.Stop), evGone, i, 0)
}

func (r *run) serverGone(i int32) {
	if s := &r.servers[i]; !s.gone && s.state != model.Down {
		r.unpay(s)
		s.gone = true
	}
}

// unpay is the end of a server's costs.
func (r *run) unpay(s *server) {
	r.accrue(s)
	r.result.ServerSeconds += seconds(r.now - s.started)
	n := &r.nodes[s.node]
	n.servers--
	n.cores -= s.pending.CPU
}

// leastUsed gives the server that a new actor is put on, none if no server can take one.
func (r *run) leastUsed() int32 {
	best, least := none, math.Inf(1)
	for i := range r.servers {
		s := &r.servers[i]
		if s.gone || s.stopping || s.reserved || s.state != model.Up {
			continue
		}
		// What came since the last window shows in no load yet.
		load := s.load + float64(s.placed)*r.window.typical/s.limit.CPU
		if load < least {
			best, least = int32(i), load
		}
	}
	if best != none {
		r.servers[best].placed++
	}
	return best
}

// freestNode gives the node with the most cores that no server has, none if none has as many as
// are asked for.
func (r *run) freestNode(cores float64) int32 {
	best, most := none, 0.0
	for i := range r.nodes {
		n := &r.nodes[i]
		free := n.Cores - n.cores
		if n.down || free+slack < cores {
			continue
		}
		if best == none || free > most+slack {
			best, most = int32(i), free
		}
	}
	return best
}

// slack is what sums of cores may be off by.
const slack = 1e-9

func seconds(ns int64) float64 { return float64(ns) / 1e9 }
