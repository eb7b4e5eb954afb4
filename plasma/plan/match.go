package plan

import (
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// maxMatches bounds what a rule is carried out for at once: a condition that connects its
// actors by nothing matches each with each.
const maxMatches = 1 << 18

// matches is where a rule holds.
type matches struct {
	// pairs are the actors of each of the rule's behaviors, each tuple once, in the order of
	// the actors.
	pairs [][]pair
	// servers are those where the condition held.
	servers map[int32]bool
	cut     bool // there were more than maxMatches
}

// pair is the actors of a behavior; b is none if it has one.
type pair struct{ a, b int32 }

// matcher finds where a rule's alternative holds, by binding variables one after another.
type matcher struct {
	*history
	rule *ir.Rule
	alt  *ir.Alternative
	// order is in which variables are bound; ready[i] are the terms that can be asked for once
	// i of them are, first those that cost least.
	order  []int
	source []int // the term that variable order[i] is found by, or none
	ready  [][]int
	bound  []int32
	seen   []map[pair]bool
	out    *matches
	steps  int
}

// match finds where a rule holds.
func (h *history) match(r *ir.Rule) *matches {
	out := &matches{pairs: make([][]pair, len(r.Do)), servers: map[int32]bool{}}
	seen := make([]map[pair]bool, len(r.Do))
	for i := range seen {
		seen[i] = map[pair]bool{}
	}
	for i := range r.When {
		alt := &r.When[i]
		for t := range alt.Terms {
			h.learn(&alt.Terms[t], alt.Vars)
		}
		m := &matcher{history: h, rule: r, alt: alt, seen: seen, out: out, bound: make([]int32, len(alt.Vars))}
		m.prepare()
		if len(alt.Vars) == 0 {
			m.perServer()
			continue
		}
		m.bind(0)
	}
	for _, list := range out.pairs {
		slices.SortFunc(list, func(x, y pair) int {
			if x.a != y.a {
				return int(x.a - y.a)
			}
			return int(x.b - y.b)
		})
	}
	return out
}

// perServer asks a condition without actors of each server.
func (m *matcher) perServer() {
	for s := range m.working() {
		if m.all(m.ready[0], s) {
			m.out.servers[s] = true
		}
	}
}

// working are the servers that do their work.
func (h *history) working() func(func(int32) bool) {
	return func(yield func(int32) bool) {
		for i := range h.v.Servers {
			if s := h.v.Servers[i].State; (s == model.Up || s == model.Draining) && !yield(int32(i)) {
				return
			}
		}
	}
}

func (m *matcher) all(terms []int, home int32) bool {
	for _, t := range terms {
		if !m.holds(&m.alt.Terms[t], home) {
			return false
		}
	}
	return true
}

// holds asks a term whose variables are bound.
func (m *matcher) holds(t *ir.Term, home int32) bool {
	at := func(variable int) int32 {
		if variable < 0 {
			return none
		}
		return m.bound[variable]
	}
	if t.In != nil {
		return m.refers(at(t.Other), t.In.Name, at(t.Entity)) != t.Not
	}
	if t.Entity < 0 {
		return home != none && m.compare(t, home, none, none)
	}
	return m.compare(t, none, at(t.Entity), at(t.Other))
}

func (m *matcher) refers(from int32, property string, to int32) bool {
	return slices.Contains(m.v.Actors[from].Refs, model.Ref{Name: property, To: int(to)})
}

// prepare decides in which order variables are bound: the first of the text, then always one
// that a reference or a call leads to, if there is any.
func (m *matcher) prepare() {
	n := len(m.alt.Vars)
	known := make([]bool, n)
	asked := make([]bool, len(m.alt.Terms))
	m.ready = append(m.ready, nil)
	for t := range m.alt.Terms {
		if term := &m.alt.Terms[t]; term.Compare != nil && term.Entity < 0 {
			asked[t] = true
			if n == 0 {
				m.ready[0] = append(m.ready[0], t)
			}
		}
	}
	for len(m.order) < n {
		next, by := m.next(known)
		known[next] = true
		m.order, m.source = append(m.order, next), append(m.source, by)
		var now []int
		for t := range m.alt.Terms {
			term := &m.alt.Terms[t]
			server := term.Compare != nil && term.Entity < 0
			if server && len(m.order) == 1 || !asked[t] && (term.Entity < 0 || known[term.Entity]) && (term.Other < 0 || known[term.Other]) {
				asked[t] = true
				now = append(now, t)
			}
		}
		slices.SortStableFunc(now, func(a, b int) int { return m.cost(a) - m.cost(b) })
		m.ready = append(m.ready, now)
	}
}

func (m *matcher) cost(t int) int {
	switch term := &m.alt.Terms[t]; {
	case term.Compare == nil:
		return 1
	case term.Entity < 0:
		return 0
	case term.Compare.Feature.Kind == epl.Call:
		return 3
	}
	return 2
}

func (m *matcher) next(known []bool) (variable, by int) {
	first := none
	for i := range m.alt.Vars {
		if known[i] {
			continue
		}
		if first == none {
			first = i
		}
		for t := range m.alt.Terms {
			term := &m.alt.Terms[t]
			if term.Not || term.Entity < 0 || term.Other < 0 {
				continue
			}
			if term.Entity == i && known[term.Other] || term.Other == i && known[term.Entity] {
				return i, t
			}
		}
	}
	return first, none
}

// bind binds the variables from order[depth] on, in all ways.
func (m *matcher) bind(depth int) {
	if depth == len(m.order) {
		m.found()
		return
	}
	variable := m.order[depth]
	m.candidates(depth, func(a int32) bool {
		if m.steps++; m.steps > 16*maxMatches {
			m.out.cut = true
		}
		if m.out.cut {
			return false
		}
		if !m.v.is(a, m.alt.Vars[variable].Type) || m.taken(depth, a) {
			return true
		}
		m.bound[variable] = a
		home := int32(m.v.Actors[m.bound[m.order[0]]].Server)
		if m.all(m.ready[depth+1], home) {
			m.bind(depth + 1)
		}
		return true
	})
}

// taken tells whether another variable of this name's stands for the actor: two names are two
// actors.
func (m *matcher) taken(depth int, a int32) bool {
	for _, v := range m.order[:depth] {
		if m.bound[v] == a {
			return true
		}
	}
	return false
}

// candidates are the actors that a variable may stand for.
func (m *matcher) candidates(depth int, yield func(int32) bool) {
	variable, by := m.order[depth], m.source[depth]
	if by == none {
		for _, a := range m.v.of(m.alt.Vars[variable].Type) {
			if !yield(a) {
				return
			}
		}
		return
	}
	term := &m.alt.Terms[by]
	if term.In == nil {
		m.callers(term, variable, yield)
		return
	}
	if term.Entity == variable { // what the other refers to
		for _, r := range m.v.Actors[m.bound[term.Other]].Refs {
			if r.Name == term.In.Name && r.To >= 0 && !yield(int32(r.To)) {
				return
			}
		}
		return
	}
	for _, a := range m.v.referrers(term.In.Name)[m.bound[term.Entity]] {
		if !yield(a) {
			return
		}
	}
}

// callers are the actors at the other end of calls of a function.
func (m *matcher) callers(term *ir.Term, variable int, yield func(int32) bool) {
	index := m.v.callIndex()
	edges, callers := index.out, false
	known := term.Other
	if term.Other == variable {
		edges, callers, known = index.in, true, term.Entity
	}
	for _, i := range edges.of(m.bound[known]) {
		e := &m.v.Calls[i]
		if e.Function != term.Compare.Feature.Name {
			continue
		}
		other := int32(e.To)
		if callers {
			other = int32(e.From)
		}
		if other >= 0 && !yield(other) {
			return
		}
	}
}

// found takes down a binding.
func (m *matcher) found() {
	if home := m.v.Actors[m.bound[m.order[0]]].Server; home >= 0 {
		m.out.servers[int32(home)] = true
	}
	for i, variables := range m.alt.Do {
		if len(variables) == 0 {
			continue
		}
		p := pair{m.bound[variables[0]], none}
		if len(variables) > 1 {
			p.b = m.bound[variables[1]]
		}
		if m.seen[i][p] {
			continue
		}
		m.seen[i][p] = true
		m.out.pairs[i] = append(m.out.pairs[i], p)
		if len(m.out.pairs[i]) >= maxMatches {
			m.out.cut = true
		}
	}
}
