package ir

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// maxAlternatives bounds what a condition of many ors in ands becomes.
const maxAlternatives = 256

// Compile makes a program of a policy. Errors are of what no planner could run: an actor that
// one side of an or does not bind, and a condition of too many ors. Whether the policy makes
// sense is vet's to say.
func Compile(p *epl.Policy) (*Program, error) {
	out := &Program{Shadow: p.Shadow, Limits: limitsOf(p.Limits)}
	for i, r := range p.Rules {
		rule, err := compileRule(i, r)
		if err != nil {
			return nil, err
		}
		out.Rules = append(out.Rules, rule)
	}
	slices.SortStableFunc(out.Rules, func(a, b *Rule) int { return cmp.Compare(b.Priority, a.Priority) })
	return out, nil
}

func limitsOf(l *epl.Limits) Limits {
	var out Limits
	if l == nil {
		return out
	}
	if l.Servers != nil {
		out.MinServers, out.MaxServers = l.Servers.Low, l.Servers.High
	}
	if m := l.Moves; m != nil {
		if out.Per = m.Per; m.Percent {
			out.MovesShare = m.Count / 100
		} else {
			out.Moves = int(m.Count)
		}
	}
	if l.Cooldown != nil {
		out.Up, out.Down, out.CooldownSet = l.Cooldown.Up, l.Cooldown.Down, true
	}
	if l.Period != nil {
		out.Period = l.Period.Value
	}
	return out
}

func compileRule(index int, r *epl.Rule) (*Rule, error) {
	rule := &Rule{Name: r.Name, Index: index, Priority: r.Priority, Do: r.Do, Source: r}
	if rule.Name == "" {
		rule.Name = "rule " + strconv.Itoa(index+1)
	}
	c := &compiler{rule: rule, types: map[string]string{}, conditioned: map[string]bool{}}
	c.learn(r)
	all, err := c.alternatives(r.When, false)
	if err != nil {
		return nil, err
	}
	for i, terms := range all {
		a, err := c.alternative(i, terms)
		if err != nil {
			return nil, err
		}
		rule.When = append(rule.When, a)
	}
	return rule, nil
}

// literal is a comparison or a reference, or its negation.
type literal struct {
	cond epl.Cond
	not  bool
}

type compiler struct {
	rule        *Rule
	types       map[string]string // of variables
	conditioned map[string]bool   // variables that the condition names
}

// learn finds the types of variables.
func (c *compiler) learn(r *epl.Rule) {
	see := func(condition bool, actors ...*epl.Actor) {
		for _, a := range actors {
			if a == nil || a.Var == "" {
				continue
			}
			if a.Type != "" && (c.types[a.Var] == "" || c.types[a.Var] == epl.Any) {
				c.types[a.Var] = a.Type
			}
			if condition {
				c.conditioned[a.Var] = true
			}
		}
	}
	var walk func(epl.Cond)
	walk = func(x epl.Cond) {
		switch x := x.(type) {
		case *epl.Or:
			walk(x.X)
			walk(x.Y)
		case *epl.And:
			walk(x.X)
			walk(x.Y)
		case *epl.Not:
			walk(x.X)
		case *epl.Paren:
			walk(x.X)
		case *epl.Compare:
			see(true, x.Feature.Caller, x.Feature.Entity)
		case *epl.In:
			see(true, x.X, x.Of)
		}
	}
	walk(r.When)
	for _, b := range r.Do {
		see(false, b.Actors...)
	}
}

// alternatives makes a disjunction of conjunctions: negations move inwards, ands over ors.
func (c *compiler) alternatives(x epl.Cond, not bool) ([][]literal, error) {
	switch x := x.(type) {
	case *epl.Paren:
		return c.alternatives(x.X, not)
	case *epl.Not:
		return c.alternatives(x.X, !not)
	case *epl.True:
		if not {
			return nil, nil // never
		}
		return [][]literal{nil}, nil
	case *epl.Or:
		if not {
			return c.both(x.X, x.Y, not)
		}
		return c.either(x.X, x.Y, not)
	case *epl.And:
		if not {
			return c.either(x.X, x.Y, not)
		}
		return c.both(x.X, x.Y, not)
	}
	return [][]literal{{{x, not}}}, nil
}

func (c *compiler) either(x, y epl.Cond, not bool) ([][]literal, error) {
	left, err := c.alternatives(x, not)
	if err != nil {
		return nil, err
	}
	right, err := c.alternatives(y, not)
	if err != nil {
		return nil, err
	}
	return c.bounded(x, append(left, right...))
}

func (c *compiler) both(x, y epl.Cond, not bool) ([][]literal, error) {
	left, err := c.alternatives(x, not)
	if err != nil {
		return nil, err
	}
	right, err := c.alternatives(y, not)
	if err != nil {
		return nil, err
	}
	if len(left)*len(right) > maxAlternatives {
		return nil, c.tooMany(x)
	}
	var all [][]literal
	for _, l := range left {
		for _, r := range right {
			all = append(all, slices.Concat(l, r))
		}
	}
	return all, nil
}

func (c *compiler) bounded(at epl.Cond, all [][]literal) ([][]literal, error) {
	if len(all) > maxAlternatives {
		return nil, c.tooMany(at)
	}
	return all, nil
}

func (c *compiler) tooMany(at epl.Cond) error {
	return fmt.Errorf("%v: the condition of %s has more than %d combinations of its ors: make it several rules", at.Where().Pos, c.rule.Name, maxAlternatives)
}

// scope gives indices to an alternative's variables.
type scope struct {
	*compiler
	vars []Var
}

// variable is the index of an actor; -1 for none. One without a name is its own.
func (s *scope) variable(a *epl.Actor) int {
	if a == nil {
		return -1
	}
	if a.Var == "" {
		s.vars = append(s.vars, Var{Name: "_" + strconv.Itoa(len(s.vars)), Type: a.Type})
		return len(s.vars) - 1
	}
	if i := slices.IndexFunc(s.vars, func(v Var) bool { return v.Name == a.Var }); i >= 0 {
		return i
	}
	s.vars = append(s.vars, Var{Name: a.Var, Type: cmp.Or(s.types[a.Var], epl.Any)})
	return len(s.vars) - 1
}

func (c *compiler) alternative(number int, literals []literal) (Alternative, error) {
	s := &scope{compiler: c}
	var a Alternative
	for i, l := range literals {
		t := Term{Not: l.not, ID: fmt.Sprintf("%d.%d.%d", c.rule.Index, number, i)}
		switch x := l.cond.(type) {
		case *epl.Compare:
			t.Compare, t.Entity, t.Other = x, s.variable(x.Feature.Entity), s.variable(x.Feature.Caller)
		case *epl.In:
			t.In, t.Entity, t.Other = x, s.variable(x.X), s.variable(x.Of)
		}
		a.Terms = append(a.Terms, t)
	}
	a.Conditioned = len(s.vars)
	for _, b := range c.rule.Do {
		do := make([]int, 0, 2)
		for _, actor := range b.Actors {
			if b.Verb == epl.Balance {
				break // it has types
			}
			known := len(s.vars)
			i := s.variable(actor)
			if i == known && actor.Var != "" && c.conditioned[actor.Var] {
				return a, fmt.Errorf("%v: %s is not bound on each side of an or: make it several rules", actor.Pos, actor)
			}
			do = append(do, i)
		}
		a.Do = append(a.Do, do)
	}
	a.Vars = s.vars
	return a, nil
}
