package vet

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// maxAlternatives is how many a condition may have; the planner takes no more.
const maxAlternatives = 256

// maxParts is how many terms all alternatives together may have.
const maxParts = 10_000

// term is a comparison or a reference, or its negation.
type term struct {
	compare *epl.Compare
	in      *epl.In
	not     bool
	// key is the same for terms about the same value: "" if it is about an actor without a
	// name, which may be another each time.
	key  string
	span interval // that a comparison allows; all if it says nothing of the value
}

// conjunctions makes a disjunction of conjunctions of a condition.
func (r *rule) conjunctions(x epl.Cond, not bool) ([][]*term, bool) {
	switch x := x.(type) {
	case *epl.Paren:
		return r.conjunctions(x.X, not)
	case *epl.Not:
		return r.conjunctions(x.X, !not)
	case *epl.True:
		if not {
			return nil, true
		}
		return [][]*term{nil}, true
	case *epl.Or:
		return r.pair(x.X, x.Y, not, !not)
	case *epl.And:
		return r.pair(x.X, x.Y, not, not)
	case *epl.Compare:
		return [][]*term{{comparison(x, not)}}, true
	}
	t := &term{in: x.(*epl.In), not: not}
	t.key = t.about(variable)
	return [][]*term{{t}}, true
}

func (r *rule) pair(x, y epl.Cond, not, either bool) ([][]*term, bool) {
	left, ok := r.conjunctions(x, not)
	if !ok {
		return nil, false
	}
	right, ok := r.conjunctions(y, not)
	if !ok {
		return nil, false
	}
	if either {
		all := append(left, right...)
		return all, len(all) <= maxAlternatives
	}
	if len(left)*len(right) > maxAlternatives || count(left)*len(right)+len(left)*count(right) > maxParts {
		return nil, false
	}
	var all [][]*term
	for _, l := range left {
		for _, r := range right {
			all = append(all, slices.Concat(l, r))
		}
	}
	return all, true
}

// count is how many terms there are.
func count(all [][]*term) int {
	n := 0
	for _, terms := range all {
		n += len(terms)
	}
	return n
}

func comparison(x *epl.Compare, not bool) *term {
	t := &term{compare: x, not: not, span: everything}
	t.key = t.about(variable)
	if !not {
		t.span = allowed(x)
	} else if t.key != "" && x.Op != epl.Equal && x.For == nil {
		t.span = allowed(x).complement()
	}
	return t
}

// variable names an actor that is the same wherever its rule names it.
func variable(a *epl.Actor) string { return a.Var }

// about gives the value that a term is about, with actors as name calls them: "" if that has
// no name for one.
func (t *term) about(name func(*epl.Actor) string) string {
	for _, a := range t.actors() {
		if name(a) == "" {
			return ""
		}
	}
	if t.in != nil {
		return name(t.in.X) + " in " + name(t.in.Of) + "." + t.in.Name
	}
	entity := "server"
	f := t.compare.Feature
	if f.Entity != nil {
		entity = name(f.Entity)
	}
	if f.Kind == epl.Call {
		caller := "client"
		if f.Caller != nil {
			caller = name(f.Caller)
		}
		entity = caller + ".call " + entity
	}
	key := entity + "." + strconv.Itoa(int(f.Kind)) + "." + f.Name + "." + f.Stat
	if t.compare.Over != nil {
		key += " over " + t.compare.Over.Value.String()
	}
	return key
}

// lasts is how long the term has to have held.
func (t *term) lasts() time.Duration {
	if t.compare != nil && t.compare.For != nil {
		return t.compare.For.Value
	}
	return 0
}

// interval is the numbers between low and high; they themselves are in it unless it is open
// there.
type interval struct {
	low, high         float64
	openLow, openHigh bool
}

var everything = interval{low: math.Inf(-1), high: math.Inf(1)}

// allowed are the values for which a comparison holds.
func allowed(x *epl.Compare) interval {
	i := everything
	switch v := x.Value.Value; x.Op {
	case epl.Less:
		i.high, i.openHigh = v, true
	case epl.LessEqual:
		i.high = v
	case epl.Greater:
		i.low, i.openLow = v, true
	case epl.GreaterEqual:
		i.low = v
	default:
		i.low, i.high = v, v
	}
	return i
}

// possible are the values that a feature can have.
func possible(f *epl.Feature) interval {
	switch {
	case f.Kind == epl.Metric:
		return everything
	case f.Stat == "perc":
		return interval{low: 0, high: 100}
	}
	return interval{low: 0, high: math.Inf(1)}
}

func (i interval) and(o interval) interval {
	if o.low > i.low || o.low == i.low && o.openLow {
		i.low, i.openLow = o.low, o.openLow
	}
	if o.high < i.high || o.high == i.high && o.openHigh {
		i.high, i.openHigh = o.high, o.openHigh
	}
	return i
}

func (i interval) empty() bool {
	return i.low > i.high || i.low == i.high && (i.openLow || i.openHigh)
}

// within tells whether all of i is in o.
func (i interval) within(o interval) bool { return i.and(o) == i }

// complement is for an interval that is open to one side.
func (i interval) complement() interval {
	if math.IsInf(i.low, -1) {
		return interval{low: i.high, openLow: !i.openHigh, high: math.Inf(1)}
	}
	return interval{low: math.Inf(-1), high: i.low, openHigh: !i.openLow}
}

// covers tells whether what two intervals have together is all of a third.
func covers(a, b, all interval) bool {
	if a.low > b.low {
		a, b = b, a
	}
	touch := b.low < a.high || b.low == a.high && !(b.openLow && a.openHigh)
	union := interval{low: a.low, openLow: a.openLow, high: b.high, openHigh: b.openHigh}
	return touch && all.within(union)
}

// logic says which parts of a condition never hold, and which always do.
func (c *checker) logic(r *rule) {
	epl.Walk(r.When, func(x epl.Cond) {
		if x, ok := x.(*epl.Compare); ok && !r.said[x] {
			c.single(r, x)
		}
	})
	if !r.complete {
		c.add(Finding{
			Span: r.When.Where(), Severity: Error, Code: "too-many-combinations",
			Message: fmt.Sprintf("the condition of %s has more than %d combinations of its ors", r.label, maxAlternatives),
			Hint:    "make it several rules",
		})
		return
	}
	never := 0
	var why []Related
	for _, terms := range r.alternatives {
		if !c.spend(len(terms) * len(terms)) {
			return
		}
		if x, y, ok := contradiction(r, terms); ok {
			if never++; why == nil {
				why = []Related{{x, "this"}, {y, "and this can't both hold"}}
			}
		}
	}
	switch {
	case never == 0:
	case never == len(r.alternatives):
		c.add(Finding{
			Span: r.When.Where(), Severity: Warning, Code: "never-holds", Related: why,
			Message: fmt.Sprintf("the condition of %s never holds", r.label), Hint: "was \"or\" meant?",
		})
	default:
		c.add(Finding{
			Span: why[0].Span, Severity: Warning, Code: "never-holds", Related: why,
			Message: fmt.Sprintf("one side of an \"or\" of %s never holds", r.label),
		})
	}
	c.always(r)
}

// single says if a comparison never holds, or always.
func (c *checker) single(r *rule, x *epl.Compare) {
	all, is := possible(x.Feature), allowed(x)
	switch {
	case all.and(is).empty():
		c.add(Finding{
			Span: x.Span, Severity: Warning, Code: "never-holds",
			Message: fmt.Sprintf("%s never holds: %s is %s", epl.String(x), x.Feature, describe(all)),
		})
	case all.within(is):
		c.add(Finding{
			Span: x.Span, Severity: Warning, Code: "always-holds",
			Message: fmt.Sprintf("%s always holds: %s is %s", epl.String(x), x.Feature, describe(all)),
		})
	default:
		return
	}
	r.said[x] = true
}

func describe(i interval) string {
	if math.IsInf(i.high, 1) {
		return "at least " + number(i.low)
	}
	return "between " + number(i.low) + " and " + number(i.high)
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// contradiction finds two terms of a conjunction that don't hold at once.
func contradiction(r *rule, terms []*term) (x, y epl.Span, ok bool) {
	for i, a := range terms {
		for _, b := range terms[:i] {
			if a.key == "" || a.key != b.key {
				continue
			}
			if a.in != nil && b.in != nil {
				if a.not != b.not {
					return b.in.Span, a.in.Span, true
				}
				continue
			}
			if a.compare == nil || b.compare == nil || r.said[a.compare] || r.said[b.compare] {
				continue
			}
			if a.span.and(b.span).and(possible(a.compare.Feature)).empty() {
				return b.compare.Span, a.compare.Span, true
			}
		}
	}
	return x, y, false
}

// always says if two sides of an or are all that can be.
func (c *checker) always(r *rule) {
	if !c.spend(len(r.alternatives) * len(r.alternatives)) {
		return
	}
	for i, a := range r.alternatives {
		for _, b := range r.alternatives[:i] {
			if len(a) != 1 || len(b) != 1 || a[0].compare == nil || b[0].compare == nil || a[0].key == "" || a[0].key != b[0].key {
				continue
			}
			x, y := b[0], a[0]
			if x.lasts() > 0 || y.lasts() > 0 || r.said[x.compare] || r.said[y.compare] || !covers(x.span, y.span, possible(x.compare.Feature)) {
				continue
			}
			c.add(Finding{
				Span: r.When.Where(), Severity: Warning, Code: "always-holds",
				Message: fmt.Sprintf("the condition of %s always holds: one of its sides does", r.label),
				Hint:    "are the two numbers swapped? \"true\" says that it always holds",
				Related: []Related{{x.compare.Span, "either this"}, {y.compare.Span, "or this"}},
			})
			return
		}
	}
}
