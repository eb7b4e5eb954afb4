package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// raise lets a server use more of its node, if both allow as much as it needs. Nothing has to
// move for it.
func (r *run) raise(s int32, resource string, f fired) bool {
	one := &r.Servers[s]
	if one.Node < 0 || one.Node >= len(r.Nodes) || resource == "net" {
		return false
	}
	limit, load := r.limit[s].Get(resource), r.load[s].Get(resource)
	need := load / (0.85 * r.ceiling)
	room := limit + max(0, r.free[one.Node].Get(resource))
	if r.Nodes[one.Node].Capacity.Get(resource) <= 0 {
		room = limit
	}
	if need <= limit || need > one.Max.Get(resource) || need > room {
		return false
	}
	to := r.limit[s]
	if resource == "cpu" {
		to.CPU = need
	} else {
		to.Mem = need
	}
	r.free[one.Node] = r.free[one.Node].Add(r.limit[s]).Sub(to)
	r.limit[s] = to
	if _, known := r.plan.Memory.Raised[one.ID]; !known {
		if r.plan.Memory.Raised == nil {
			r.plan.Memory.Raised = map[string]model.Resources{}
		}
		r.plan.Memory.Raised[one.ID] = one.Limit
	}
	r.act(model.Action{
		Verb: model.Resize, Actor: none, From: none, To: int(s), ToName: one.ID, Node: none, Limit: to, Resource: resource,
		Rule: nameOf(f.rule), Reason: fmt.Sprintf("it uses %s of its %s, and its node has more", percent(load/limit), resource),
	})
	return true
}

// lower gives servers whose limits were raised their old ones back, once those are enough.
func (r *run) lower() {
	for i := range r.Servers {
		one := &r.Servers[i]
		was, raised := r.plan.Memory.Raised[one.ID]
		if !raised || r.limit[i] != one.Limit || r.load[i].CPU > 0.7*r.ceiling*was.CPU || r.load[i].Mem > 0.7*full*was.Mem && was.Mem > 0 {
			continue
		}
		delete(r.plan.Memory.Raised, one.ID)
		r.limit[i] = was
		at := r.act(model.Action{
			Verb: model.Resize, Actor: none, From: none, To: i, ToName: one.ID, Node: none, Limit: was, Rule: nameOf(nil),
			Reason: "its old limit is enough again",
		})
		r.explain.add(nil, "", true, codeResized, one.ID+" has its old limit again: that is enough", []int{at})
	}
}

// loosest are a group's members, those that call the others least first.
func (r *run) loosest(members []int32) []int32 {
	in := make(map[int32]bool, len(members))
	for _, a := range members {
		in[a] = true
	}
	ties := make(map[int32]float64, len(members))
	if len(r.Calls) > 0 {
		index := r.callIndex()
		for _, a := range members {
			for _, i := range index.out.of(a) {
				if to := int32(r.Calls[i].To); in[to] {
					ties[a] += r.Calls[i].Count
					ties[to] += r.Calls[i].Count
				}
			}
		}
	}
	sorted := slices.Clone(members)
	slices.SortFunc(sorted, func(x, y int32) int {
		return cmp.Or(cmp.Compare(ties[x], ties[y]), r.names(x, y))
	})
	return sorted
}
