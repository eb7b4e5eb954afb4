package sim

import "github.com/peregrine-dev/peregrine/plasma/model"

const mib = 1 << 20

// move begins to move an actor: it stands still once its turn has ended.
func (r *run) move(i, to int32) {
	a := &r.actors[i]
	a.target = to
	r.servers[to].incoming++
	if a.status != running {
		r.pause(i)
	}
}

// pause makes an actor stand still while its state is carried over. Its messages wait.
func (r *run) pause(i int32) {
	a := &r.actors[i]
	if r.servers[a.target].state == model.Down {
		r.abort(i)
		return
	}
	a.status = paused
	r.task(a.server, r.costs.moveCPU)
	r.task(a.target, r.costs.moveCPU)
	took := min(r.costs.move+r.costs.moveMiB*a.state/mib, forever)
	r.result.MovePause += took / 1e9
	r.heap.push(r.now+int64(took), evMoved, i, int32(a.life))
}

// task has the runtime use the processor on a server.
func (r *run) task(on int32, cost float64) {
	if cost <= 0 {
		return
	}
	m := r.messages.take()
	r.messages.all[m] = message{from: none, fn: none, frame: none, sent: int64(min(cost, forever)), next: none}
	r.enqueue(r.servers[on].runtime, m)
}

// moveEnds is when the state has arrived.
func (r *run) moveEnds(i int32, life uint32) {
	a := &r.actors[i]
	if a.life != life || a.status != paused {
		return
	}
	to := a.target
	if r.servers[to].state == model.Down {
		r.abort(i)
		return
	}
	a.target = none
	r.servers[to].incoming--
	r.result.Moves++
	r.result.MoveBytes += a.state
	r.window.moves++
	a.net += a.state
	r.servers[a.server].net += a.state
	r.servers[to].net += a.state
	r.countReturn(a, to)
	r.relocate(i, to)
}

// abort leaves an actor where it is, as its target has failed.
func (r *run) abort(i int32) {
	a := &r.actors[i]
	r.noMove(a)
	r.result.AbortedMoves++
	r.wake(i)
}

// relocate makes an actor be on another server.
func (r *run) relocate(i, to int32) {
	a := &r.actors[i]
	r.servers[a.server].actors--
	r.servers[to].actors++
	a.before, a.server = a.server, to
	r.keepOrder(a)
	r.wake(i)
}

// keepOrder has all messages to and from an actor that is elsewhere now arrive after those that
// are under way, which may be sent after it.
func (r *run) keepOrder(a *actor) {
	far := max(r.farthest, r.longest())
	a.in = max(r.now+far, a.in) + far
	a.out = max(a.out, r.now+far)
	a.epoch++
}

// wake lets an actor go on that stood still.
func (r *run) wake(i int32) {
	a := &r.actors[i]
	if a.head == none {
		a.status = idle
		return
	}
	r.makeReady(i)
	r.dispatch(a.server)
}

// longest is the longest time between two servers.
func (r *run) longest() int64 {
	c := &r.costs
	return int64(max(c.local, c.node, c.remote, c.zone))
}

// returns is within how many periods an actor that comes back to a server counts as having gone
// there and back.
const returns = 10

// countReturn counts an actor that comes back to where it was not long ago.
func (r *run) countReturn(a *actor, to int32) {
	kept := a.left[:0]
	for _, d := range a.left {
		if r.window.index-d.window > returns {
			continue
		}
		if d.server == to {
			r.result.PingPong++
			continue
		}
		kept = append(kept, d)
	}
	a.left = append(kept, departure{a.server, r.window.index})
}
