package sim

import (
	"fmt"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// apply does what a plan says, in its order. What can't be done is counted.
func (r *run) apply(actions []model.Action) {
	for i := range actions {
		if wrong := r.act(&actions[i]); wrong != "" {
			r.result.Invalid[fmt.Sprintf("%.20s: %s", actions[i].Verb, wrong)]++
		}
	}
}

// act does an action, or says what is wrong with it.
func (r *run) act(a *model.Action) string {
	switch a.Verb {
	case model.Move:
		return r.actMove(a)
	case model.ScaleOut:
		return r.actScaleOut(a)
	case model.Resize, model.Drain, model.Stop, model.Reserve, model.Release:
	default:
		return "there is no such action"
	}
	i := r.serverOf(a.To)
	if i == none {
		return "there is no such server"
	}
	v := &r.servers[i]
	if v.gone || v.stopping || v.state == model.Down {
		return "the server is gone"
	}
	switch a.Verb {
	case model.Resize:
		return r.actResize(a, i)
	case model.Drain:
		if v.state == model.Draining {
			return "the server is draining already"
		}
		if v.state == model.Starting {
			return "the server has not started yet"
		}
		v.state = model.Draining
	case model.Stop:
		switch {
		case v.state != model.Draining:
			return "the server is not draining"
		case v.actors > 0 || v.incoming > 0:
			return "the server is not empty"
		}
		r.result.ScaleIns++
		r.stop(i)
	case model.Reserve:
		v.reserved = true
	case model.Release:
		v.reserved = false
	}
	return ""
}

func (r *run) actMove(a *model.Action) string {
	if a.Actor < 0 || a.Actor >= len(r.window.actors) {
		return "there is no such actor"
	}
	i := r.window.actors[a.Actor]
	x := &r.actors[i]
	to := r.serverOf(a.To)
	if to == none {
		return "there is no such server"
	}
	v := &r.servers[to]
	switch {
	case x.status == unborn || x.dying:
		return "the actor is gone"
	case x.status == down:
		return "the actor's server is down"
	case x.fixed:
		return "the actor is fixed"
	case x.target != none:
		return "the actor is moving already"
	case x.server == to:
		return "the actor is there already"
	case r.serverOf(a.From) != x.server:
		return "the actor is not on that server"
	case v.gone || v.stopping || v.state != model.Up:
		return "the target is not up"
	}
	r.move(i, to)
	return ""
}

func (r *run) actScaleOut(a *model.Action) string {
	limit := a.Limit
	if limit.CPU == 0 {
		limit.CPU = r.world.Server.Cores
	}
	if limit.Mem == 0 {
		limit.Mem = r.world.Server.Memory
	}
	if limit.Net == 0 {
		limit.Net = r.world.Server.Network
	}
	switch {
	case !positive(limit.CPU) || !positive(limit.Mem) || !positive(limit.Net):
		return "its limit is no amount"
	case len(r.servers) >= maxServers:
		return "too many servers have been started"
	}
	on := int32(a.Node)
	switch {
	case a.Node < 0:
		if on = r.freestNode(limit.CPU); on == none {
			return "no node has room"
		}
	case a.Node >= len(r.nodes):
		return "there is no such node"
	case r.nodes[on].down:
		return "the node is down"
	case r.nodes[on].Cores-r.nodes[on].cores+slack < limit.CPU:
		return "the node has no room"
	}
	r.result.ScaleOuts++
	r.newServer(on, limit, r.world.Costs.Start)
	return ""
}

func (r *run) actResize(a *model.Action, i int32) string {
	v := &r.servers[i]
	limit := v.pending
	if a.Limit.CPU != 0 {
		limit.CPU = a.Limit.CPU
	}
	if a.Limit.Mem != 0 {
		limit.Mem = a.Limit.Mem
	}
	if a.Limit.Net != 0 {
		limit.Net = a.Limit.Net
	}
	n := &r.nodes[v.node]
	switch {
	case !positive(limit.CPU) || !positive(limit.Mem) || !positive(limit.Net):
		return "its limit is no amount"
	case limit.CPU > max(r.world.Server.Max, r.world.Server.Cores)+slack:
		return "a server can't have as many cores"
	case n.cores-v.pending.CPU+limit.CPU > n.Cores+slack:
		return "the node has no room"
	}
	n.cores += limit.CPU - v.pending.CPU
	v.pending = limit
	r.result.Resizes++
	r.heap.push(r.now+int64(r.world.Costs.Resize), evResized, i, 0)
	return ""
}

// serverOf gives the server of a number in the snapshot.
func (r *run) serverOf(snap int) int32 {
	if snap < 0 || snap >= len(r.window.snapped) {
		return none
	}
	return r.window.snapped[snap]
}
