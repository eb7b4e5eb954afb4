package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// colocate brings actors together, those first that call each other most.
func (r *run) colocate(f fired) {
	type candidate struct {
		pair
		gain float64
	}
	all := make([]candidate, len(f.pairs))
	for i, p := range f.pairs {
		all[i] = candidate{p, r.traffic(p)}
	}
	slices.SortFunc(all, func(x, y candidate) int {
		if c := cmp.Compare(y.gain, x.gain); c != 0 {
			return c
		}
		return cmp.Or(r.names(x.a, y.a), r.names(x.b, y.b))
	})
	for i := range all {
		p := all[i].pair
		from := len(r.plan.Actions)
		var done bool
		var code, why string
		if f.behavior.Level == epl.Server {
			done, code, why = r.join(f, p)
		} else {
			done, code, why = r.approach(f, p)
		}
		r.explain.pair(f, p, done, code, from, func() string { return why })
	}
}

// traffic is how many calls pass between two actors.
func (r *run) traffic(p pair) float64 {
	if len(r.Calls) == 0 {
		return 0
	}
	sum := 0.0
	index := r.callIndex()
	for _, ends := range [][2]int32{{p.a, p.b}, {p.b, p.a}} {
		for _, i := range index.out.of(ends[0]) {
			if r.Calls[i].To == int(ends[1]) {
				sum += r.Calls[i].Count
			}
		}
	}
	return sum
}

// join makes one group of two actors' groups, on one server.
func (r *run) join(f fired, p pair) (done bool, code, why string) {
	if g := r.groups.of[p.a]; g != none && g == r.groups.of[p.b] {
		return true, codeTogether, "they are in one group already"
	}
	if r.budget.left == 0 && r.home[p.a] != r.home[p.b] {
		return false, codeBudget, "the limit on moves is reached"
	}
	a, b := r.groups.with(p.a), r.groups.with(p.b)
	both := slices.Concat(a, b)
	usage := r.sum(both)
	if !r.anyHolds(usage) {
		return false, codeTooLarge, "together they use more than a server has"
	}
	for _, x := range a {
		for _, bond := range r.apart[x] {
			if slices.Contains(b, bond.other) {
				return false, codeSeparate, r.Actors[x].ID + " must be separate from " + r.Actors[bond.other].ID + " by " + bond.rule
			}
		}
	}
	if r.home[p.a] == r.home[p.b] {
		r.groups.join(p.a, p.b)
		return true, codeTogether, "both are on one server already"
	}
	// The heavier group stays, if it can.
	if r.weight(a) < r.weight(b) {
		a, b = b, a
	}
	for _, way := range [][2][]int32{{b, a}, {a, b}} {
		moving, to := way[0], r.home[way[1][0]]
		if code, why = r.hinders(moving, to); code != "" {
			continue
		}
		if code, why = r.may(to, both); code != "" {
			continue
		}
		if here, there := r.ties(moving, r.home[moving[0]]), r.ties(moving, to); here > there {
			code, why = codeTied, fmt.Sprintf("%s has %.4g calls with those on %s, and %.4g with those on %s",
				r.Actors[moving[0]].ID, here, r.Servers[r.home[moving[0]]].ID, there, r.Servers[to].ID)
			continue
		}
		if !r.fits(to, r.sum(moving), r.ceiling) {
			code, why = codeNoRoom, r.Servers[to].ID+" has no room for "+r.Actors[moving[0]].ID
			continue
		}
		if !r.move(moving, to, f, "to be with "+r.Actors[way[1][0]].ID) {
			return false, codeBudget, "the limit on moves is reached"
		}
		r.groups.join(p.a, p.b)
		return true, codeMoved, r.Actors[moving[0]].ID + " moves to " + r.Servers[to].ID
	}
	if code != codeNoRoom || r.fixed(both) {
		return false, code, why
	}
	to, c, w := r.least(both, usage, "cpu", r.ceiling, none, true)
	if to == none {
		return false, c, w
	}
	if !r.move(both, to, f, "to be together where there is room") {
		return false, codeBudget, "the limit on moves is reached"
	}
	r.groups.join(p.a, p.b)
	return true, codeMoved, "both move to " + r.Servers[to].ID + ", which has room for them"
}

// ties is how many calls pass between actors and the others on a server.
func (r *run) ties(members []int32, server int32) float64 {
	if len(r.Calls) == 0 {
		return 0
	}
	sum := 0.0
	index := r.callIndex()
	for _, a := range members {
		for _, i := range index.out.of(a) {
			if to := int32(r.Calls[i].To); r.home[to] == server && !slices.Contains(members, to) {
				sum += r.Calls[i].Count
			}
		}
		for _, i := range index.in.of(a) {
			if from := int32(r.Calls[i].From); from >= 0 && r.home[from] == server && !slices.Contains(members, from) {
				sum += r.Calls[i].Count
			}
		}
	}
	return sum
}

// fixed tells whether any of the actors must stay, or was moved lately.
func (r *run) fixed(members []int32) bool {
	code, _ := r.hinders(members, none)
	return code != ""
}

// hinders tells why actors can't go to a server.
func (r *run) hinders(members []int32, to int32) (code, why string) {
	for _, a := range members {
		if r.home[a] == to {
			continue
		}
		if code, why = r.stays(a); code != "" {
			return code, why
		}
		if !r.settled(a) {
			return codeSettled, r.Actors[a].ID + " was moved lately"
		}
	}
	return "", ""
}

// weight is what moving actors costs, in moves: each, and each half MiB of their state.
func (r *run) weight(members []int32) float64 {
	sum := 0.0
	for _, a := range members {
		sum += 1 + r.Actors[a].State/(1<<19)
		if len(r.pinned) > 0 && r.pinned[a] != "" {
			sum += 1e12 // the other moves
		}
	}
	return sum
}

// anyHolds tells whether there is a server that could have so much.
func (r *run) anyHolds(usage model.Resources) bool {
	for i := range r.Servers {
		limit := r.limit[i]
		if (limit.CPU <= 0 || usage.CPU <= r.ceiling*limit.CPU) && (limit.Mem <= 0 || usage.Mem <= full*limit.Mem) {
			return true
		}
	}
	return false
}

// approach brings actors onto one node, or into one zone.
func (r *run) approach(f fired, p pair) (done bool, code, why string) {
	level := f.behavior.Level
	bind := func() {
		r.beside[p.a] = append(r.beside[p.a], bond{p.b, level, f.rule.Name})
		r.beside[p.b] = append(r.beside[p.b], bond{p.a, level, f.rule.Name})
	}
	if r.near(r.home[p.a], r.home[p.b], level) {
		bind()
		return true, codeTogether, "they are in one " + string(level) + " already"
	}
	first, second := p.a, p.b
	if r.weight([]int32{first}) > r.weight([]int32{second}) {
		first, second = second, first
	}
	for _, way := range [][2]int32{{first, second}, {second, first}} {
		moving := r.groups.with(way[0])
		if code, why = r.hinders(moving, none); code != "" {
			continue
		}
		to, best := int32(none), 0.0
		usage := r.sum(moving)
		code, why = codeNoRoom, "no server near "+r.Actors[way[1]].ID+" has room"
		for i := range r.Servers {
			s := int32(i)
			if !r.near(s, r.home[way[1]], level) || !r.fits(s, usage, r.ceiling) {
				continue
			}
			if c, w := r.may(s, moving); c != "" {
				code, why = c, w
				continue
			}
			if after := r.after(s, usage, "cpu"); to == none || after < best {
				to, best = s, after
			}
		}
		if to == none {
			continue
		}
		if !r.move(moving, to, f, "to be near "+r.Actors[way[1]].ID) {
			return false, codeBudget, "the limit on moves is reached"
		}
		bind()
		return true, codeMoved, r.Actors[way[0]].ID + " moves to " + r.Servers[to].ID
	}
	return false, code, why
}
