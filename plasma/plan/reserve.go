package plan

import (
	"cmp"
	"maps"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// stillNeeds is the share of a server's limit above which an actor keeps its reservation,
// though no rule asks for it: on its own server what made the rule hold is gone.
const stillNeeds = 0.4

// reserve keeps servers for actors that rules reserve a resource for.
func (r *run) reserve() {
	asked := map[string]fired{}
	var order []int32
	for _, f := range r.fired {
		if f.behavior.Verb != epl.Reserve {
			continue
		}
		for _, p := range f.pairs {
			id := r.Actors[p.a].ID
			if _, known := asked[id]; !known {
				asked[id] = f
				order = append(order, p.a)
			}
		}
	}
	r.keepReserved(asked)
	for _, a := range order {
		f := asked[r.Actors[a].ID]
		from := len(r.plan.Actions)
		done, code, why := r.give(f, a)
		r.explain.pair(f, pair{a, none}, done, code, from, func() string { return why })
	}
}

// keepReserved takes over the reservations that there are, and ends those that nobody needs.
func (r *run) keepReserved(asked map[string]fired) {
	if len(r.plan.Memory.Reserved) == 0 {
		return
	}
	actors, servers := map[string]int32{}, map[string]int32{}
	for i := range r.Actors {
		if _, ok := r.plan.Memory.Reserved[r.Actors[i].ID]; ok {
			actors[r.Actors[i].ID] = int32(i)
		}
	}
	for i := range r.Servers {
		servers[r.Servers[i].ID] = int32(i)
	}
	for _, id := range slices.Sorted(maps.Keys(r.plan.Memory.Reserved)) {
		had := r.plan.Memory.Reserved[id]
		a, lives := actors[id]
		s, there := servers[had.Server]
		if !lives || !there || r.Servers[s].State != model.Up || r.home[a] != s {
			delete(r.plan.Memory.Reserved, id)
			if there {
				r.release(a, s, id, had, id+" is not there", lives)
			}
			continue
		}
		if _, again := asked[id]; again {
			had.Last = r.At
			r.plan.Memory.Reserved[id] = had
		}
		quiet := r.At-had.Last > max(3*r.Window, r.program.Limits.Down)
		if quiet && r.usage[a].Get(had.Resource) < stillNeeds*r.limit[s].Get(had.Resource) {
			delete(r.plan.Memory.Reserved, id)
			r.release(a, s, id, had, "no rule has asked for it for "+(r.At-had.Last).String(), lives)
			continue
		}
		r.keeper[s] = a
	}
}

func (r *run) release(a, s int32, id string, had model.Reservation, why string, lives bool) {
	index := int(a)
	if !lives {
		index = none
	}
	at := r.act(model.Action{
		Verb: model.Release, Actor: index, ActorName: id, From: none, To: int(s), ToName: r.Servers[s].ID, Node: none,
		Resource: had.Resource, Rule: had.Rule, Reason: why,
	})
	r.plan.Decisions = append(r.plan.Decisions, model.Decision{
		Rule: had.Rule, Behavior: "reserve(" + id + ", " + had.Resource + ")", Done: true, Code: codeReleased,
		Reason: r.Servers[s].ID + " is for all again: " + why, Actions: []int{at},
	})
}

// give reserves a server for an actor: its own, if that can be made larger or the others are
// few; else one where there are fewest to send away; else a new one.
func (r *run) give(f fired, a int32) (done bool, code, why string) {
	resource := f.behavior.Resource
	id := r.Actors[a].ID
	if had, ok := r.plan.Memory.Reserved[id]; ok {
		return true, codeReserved, had.Server + " is reserved for it already"
	}
	own := r.home[a]
	if code, why := r.stays(a); code != "" && code != codePinned {
		return false, code, why
	}
	if r.raise(own, resource, f) {
		return true, codeResized, r.Servers[own].ID + " may use more, so that it needs no server of its own"
	}
	free := 0
	for i := range r.Servers {
		if !r.closed[i] && !r.drained[i] && r.keeper[i] == none {
			free++
		}
	}
	if free < 2 {
		r.demand.want(1, f.rule, "to reserve a server for "+id)
		return false, codeNoRoom, "there is but one server for all others"
	}
	members := r.groups.with(a)
	to, cost := int32(none), 0.0
	code, why = codeNoRoom, "no server can be emptied for it"
	for i := range r.Servers {
		s := int32(i)
		if s != own && (r.pinned[a] != "" || !r.settled(a)) {
			continue
		}
		if r.keeper[s] != none || s != own && !r.allows(s, members, &code, &why) {
			continue
		}
		price, ok := r.emptying(s, members)
		if !ok {
			continue
		}
		if s != own {
			price += r.weight(members)
		}
		if to == none || price < cost {
			to, cost = s, price
		}
	}
	if to == none {
		r.demand.want(1, f.rule, "to reserve a server for "+id)
		return false, code, why
	}
	return r.clear(f, a, members, to)
}

func (r *run) allows(s int32, members []int32, code, why *string) bool {
	if c, w := r.may(s, members); c != "" {
		*code, *why = c, w
		return false
	}
	return r.fits(s, r.sum(members), 1) || len(r.on(s)) > 0
}

// emptying is what it costs to send all others away from a server; false if they can't go.
func (r *run) emptying(server int32, members []int32) (float64, bool) {
	sum, cost := model.Resources{}, 0.0
	for _, a := range r.on(server) {
		if slices.Contains(members, a) {
			continue
		}
		if code, _ := r.stays(a); code != "" {
			return 0, false
		}
		sum = sum.Add(r.usage[a])
		cost += r.weight([]int32{a})
	}
	if cost == 0 {
		return 0, true
	}
	room := 0.0
	for i := range r.Servers {
		if s := int32(i); s != server && !r.closed[s] && !r.drained[s] && r.keeper[s] == none {
			room += max(0, r.ceiling*r.limit[s].CPU-r.load[s].CPU)
		}
	}
	// Where the actor leaves there will be room, too.
	return cost, sum.CPU <= room+r.sum(members).CPU
}

// clear moves the actor to its server, and then the others away.
func (r *run) clear(f fired, a int32, members []int32, to int32) (done bool, code, why string) {
	id, name := r.Actors[a].ID, r.Servers[to].ID
	if !r.move(members, to, f, "to a server of its own") {
		return false, codeBudget, "the limit on moves is reached"
	}
	r.keeper[to] = a
	left := 0
	for _, u := range r.units(to, nil, "cpu") {
		if slices.Contains(u.members, a) {
			continue
		}
		at, _, _ := r.least(u.members, u.usage, "cpu", 1, to, false)
		if at == none {
			at, _, _ = r.least(u.members, u.usage, "cpu", 1, to, true)
		}
		if at == none || !r.move(u.members, at, f, name+" is reserved for "+id) {
			left++
		}
	}
	if r.plan.Memory.Reserved == nil {
		r.plan.Memory.Reserved = map[string]model.Reservation{}
	}
	r.plan.Memory.Reserved[id] = model.Reservation{Server: name, Resource: f.behavior.Resource, Rule: f.rule.Name, Since: r.At, Last: r.At}
	r.act(model.Action{
		Verb: model.Reserve, Actor: int(a), ActorName: id, From: none, To: int(to), ToName: name, Node: none,
		Resource: f.behavior.Resource, Rule: f.rule.Name, Reason: "asked for by " + f.rule.Name,
	})
	why = name + " is reserved for " + id
	if left > 0 {
		why += "; " + count(left, "other has", "others have") + " still to leave it"
	}
	return true, codeReserved, why
}

// ceiling is the share of a server's processor up to which actors are put there: the lowest
// upper bound of the policy, else 85 %.
func ceiling(p *ir.Program) float64 {
	lowest := 0.0
	for _, rule := range p.Rules {
		for _, b := range rule.Do {
			if b.Verb == epl.Balance && b.Resource == "cpu" {
				if _, upper := boundsOf(rule, "cpu"); upper > 0 && (lowest == 0 || upper < lowest) {
					lowest = upper
				}
			}
		}
	}
	return cmp.Or(lowest, 0.85)
}
