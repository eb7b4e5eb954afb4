package vet

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// maxShadows is how many other rules a rule is held against.
const maxShadows = 200

// shadowed says which rules add nothing, because others that go first do it all.
func (c *checker) shadowed() {
	plain := make([]*shape, len(c.rules))
	doing := map[string][]int{} // rules by behavior
	for i, r := range c.rules {
		plain[i] = newShape(r)
		for _, b := range plain[i].do {
			doing[b] = append(doing[b], i)
		}
	}
	for j, r := range c.rules {
		if len(r.Do) == 0 || !r.complete {
			continue
		}
		others := doing[plain[j].do[0]]
		for _, i := range others[:min(len(others), maxShadows)] {
			o := c.rules[i]
			if i == j || !o.complete || o.Priority < r.Priority || o.Priority == r.Priority && i > j || !subset(plain[j].do, plain[i].do) {
				continue
			}
			if !c.spend(1 + count(r.alternatives)*count(o.alternatives)) {
				return
			}
			narrow, wide := plain[j].when(), plain[i].when()
			if !implies(narrow, wide) {
				continue
			}
			f := Finding{
				Span: r.head(), Severity: Warning, Code: "shadowed",
				Message: fmt.Sprintf("%s adds nothing: whenever it holds, %s does the same and goes first", r.label, o.label),
				Hint:    "leave it out", Related: []Related{{o.head(), o.label}},
			}
			if implies(wide, narrow) && len(o.Do) == len(r.Do) {
				f.Code, f.Message = "duplicate", fmt.Sprintf("%s is the same as %s", r.label, o.label)
			}
			c.add(f)
			break
		}
	}
}

// shape is a rule with its variables renamed, so that rules can be compared that differ only
// in their names.
type shape struct {
	rule  *rule
	names map[string]string // of variables: new by old
	do    []string
	terms [][]*term // made by when
}

func newShape(r *rule) *shape {
	s := &shape{rule: r, names: map[string]string{}}
	for _, b := range r.Do {
		var on []string
		for _, a := range b.Actors {
			if _, ok := s.names[a.Var]; a.Var != "" && !ok {
				s.names[a.Var] = strconv.Itoa(len(s.names)) + " " + r.types[a.Var]
			}
			on = append(on, s.name(a))
		}
		if b.Verb == epl.Balance {
			slices.Sort(on)
		}
		s.do = append(s.do, string(b.Verb)+"("+strings.Join(on, ",")+","+b.Resource+")"+string(b.Level))
	}
	return s
}

func (s *shape) name(a *epl.Actor) string {
	if n, ok := s.names[a.Var]; ok {
		return n
	}
	if a.Var != "" {
		return a.Var + " " + s.rule.types[a.Var]
	}
	return "any " + a.Type
}

// when gives the rule's alternatives with variables renamed.
func (s *shape) when() [][]*term {
	if s.terms != nil {
		return s.terms
	}
	renamed := map[*term]*term{}
	for _, terms := range s.rule.alternatives {
		all := make([]*term, len(terms))
		for i, t := range terms {
			if renamed[t] == nil {
				n := *t
				n.key = t.about(s.name)
				renamed[t] = &n
			}
			all[i] = renamed[t]
		}
		s.terms = append(s.terms, all)
	}
	return s.terms
}

func subset(some, all []string) bool {
	for _, s := range some {
		if !slices.Contains(all, s) {
			return false
		}
	}
	return true
}

// implies tells whether b holds whenever a does: each alternative of a is narrower than one
// of b. It may not see that.
func implies(a, b [][]*term) bool {
	for _, narrow := range a {
		if !slices.ContainsFunc(b, func(wide []*term) bool { return narrower(narrow, wide) }) {
			return false
		}
	}
	return len(a) > 0
}

// narrower tells whether a conjunction has, for each term of another, one that implies it.
func narrower(narrow, wide []*term) bool {
	for _, w := range wide {
		span, same := everything, false
		for _, n := range narrow {
			if n.key != w.key || (n.in == nil) != (w.in == nil) {
				continue
			}
			if n.in != nil || n.not && w.not && n.compare.Op == w.compare.Op && n.compare.Value.Value == w.compare.Value.Value && n.lasts() == w.lasts() {
				same = same || n.not == w.not
			} else if n.lasts() >= w.lasts() || n.not {
				span = span.and(n.span)
			}
		}
		if same {
			continue
		}
		if w.in != nil || w.not && w.span == everything || w.lasts() > 0 && span == everything || !span.within(w.span) {
			return false
		}
	}
	return true
}
