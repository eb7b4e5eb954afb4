package baseline

import (
	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
)

// Bounds is what the original runtime makes of a policy. It knows shares of the processor, calls
// and references; mem, net, separate and pin do nothing.
type Bounds struct {
	// Rules are in the order in which they are tried.
	Rules []Rule
}

// Rule is one behavior with its condition.
type Rule struct {
	Name string
	Verb epl.Verb // balance, reserve or colocate
	// Upper and Lower are of servers' shares of their cores; Upper is 1 and Lower 0 if the rule
	// has none.
	Upper, Lower float64
	// Types are balanced; the first is reserved; the second is to be where the first is.
	Types []string
	// Property refers from the first type to the second; Reverse: the other way round.
	Property string
	Reverse  bool
	// Function is called: by the first (Reverse: of the first, by the second) at least Calls
	// times in the window; of a reservation by clients, as at least a share of Calls.
	Function string
	Calls    float64
}

// BoundsOf takes the rules from a policy. Without one (nil) there's a bound of 80 %.
func BoundsOf(p *ir.Program) Bounds {
	var b Bounds
	if p == nil {
		b.Rules = []Rule{{Name: "rule 1", Verb: epl.Balance, Upper: .8, Types: []string{epl.Any}}}
		return b
	}
	for _, r := range p.Rules {
		for i := range r.Do {
			if made, ok := boundsOf(r, r.Do[i]); ok {
				b.Rules = append(b.Rules, made)
			}
		}
	}
	return b
}

func boundsOf(r *ir.Rule, do *epl.Behavior) (Rule, bool) {
	out := Rule{Name: r.Name, Verb: do.Verb, Upper: 1}
	switch do.Verb {
	case epl.Balance, epl.Reserve:
		if do.Resource != "cpu" {
			return out, false
		}
	case epl.Colocate:
		if do.Level != epl.Server {
			return out, false
		}
	default:
		return out, false
	}
	for i := range r.When {
		alt := &r.When[i]
		types := typesOf(alt, do)
		if out.Types == nil {
			out.Types = types
		}
		for k := range alt.Terms {
			out.take(alt, &alt.Terms[k], do)
		}
	}
	if do.Verb == epl.Colocate && out.Property == "" && out.Function == "" {
		return out, false
	}
	return out, out.Types != nil
}

// typesOf gives the types of a behavior's actors.
func typesOf(alt *ir.Alternative, do *epl.Behavior) []string {
	var types []string
	for _, a := range do.Actors {
		t := a.Type
		for _, v := range alt.Vars {
			if a.Var != "" && v.Name == a.Var {
				t = v.Type
			}
		}
		if t == "" {
			t = epl.Any
		}
		types = append(types, t)
	}
	return types
}

// take takes the part of a condition that the original acts on.
func (r *Rule) take(alt *ir.Alternative, t *ir.Term, do *epl.Behavior) {
	if t.Not {
		return
	}
	// is tells whether a variable of the condition is the k-th of the behavior.
	is := func(v, k int) bool {
		if v < 0 || k >= len(do.Actors) {
			return false
		}
		a := do.Actors[k]
		if a.Var != "" {
			return alt.Vars[v].Name == a.Var
		}
		return alt.Vars[v].Type == a.Type
	}
	if in := t.In; in != nil {
		switch {
		case is(t.Other, 0) && is(t.Entity, 1):
			r.Property = in.Name
		case is(t.Other, 1) && is(t.Entity, 0):
			r.Property, r.Reverse = in.Name, true
		}
		return
	}
	c := t.Compare
	f := c.Feature
	above := c.Op == epl.Greater || c.Op == epl.GreaterEqual
	switch {
	case f.Kind == epl.Resource && t.Entity < 0 && f.Name == "cpu" && f.Stat == "perc":
		if above {
			r.Upper = min(r.Upper, c.Value.Value/100)
		} else {
			r.Lower = max(r.Lower, c.Value.Value/100)
		}
	case f.Kind == epl.Call && above && r.Verb == epl.Reserve && t.Other < 0 && f.Stat == "perc" && is(t.Entity, 0):
		r.Function, r.Calls = f.Name, c.Value.Value/100
	case f.Kind == epl.Call && above && r.Verb == epl.Colocate && f.Stat == "count":
		switch {
		case is(t.Entity, 1) && is(t.Other, 0):
			r.Function, r.Calls = f.Name, c.Value.Value
		case is(t.Entity, 0) && is(t.Other, 1):
			r.Function, r.Calls, r.Reverse = f.Name, c.Value.Value, true
		}
	}
}
