package world

import (
	"maps"
	"math"
	"slices"
)

// property is a type's property, with what it refers to.
type property struct{ typ, name string }

// eachRefs gives the references of all actors at all times, with where they are from.
func (w *World) eachRefs(do func(part string, index int, id string, refs map[string][]string)) {
	for i := range w.Actors {
		do("actor", i, w.Actors[i].ID, w.Actors[i].Refs)
	}
	for i := range w.Events {
		switch e := &w.Events[i]; {
		case e.Born != nil:
			do("event", i, e.Born.ID, e.Born.Refs)
		case e.Refs != nil:
			do("event", i, e.Refs.ID, e.Refs.Refs)
		}
	}
}

// references checks that all refer to actors, which have the functions that are called through
// the property, and that the properties of calls are there.
func (c *checker) references() {
	total := 0
	has := map[property]bool{}
	c.w.eachRefs(func(part string, index int, id string, refs map[string][]string) {
		typ := c.typeOf[id]
		for _, name := range slices.Sorted(maps.Keys(refs)) {
			if err := checkName(name); err != nil {
				c.report(part, index, "actor %s: a property's name: %v", id, err)
			}
			has[property{typ, name}] = true
			if total += len(refs[name]); total > maxRefs {
				continue // and all are refused below
			}
			for _, to := range refs[name] {
				other, ok := c.typeOf[to]
				if !ok {
					c.report(part, index, "actor %s: its %s refer to %q, and there is no such actor", id, name, to)
				} else if f := c.unanswered(typ, name, other); f != "" {
					c.report(part, index, "actor %s: its %s refer to %s, and a %s has no function %s", id, name, to, other, f)
				}
			}
		}
	})
	if total > maxRefs {
		c.report("world", -1, "there are %d references: give at most %d", total, maxRefs)
	}
	for _, t := range slices.Sorted(maps.Keys(c.w.Types)) {
		functions := c.w.Types[t].Functions
		for _, f := range slices.Sorted(maps.Keys(functions)) {
			for _, call := range functions[f].Calls {
				if !has[property{t, call.Property}] {
					c.report("type "+t+" "+f, -1, "%s.%s calls %s.%s, and no %s has such references", t, f, call.Property, call.Function, t)
				}
			}
		}
	}
}

// unanswered is a function that a type calls through a property and another type hasn't, or "".
func (c *checker) unanswered(typ, name, other string) string {
	for _, f := range c.w.Types[typ].Functions {
		for _, call := range f.Calls {
			if call.Property != name {
				continue
			}
			if _, ok := c.w.Types[other].Functions[call.Function]; !ok {
				return call.Function
			}
		}
	}
	return ""
}

// fanOut refuses worlds of which a request causes more messages than can be simulated, or goes
// round for ever.
func (c *checker) fanOut() {
	most := map[property]int{}
	to := map[property]map[string]bool{}
	c.w.eachRefs(func(_ string, _ int, id string, refs map[string][]string) {
		for name, ids := range refs {
			p := property{c.typeOf[id], name}
			most[p] = max(most[p], len(ids))
			if to[p] == nil {
				to[p] = map[string]bool{}
			}
			for _, other := range ids {
				to[p][c.typeOf[other]] = true
			}
		}
	})
	type function struct{ typ, name string }
	messages := map[function]float64{}
	var order []function // so that the same is reported each time
	for _, t := range slices.Sorted(maps.Keys(c.w.Types)) {
		for _, f := range slices.Sorted(maps.Keys(c.w.Types[t].Functions)) {
			order = append(order, function{t, f})
			messages[function{t, f}] = 1
		}
	}
	// Each round counts one call farther. Without circles there are as many rounds as functions
	// at most; with circles it must come near a limit.
	const rounds = 2000
	for range rounds {
		next := make(map[function]float64, len(messages))
		grown := 0.0
		for _, at := range order {
			sum := 1.0
			for _, call := range c.w.Types[at.typ].Functions[at.name].Calls {
				p := property{at.typ, call.Property}
				n := 0.0
				for other := range to[p] {
					n = max(n, messages[function{other, call.Function}])
				}
				if call.All {
					n *= float64(most[p])
				}
				sum += n * call.chance()
			}
			next[at] = sum
			grown = max(grown, sum-messages[at])
			if !(sum <= maxMessages) {
				c.report("type "+at.typ+" "+at.name, -1, "a call of %s.%s can cause more than %.0f messages: let it call fewer", at.typ, at.name, float64(maxMessages))
				return
			}
		}
		messages = next
		if grown < 1e-3 {
			return
		}
	}
	c.report("world", -1, "calls go round in a circle, and hardly end: give one of them a lower probability")
}

// chance is how likely a call is.
func (c Call) chance() float64 {
	if c.Probability == 0 {
		return 1
	}
	return math.Min(c.Probability, 1)
}
