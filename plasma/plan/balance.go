package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

const (
	// uneven is how far above the mean a server may be before anything is moved for it, even
	// down to how far above it actors are moved away.
	uneven, even = 1.15, 1.05
	// worth is by how much of its share the fuller of two servers has to gain by a move.
	worth = 0.95
	// headroom is the part of the upper bound that the mean may reach before servers are
	// added: one server's share is seldom the mean.
	headroom = 0.94
)

// boundsOf are the shares of servers' limits between which a rule doesn't hold: those that
// its condition compares the resource of the server to; 0 for none.
func boundsOf(r *ir.Rule, resource string) (lower, upper float64) {
	for i := range r.When {
		for j := range r.When[i].Terms {
			t := &r.When[i].Terms[j]
			c := t.Compare
			if c == nil || t.Entity >= 0 || c.Feature.Kind != epl.Resource || c.Feature.Name != resource || c.Feature.Stat != "perc" {
				continue
			}
			share := c.Value.Value / 100
			if above := c.Op == epl.Greater || c.Op == epl.GreaterEqual; above != t.Not {
				if upper == 0 || share < upper {
					upper = share
				}
			} else if c.Op != epl.Equal {
				lower = max(lower, share)
			}
		}
	}
	return lower, upper
}

// level is how a resource is used by the servers that are balanced.
type level struct {
	servers      []int32
	load, limit  float64
	mean         float64
	lower, upper float64
	over, under  int  // servers beyond the bounds
	fired        bool // the rule holds at one of them
}

func (r *run) levelOf(rule *ir.Rule, resource string, where map[int32]bool) level {
	var l level
	l.lower, l.upper = boundsOf(rule, resource)
	for i := range r.Servers {
		s := int32(i)
		if r.closed[s] || r.drained[s] || r.keeper[s] != none || r.limit[s].Get(resource) <= 0 {
			continue
		}
		l.servers = append(l.servers, s)
		l.load += r.load[s].Get(resource)
		l.limit += r.limit[s].Get(resource)
		used := r.used(s, resource)
		if l.upper > 0 && used > l.upper {
			l.over++
		}
		if used < l.lower {
			l.under++
		}
		l.fired = l.fired || where[s]
	}
	if l.limit > 0 {
		l.mean = l.load / l.limit
	}
	return l
}

// target is the mean that scaling aims at: the middle of the bounds.
func (l *level) target() float64 {
	switch {
	case l.upper > 0 && l.lower > 0:
		return (l.lower + l.upper) / 2
	case l.upper > 0:
		return 0.85 * l.upper
	}
	return 0
}

// balance evens a resource out over the servers, and says how many are needed.
func (r *run) balance(f fired) {
	resource := f.behavior.Resource
	before := r.levelOf(f.rule, resource, f.servers)
	if len(before.servers) == 0 {
		r.explain.say(f.rule, f.behavior, false, codeClosed, "no server is up that is not reserved")
		return
	}
	from := len(r.plan.Actions)
	raised := 0
	for _, s := range before.servers {
		if before.upper > 0 && r.used(s, resource) > before.upper && r.raise(s, resource, f) {
			raised++
		}
	}
	l := r.levelOf(f.rule, resource, f.servers)
	types := map[string]bool{}
	any := false
	for _, a := range f.behavior.Actors {
		types[a.Type] = true
		any = any || a.Type == epl.Any
	}
	if any {
		types = nil
	}
	stuck := ""
	for _, s := range l.servers {
		if why := r.unload(f, &l, s, types); why != "" && stuck == "" {
			stuck = why
		}
	}
	r.demand.consider(r, f, &l, stuck != "")
	r.explainBalance(f, &l, from, stuck)
}

func (r *run) explainBalance(f fired, l *level, from int, stuck string) {
	moves := 0
	for _, a := range r.plan.Actions[from:] {
		if a.Verb == model.Move {
			moves++
		}
	}
	code, reason := codeBalanced, fmt.Sprintf("the servers use %s in the mean, and none so much more that moving is worth while", percent(l.mean))
	switch {
	case len(r.plan.Actions) > from && moves == 0:
		code, reason = codeResized, "servers may use more in place"
	case moves > 0:
		code, reason = codeMoved, fmt.Sprintf("%s towards the mean of %s", count(moves, "actor moves", "actors move"), percent(l.mean))
	case stuck != "":
		code, reason = codeNoRoom, stuck
	}
	r.explain.add(f.rule, f.behavior.String(), stuck == "" || moves > 0, code, reason, r.explain.since(from))
}

// unload moves actors from a server that is used more than others to those that are used
// least. It tells what keeps it from that.
func (r *run) unload(f fired, l *level, s int32, types map[string]bool) string {
	resource := f.behavior.Resource
	bound := uneven * l.mean
	if l.lower > 0 {
		bound = max(bound, l.target()) // below that nobody suffers
	}
	if l.upper > 0 && l.mean < headroom*l.upper {
		bound = min(bound, l.upper)
	}
	if r.used(s, resource) <= bound || len(l.servers) < 2 {
		return ""
	}
	if r.budget.left == 0 {
		return "the limit on moves is reached"
	}
	if r.shift(f, l, s, types) || r.used(s, resource) <= bound {
		return ""
	}
	if r.budget.left == 0 {
		return "the limit on moves is reached"
	}
	if r.swap(f, l, s, types) || r.ease(f, l, s, types) {
		return ""
	}
	// What rules want together is divided only where it is too much for a server.
	if r.used(s, resource) > cmp.Or(l.upper, r.ceiling) && r.split(f, l, s, types) {
		return ""
	}
	if l.upper > 0 && r.used(s, resource) <= l.upper {
		return ""
	}
	if units := r.units(s, types, resource); len(units) > 0 && units[0].usage.Get(resource) > bound*r.limit[s].Get(resource) {
		return r.Actors[units[0].members[0]].ID + " alone uses more of " + r.Servers[s].ID + " than is meant for all: only a larger server helps"
	}
	return "what is on " + r.Servers[s].ID + " fits nowhere else, was moved lately, or may not move"
}

// shift moves whole units away until the server is near the mean. It tells whether it is.
func (r *run) shift(f fired, l *level, s int32, types map[string]bool) bool {
	resource := f.behavior.Resource
	limit := r.limit[s].Get(resource)
	share := r.share(l, resource)
	for _, u := range r.units(s, types, resource) {
		excess := r.load[s].Get(resource) - l.mean*limit
		if excess <= (even-1)*l.mean*limit {
			return true
		}
		amount := u.usage.Get(resource)
		if amount > 1.2*excess || amount <= 0 || !r.rests(u, l, s, resource) {
			continue
		}
		to, _, _ := r.least(u.members, u.usage, resource, share, s, false)
		if to == none || r.after(to, u.usage, resource) > max(even*l.mean, worth*(r.used(s, resource)-amount/limit)) {
			continue
		}
		if !r.move(u.members, to, f, r.reason(s, to, resource)) {
			return false
		}
	}
	return r.load[s].Get(resource) <= uneven*l.mean*limit
}

// ease moves the smallest unit that makes things better, though it is larger than what is too
// much.
func (r *run) ease(f fired, l *level, s int32, types map[string]bool) bool {
	resource := f.behavior.Resource
	limit := r.limit[s].Get(resource)
	share := r.share(l, resource)
	units := r.units(s, types, resource)
	for i := len(units) - 1; i >= 0; i-- {
		u := units[i]
		amount := u.usage.Get(resource)
		if amount <= 0.1*(r.load[s].Get(resource)-l.mean*limit) || !r.rests(u, l, s, resource) {
			continue
		}
		to, _, _ := r.least(u.members, u.usage, resource, share, s, false)
		if to == none || r.after(to, u.usage, resource) >= worth*r.used(s, resource) {
			continue
		}
		return r.move(u.members, to, f, r.reason(s, to, resource))
	}
	return false
}

// share is up to which share of the processor balancing fills a server.
func (r *run) share(l *level, resource string) float64 {
	if resource != "cpu" {
		return r.ceiling
	}
	if l.upper > 0 {
		return max(l.upper, even*l.mean)
	}
	return max(1, even*l.mean)
}

func (r *run) reason(from, to int32, resource string) string {
	return fmt.Sprintf("%s uses %s of its %s, %s %s", r.Servers[from].ID, percent(r.used(from, resource)), resource,
		r.Servers[to].ID, percent(r.used(to, resource)))
}

// rests tells whether none of a unit was moved lately: where a server has too much to do, within
// this period, else within their residence.
func (r *run) rests(u unit, l *level, s int32, resource string) bool {
	wait := r.residence()
	if r.used(s, resource) > cmp.Or(l.upper, r.ceiling) {
		wait = 2 * r.Window
	}
	for _, a := range u.members {
		if !r.rested(a, wait) {
			return false
		}
	}
	return true
}

// swap exchanges two units where none fits elsewhere as it is.
func (r *run) swap(f fired, l *level, s int32, types map[string]bool) bool {
	const tried = 8
	if r.budget.left < 2 {
		return false
	}
	resource := f.behavior.Resource
	mine := r.units(s, types, resource)
	limit := r.limit[s].Get(resource)
	best, gain := [2]unit{}, 0.0
	to := int32(none)
	for _, t := range r.emptiest(l, resource, s) {
		theirs := r.units(t, types, resource)
		for i := 0; i < len(mine) && i < tried; i++ {
			for j := len(theirs) - 1; j >= 0 && j >= len(theirs)-tried; j-- {
				x, y := mine[i], theirs[j]
				more := x.usage.Sub(y.usage)
				amount := more.Get(resource)
				if amount <= 0 || !r.rests(x, l, s, resource) || !r.rests(y, l, s, resource) || r.returns(x.members, t) || r.returns(y.members, s) {
					continue
				}
				worse := max(r.after(t, more, resource), (r.load[s].Get(resource)-amount)/limit)
				won := r.used(s, resource) - worse
				if won <= gain || worse > worth*r.used(s, resource) || !r.fits(t, more, r.share(l, resource)) {
					continue
				}
				if c, _ := r.may(t, x.members); c != "" {
					continue
				}
				if c, _ := r.may(s, y.members); c != "" {
					continue
				}
				best, gain, to = [2]unit{x, y}, won, t
			}
		}
	}
	if to == none || r.budget.left < len(best[0].members)+len(best[1].members) {
		return false
	}
	why := "exchanged, since nothing fits as it is: " + r.reason(s, to, resource)
	return r.move(best[1].members, s, f, why) && r.move(best[0].members, to, f, why)
}

// emptiest are the servers below the mean that are used least, a few.
func (r *run) emptiest(l *level, resource string, but int32) []int32 {
	const few = 4
	var all []int32
	for _, t := range l.servers {
		if t == but || r.used(t, resource) >= l.mean {
			continue
		}
		at, _ := slices.BinarySearchFunc(all, t, func(x, y int32) int {
			return cmp.Or(cmp.Compare(r.used(x, resource), r.used(y, resource)), cmp.Compare(x, y))
		})
		if at < few {
			all = slices.Insert(all, at, t)
			all = all[:min(len(all), few)]
		}
	}
	return all
}

// split takes members out of a group that is too large for the server, those first that call
// the others least.
func (r *run) split(f fired, l *level, s int32, types map[string]bool) bool {
	resource := f.behavior.Resource
	moved := false
	for _, u := range r.units(s, types, resource) {
		excess := r.load[s].Get(resource) - l.mean*r.limit[s].Get(resource)
		if excess <= (uneven-1)*l.mean*r.limit[s].Get(resource) {
			break
		}
		if len(u.members) < 2 {
			continue
		}
		for _, a := range r.loosest(u.members) {
			amount := r.usage[a].Get(resource)
			if excess <= 0 || amount <= 0 || amount > 1.2*excess || !r.rested(a, 2*r.Window) {
				continue
			}
			to, _, _ := r.least([]int32{a}, r.usage[a], resource, r.share(l, resource), s, false)
			if to == none || r.after(to, r.usage[a], resource) >= worth*r.used(s, resource) {
				continue
			}
			r.groups.leave([]int32{a})
			if !r.move([]int32{a}, to, f, "split from its group, which is too large for "+r.Servers[s].ID) {
				return moved
			}
			excess -= amount
			moved = true
		}
	}
	return moved
}
