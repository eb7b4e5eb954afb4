package sim

import (
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// worldEvent is one of the world's events.
func (r *run) worldEvent(i int32) {
	e := &r.world.Events[i]
	switch {
	case e.Born != nil:
		r.born(e.Born)
	case e.Dies != "":
		r.dies(r.ids[e.Dies])
	case e.Refs != nil:
		r.actors[r.ids[e.Refs.ID]].refs = r.references(e.Refs.Refs)
		r.window.refs++
	case e.Fails != "":
		r.fails(e.Fails, e.Recover)
	}
}

// born brings an actor to life. One that lives already stays as it is.
func (r *run) born(w *world.Actor) {
	i := r.ids[w.ID]
	a := &r.actors[i]
	if a.status != unborn {
		return
	}
	r.setActor(i, w)
	on := int32(w.Server)
	if on < 0 || int(on) >= len(r.servers) || r.servers[on].state != model.Up || r.servers[on].stopping {
		on = r.leastUsed()
	}
	t := &r.types[a.typ]
	a.place = int32(len(t.live))
	t.live = append(t.live, i)
	r.window.refs++
	if on == none {
		// It waits for a server as those of a failed one do.
		a.status = down
		a.server = r.anyServer()
		r.servers[a.server].actors++
		r.homeless = append(r.homeless, i)
	} else {
		a.status = idle
		a.server = on
		a.before = on
		r.servers[on].actors++
	}
	r.keepOrder(a) // there may have been one of its name
	r.comesOrGoes(i)
}

// anyServer gives the last server that was started, for actors that are nowhere.
func (r *run) anyServer() int32 { return int32(len(r.servers) - 1) }

// dies ends an actor, once its turn is over.
func (r *run) dies(i int32) {
	a := &r.actors[i]
	switch a.status {
	case unborn:
	case running:
		a.dying = true
	default:
		r.die(i)
	}
}

func (r *run) die(i int32) {
	a := &r.actors[i]
	a.dying = false
	r.noMove(a)
	r.void(a)
	a.status = unborn
	r.servers[a.server].actors--
	t := &r.types[a.typ]
	last := t.live[len(t.live)-1]
	t.live[a.place] = last
	r.actors[last].place = a.place
	t.live = t.live[:len(t.live)-1]
	r.window.refs++
	r.comesOrGoes(i)
}

// void ends all that an actor was doing.
func (r *run) void(a *actor) {
	a.life++
	a.debt = 0
	r.clear(a)
}

// noMove calls off a move.
func (r *run) noMove(a *actor) {
	if a.target != none {
		r.servers[a.target].incoming--
		a.target = none
	}
}

// fails is the failure of a node or a server.
func (r *run) fails(name string, after time.Duration) {
	for k := range r.nodes {
		if r.nodes[k].ID != name {
			continue
		}
		r.nodes[k].down = true
		for i := range r.servers {
			if r.servers[i].node == int32(k) {
				r.fail(int32(i), after)
			}
		}
		r.heap.push(r.now+int64(after), evNodeBack, int32(k), 0)
		return
	}
	for i := range r.servers {
		if r.servers[i].id == name {
			r.fail(int32(i), after)
			return
		}
	}
	r.result.Ignored++ // no such server was ever started in this run
}

// fail ends a server: what its actors were doing is lost, with the messages they had. What is
// sent to them from now on waits until they are elsewhere.
func (r *run) fail(i int32, after time.Duration) {
	s := &r.servers[i]
	if s.gone || s.state == model.Down {
		return
	}
	r.result.Failures++
	for k := range r.actors {
		a := &r.actors[k]
		if a.server != i || a.status == unborn || a.status == down {
			continue
		}
		if a.status == running {
			r.account(a)
		}
		r.noMove(a)
		r.void(a)
		switch {
		case a.dying:
			a.status = idle
			r.die(int32(k))
		default:
			a.status = down
		}
	}
	s = &r.servers[i]
	s.busy = 0
	s.ready = ready{}
	s.reserved = false
	r.unpay(s)
	s.state = model.Down
	r.heap.push(r.now+int64(after), evRecover, i, 0)
}

// recover puts the actors of a failed server on others.
func (r *run) recover(i int32) {
	for k := range r.names {
		a := &r.actors[k]
		if a.server == i && a.status == down {
			r.rehome(int32(k))
		}
	}
	r.servers[i].gone = true
}

// rehome puts an actor that has no server on one, or leaves it to the next that comes up.
func (r *run) rehome(i int32) {
	on := r.leastUsed()
	if on == none {
		r.homeless = append(r.homeless, i)
		return
	}
	r.result.Recovered++
	r.relocate(i, on)
}
