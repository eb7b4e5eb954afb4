package plan

import (
	"cmp"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// groups are actors that are kept on one server, and move as one.
type groups struct {
	of      []int32   // by actor: its group, or none
	members [][]int32 // by group
}

// with are all that move with an actor, itself among them.
func (g *groups) with(a int32) []int32 {
	if k := g.of[a]; k != none {
		return g.members[k]
	}
	return []int32{a}
}

// join makes one group of two actors' groups.
func (g *groups) join(a, b int32) {
	x, y := g.of[a], g.of[b]
	switch {
	case x == none && y == none:
		g.of[a], g.of[b] = int32(len(g.members)), int32(len(g.members))
		g.members = append(g.members, []int32{a, b})
	case x == none:
		g.of[a], g.members[y] = y, append(g.members[y], a)
	case y == none:
		g.of[b], g.members[x] = x, append(g.members[x], b)
	case x != y:
		if len(g.members[x]) < len(g.members[y]) {
			x, y = y, x
		}
		for _, m := range g.members[y] {
			g.of[m] = x
		}
		g.members[x], g.members[y] = append(g.members[x], g.members[y]...), nil
	}
}

// leave takes actors out of their group.
func (g *groups) leave(actors []int32) {
	for _, a := range actors {
		if k := g.of[a]; k != none {
			g.members[k] = slices.DeleteFunc(slices.Clone(g.members[k]), func(m int32) bool { return m == a })
			g.of[a] = none
		}
	}
}

// unit is what moves as one.
type unit struct {
	members []int32
	usage   model.Resources
}

// units are what a server hosts, of those that may move, the one that uses most of a resource
// first. Without types each may; else one of those has to be among its members.
func (r *run) units(server int32, types map[string]bool, resource string) []unit {
	var all []unit
	done := map[int32]bool{}
	for _, a := range r.on(server) {
		if k := r.groups.of[a]; k != none {
			if done[k] {
				continue
			}
			done[k] = true
		}
		u := unit{members: r.groups.with(a)}
		wanted := types == nil
		for _, m := range u.members {
			if code, _ := r.stays(m); code != "" || r.home[m] != server {
				wanted = false
				break
			}
			wanted = wanted || types[r.Actors[m].Type]
			u.usage = u.usage.Add(r.usage[m])
		}
		if wanted {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(x, y unit) int {
		return cmp.Or(cmp.Compare(y.usage.Get(resource), x.usage.Get(resource)), r.names(x.members[0], y.members[0]))
	})
	return all
}

// least is the server that has most room for actors, by the share of a resource that would be
// used; none if there is none, and why not. With back it may be one that they left lately.
func (r *run) least(members []int32, usage model.Resources, resource string, share float64, but int32, back bool) (to int32, code, why string) {
	to, code, why = none, codeNoRoom, "no server has room"
	best := 0.0
	for i := range r.Servers {
		s := int32(i)
		if s == but || r.closed[s] || r.drained[s] || !r.fits(s, usage, share) {
			continue
		}
		after := r.after(s, usage, resource)
		if to != none && after >= best {
			continue
		}
		if c, w := r.may(s, members); c != "" {
			if to == none {
				code, why = c, w
			}
			continue
		}
		if !back && r.returns(members, s) {
			continue
		}
		to, best = s, after
	}
	return to, code, why
}

// after is the share of a server's limit that would be used with more on it.
func (r *run) after(server int32, more model.Resources, resource string) float64 {
	limit := r.limit[server].Get(resource)
	if limit <= 0 {
		return 0
	}
	return (r.load[server].Get(resource) + more.Get(resource)) / limit
}
