package plan

import "github.com/peregrine-dev/peregrine/plasma/epl"

// separate takes actors apart that must be, and has all that follows keep them so.
func (r *run) separate() {
	for _, f := range r.fired {
		if f.behavior.Verb != epl.Separate {
			continue
		}
		for _, p := range f.pairs {
			r.apart[p.a] = append(r.apart[p.a], bond{p.b, f.behavior.Level, f.rule.Name})
			r.apart[p.b] = append(r.apart[p.b], bond{p.a, f.behavior.Level, f.rule.Name})
		}
	}
	for _, f := range r.fired {
		if f.behavior.Verb != epl.Separate {
			continue
		}
		for _, p := range f.pairs {
			r.part(f, p)
		}
	}
}

// part moves one of two actors that are too near each other: the one that is moved cheaper.
func (r *run) part(f fired, p pair) {
	if p.a > p.b && r.paired(f, pair{p.b, p.a}) {
		return // the same two
	}
	if !r.near(r.home[p.a], r.home[p.b], f.behavior.Level) {
		r.explain.pair(f, p, true, codeApart, len(r.plan.Actions), func() string { return "they are already" })
		return
	}
	first, second := p.a, p.b
	if r.Actors[first].State > r.Actors[second].State {
		first, second = second, first
	}
	var code, why string
	for _, a := range []int32{first, second} {
		if code, why = r.stays(a); code != "" {
			continue
		}
		var to int32
		if to, code, why = r.least([]int32{a}, r.usage[a], "cpu", r.ceiling, r.home[a], true); to == none {
			continue
		}
		from := len(r.plan.Actions)
		if !r.move([]int32{a}, to, f, "separate from "+r.Actors[p.a+p.b-a].ID) {
			code, why = codeBudget, "the limit on moves is reached"
			break
		}
		r.explain.pair(f, p, true, codeMoved, from, func() string {
			return r.Actors[a].ID + " moves to " + r.Servers[to].ID + ", the allowed server that is used least"
		})
		return
	}
	if code == codeSeparate || code == codeNoRoom {
		r.demand.want(1, f.rule, "to separate "+r.Actors[p.a].ID+" from "+r.Actors[p.b].ID)
	}
	r.explain.pair(f, p, false, code, len(r.plan.Actions), func() string { return why })
}

// paired tells whether a behavior has a pair: its pairs are sorted.
func (r *run) paired(f fired, p pair) bool {
	low, high := 0, len(f.pairs)
	for low < high {
		middle := (low + high) / 2
		if q := f.pairs[middle]; q.a < p.a || q.a == p.a && q.b < p.b {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low < len(f.pairs) && f.pairs[low] == p
}
