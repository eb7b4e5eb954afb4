package vet

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

// far orders levels: what is together at one is together at all farther ones.
func far(l epl.Level) int {
	return map[epl.Level]int{epl.Server: 0, epl.Node: 1, epl.Zone: 2}[l]
}

func level(l epl.Level) string {
	if l == epl.Server {
		return "server"
	}
	return string(l)
}

// tie is a behavior that is about where two types are.
type tie struct {
	rule *rule
	*epl.Behavior
	a, b string // types
}

func (t tie) String() string {
	return fmt.Sprintf("%s of %s", t.Behavior, t.rule.label)
}

// ties gives all behaviors of a verb that have two types.
func (c *checker) all(verb epl.Verb) []tie {
	var out []tie
	for _, r := range c.rules {
		for _, b := range r.Do {
			if b.Verb == verb && (b.Actors[0].Var == "" || b.Actors[0].Var != b.Actors[1].Var) {
				out = append(out, tie{r, b, r.typ(b.Actors[0]), r.typ(b.Actors[1])})
			}
		}
	}
	return out
}

func matches(a, b string) bool { return a == b || a == epl.Any || b == epl.Any }

// places refuses what is to be together and apart. Types stand for their actors: colocate is
// closed over its types, and colocate at a level is colocate at all farther ones.
func (c *checker) places() {
	near := map[epl.Level]map[string][]tie{}
	for _, l := range []epl.Level{epl.Server, epl.Node, epl.Zone} {
		near[l] = map[string][]tie{} // by their types
		for _, t := range c.all(epl.Colocate) {
			if far(t.Level) > far(l) {
				continue
			}
			near[l][t.a] = append(near[l][t.a], t)
			if t.b != t.a {
				near[l][t.b] = append(near[l][t.b], t)
			}
		}
	}
	for _, apart := range c.all(epl.Separate) {
		if !c.spend(len(c.rules)) {
			return
		}
		chain := connect(near[apart.Level], apart.a, apart.b)
		if chain != nil && (apart.a != apart.b || certain(chain, apart)) {
			c.contradict(apart, chain)
		}
	}
}

func (c *checker) contradict(apart tie, chain []tie) {
	f := Finding{
		Span: apart.Span, Severity: Error, Code: "contradiction",
		Message: fmt.Sprintf("%s and %s are to be apart by %s, and together by %s", apart.a, apart.b, apart.rule.label, labels(chain)),
		Hint:    "leave out one of these behaviors, or give them conditions that exclude each other",
		Related: []Related{{apart.Span, fmt.Sprintf("apart: not in the same %s", level(apart.Level))}},
	}
	for i, t := range chain {
		f.Related = append(f.Related, Related{t.Span, fmt.Sprintf("%s and %s are together: in the same %s, by %s", t.a, t.b, level(t.Level), t.rule.label)})
		if c.exclude(t.rule, apart.rule) || slices.ContainsFunc(chain[:i], func(o tie) bool { return c.exclude(t.rule, o.rule) }) {
			f.Severity = Note
			f.Hint = "their conditions exclude each other on one server: actors are moved back and forth when the load changes"
		}
	}
	c.add(f)
}

func labels(chain []tie) string {
	var all []string
	for _, t := range chain {
		if !slices.Contains(all, t.rule.label) {
			all = append(all, t.rule.label)
		}
	}
	return strings.Join(all, " and ")
}

// connect gives the shortest chain of ties from one type to another, or nil; from a type to
// itself it has at least one. What is tied to any type is tied to all.
func connect(near map[string][]tie, from, to string) []tie {
	type step struct {
		by   tie
		back string
	}
	came := map[string]step{}
	for steps := []string{from}; len(steps) > 0; steps = steps[1:] {
		at := steps[0]
		ties := append(slices.Clone(near[at]), near[epl.Any]...)
		if at == epl.Any {
			for _, t := range slices.Sorted(maps.Keys(near)) {
				ties = append(ties, near[t]...)
			}
		}
		for _, t := range ties {
			for _, way := range [][2]string{{t.a, t.b}, {t.b, t.a}} {
				next := way[1]
				if _, ok := came[next]; ok || !matches(at, way[0]) {
					continue
				}
				if s, ok := came[at]; ok && s.by.Behavior == t.Behavior {
					continue // not back the way that led here
				}
				came[next] = step{t, at}
				if !matches(next, to) {
					steps = append(steps, next)
					continue
				}
				chain := []tie{t}
				for back := at; back != from; back = came[back].back {
					chain = append([]tie{came[back].by}, chain...)
				}
				return chain
			}
		}
	}
	return nil
}

// certain tells whether actors of one type that are tied to each other are those that are kept
// apart. If both are chosen by references of other names they needn't be.
func certain(chain []tie, apart tie) bool {
	if len(chain) > 1 {
		return false // by way of another type: each may have its own
	}
	near, away := properties(chain[0].rule), properties(apart.rule)
	return len(near) == 0 || len(away) == 0 || slices.ContainsFunc(near, func(n string) bool { return slices.Contains(away, n) })
}

func properties(r *rule) []string {
	var all []string
	epl.Walk(r.When, func(x epl.Cond) {
		if in, ok := x.(*epl.In); ok {
			all = append(all, in.Name)
		}
	})
	return all
}

// exclude tells whether two rules never hold on the same server at once.
func (c *checker) exclude(a, b *rule) bool {
	if !a.complete || !b.complete || !c.spend(1+count(a.alternatives)*count(b.alternatives)) {
		return false
	}
	for _, x := range a.alternatives {
		for _, y := range b.alternatives {
			if !apart(x, y) {
				return false
			}
		}
	}
	return true
}

func apart(x, y []*term) bool {
	for _, a := range x {
		for _, b := range y {
			if strings.HasPrefix(a.key, "server.") && a.key == b.key && a.span.and(b.span).empty() {
				return true
			}
		}
	}
	return false
}

// pin is a behavior that keeps a type where it is.
type pin struct {
	rule *rule
	*epl.Behavior
	typ string
}

// pins says what pinned actors keep from being done.
func (c *checker) pins() {
	var pins []pin
	for _, r := range c.rules {
		for _, b := range r.Do {
			if b.Verb == epl.Pin {
				pins = append(pins, pin{r, b, r.typ(b.Actors[0])})
			}
		}
	}
	for _, r := range c.rules {
		for _, b := range r.Do {
			if !c.spend(len(pins)) {
				return
			}
			if b.Verb != epl.Pin {
				c.pinned(r, b, pins)
			}
		}
	}
}

// pinned is about a behavior that pins may keep from being done.
func (c *checker) pinned(r *rule, b *epl.Behavior, pins []pin) {
	held := map[string]bool{} // its types that are pinned
	var related []Related
	always := false
	for _, p := range pins {
		about := slices.ContainsFunc(b.Actors, func(a *epl.Actor) bool { return matches(r.typ(a), p.typ) })
		if !about || c.exclude(r, p.rule) {
			continue
		}
		for _, a := range b.Actors {
			if t := r.typ(a); matches(t, p.typ) {
				held[t] = true
			}
		}
		if _, ok := p.rule.When.(*epl.True); ok {
			always = true
		}
		related = append(related, Related{p.Span, "pinned by " + p.rule.label})
	}
	if len(held) == 0 {
		return
	}
	f := Finding{Span: b.Span, Severity: Note, Code: "pinned", Related: related, Hint: "pin goes before all other behaviors"}
	if always {
		f.Severity = Warning
	}
	types := strings.Join(slices.Sorted(maps.Keys(held)), " and ")
	free := slices.ContainsFunc(b.Actors, func(a *epl.Actor) bool { return !held[r.typ(a)] })
	switch {
	case b.Verb == epl.Balance && !free:
		f.Message = fmt.Sprintf("%s is pinned: those that are can't be balanced", types)
	case b.Verb == epl.Balance:
		f.Message = fmt.Sprintf("%s is pinned: only the other types can be balanced", types)
	case b.Verb == epl.Reserve:
		f.Message = fmt.Sprintf("%s is pinned: its server can be reserved only if all others can leave it", types)
	case free:
		f.Message = fmt.Sprintf("%s is pinned: only the other side of %s moves", types, b.Verb)
		f.Severity = Note
	default:
		f.Message = fmt.Sprintf("both sides of %s are pinned: neither moves", b.Verb)
	}
	c.add(f)
}

// sizes says which groups fit no server, as far as the manifest tells.
func (c *checker) sizes() {
	if c.manifest == nil || c.manifest.Server.Memory == "" {
		return
	}
	memory := manifest.Bytes(c.manifest.Server.Memory)
	state := func(t string) int64 { return manifest.Bytes(c.manifest.Types[t].State) }
	seen := map[string]bool{}
	var ties []tie
	for _, t := range c.all(epl.Colocate) {
		if t.Level == epl.Server && t.a != epl.Any && t.b != epl.Any {
			ties = append(ties, t)
		}
	}
	for _, t := range ties {
		if seen[t.a] {
			continue
		}
		group := []string{t.a}
		var related []Related
		for i := 0; i < len(group); i++ {
			for _, o := range ties {
				for _, way := range [][2]string{{o.a, o.b}, {o.b, o.a}} {
					if way[0] == group[i] && !slices.Contains(group, way[1]) {
						group = append(group, way[1])
						related = append(related, Related{o.Span, fmt.Sprintf("%s and %s are together", o.a, o.b)})
					}
				}
			}
		}
		var sum int64
		var parts []string
		slices.Sort(group)
		for _, g := range group {
			seen[g] = true
			sum += state(g)
			parts = append(parts, fmt.Sprintf("%s %s", g, units.BytesSize(float64(state(g)))))
		}
		if sum > memory {
			c.add(Finding{
				Span: t.Span, Severity: Error, Code: "group-too-large", Related: related,
				Message: fmt.Sprintf("one of each of this group has %s, a server %s: %s", units.BytesSize(float64(sum)), units.BytesSize(float64(memory)), strings.Join(parts, ", ")),
				Hint:    "colocate at node or at zone",
			})
		}
	}
}
