package vet

import (
	"fmt"
	"unicode"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// variables says which variables have two types, no use, or no actor that they stand for.
func (c *checker) variables(r *rule) {
	uses := map[string]int{}
	first := map[string]*epl.Actor{} // with its type
	all := actors(r.Rule)
	for _, a := range all {
		if a.Var == "" {
			continue
		}
		uses[a.Var]++
		if a.Type == "" || a.Type == epl.Any && first[a.Var] != nil {
			continue
		}
		before := first[a.Var]
		if before == nil || before.Type == epl.Any {
			first[a.Var] = a
		} else if before.Type != a.Type {
			c.add(Finding{
				Span: a.Span, Severity: Error, Code: "two-types",
				Message: fmt.Sprintf("%s is a %s and a %s", a.Var, before.Type, a.Type),
				Hint:    "give one of them another name",
				Related: []Related{{before.Span, "its other type"}},
			})
		}
	}
	for _, a := range all {
		if a.Var != "" && uses[a.Var] == 1 {
			c.add(Finding{
				Span: a.Span, Severity: Note, Code: "unused-variable",
				Message: fmt.Sprintf("%s is used nowhere else", a.Var), Hint: "write " + a.Type,
			})
		}
		if a.Var == "" {
			c.unbound(r, a)
		}
	}
	c.sides(r)
}

// unbound says if what has been read as a type is probably a variable.
func (c *checker) unbound(r *rule, a *epl.Actor) {
	if c.manifest != nil {
		if _, ok := c.manifest.Types[a.Type]; ok {
			return
		}
	}
	if o := c.bound[a.Type]; o != nil && o != r {
		c.add(Finding{
			Span: a.Span, Severity: Error, Code: "unbound-variable",
			Message: fmt.Sprintf("%s is a variable of %s, not of %s", a.Type, o.label, r.label),
			Hint:    fmt.Sprintf("write %s(%s) where it is used first", o.types[a.Type], a.Type),
		})
		return
	}
	if c.manifest == nil && unicode.IsLower(rune(a.Type[0])) && a.Type != epl.Any {
		c.add(Finding{
			Span: a.Span, Severity: Warning, Code: "unbound-variable",
			Message: fmt.Sprintf("%s is read as a type: nothing in %s says which type a variable of this name has", a.Type, r.label),
			Hint:    fmt.Sprintf("if it is a variable, write Type(%s) where it is used first", a.Type),
		})
	}
}

// sides says which variables of behaviors one side of an "or" leaves open.
func (c *checker) sides(r *rule) {
	if !r.complete || len(r.alternatives) < 2 {
		return
	}
	missing := map[string]int{} // alternatives without the variable
	for _, terms := range r.alternatives {
		bound := map[string]bool{}
		for _, t := range terms {
			for _, a := range t.actors() {
				bound[a.Var] = true
			}
		}
		for v := range r.types {
			if !bound[v] {
				missing[v]++
			}
		}
	}
	for _, b := range r.Do {
		for _, a := range b.Actors {
			if n := missing[a.Var]; a.Var != "" && n > 0 && n < len(r.alternatives) {
				missing[a.Var] = 0 // once
				c.add(Finding{
					Span: a.Span, Severity: Error, Code: "unbound-variable",
					Message: fmt.Sprintf("one side of an \"or\" of %s doesn't say which actor %s is", r.label, a.Var),
					Hint:    "make it several rules",
				})
			}
		}
	}
}

func (t *term) actors() []*epl.Actor {
	if t.in != nil {
		return epl.Actors(t.in)
	}
	return epl.Actors(t.compare)
}

// products says which actors of a rule have nothing to do with each other: all pairs of them
// are looked at, and a behavior is about each pair.
func (c *checker) products(r *rule) {
	if !r.complete {
		return
	}
	for _, terms := range r.alternatives {
		if c.product(r, terms) {
			return // once a rule
		}
	}
}

func (c *checker) product(r *rule, terms []*term) bool {
	groups := map[string]string{} // of variables; each leads to its group's first
	var root func(v string) string
	root = func(v string) string {
		if groups[v] == v {
			return v
		}
		return root(groups[v])
	}
	var order []*epl.Actor
	see := func(a *epl.Actor) {
		if _, ok := groups[a.Var]; a.Var != "" && !ok {
			groups[a.Var] = a.Var
			order = append(order, a)
		}
	}
	for _, t := range terms {
		all := t.actors()
		for _, a := range all {
			see(a)
		}
		if len(all) == 2 && all[0].Var != "" && all[1].Var != "" && !t.not {
			groups[root(all[0].Var)] = root(all[1].Var)
		}
	}
	for _, b := range r.Do {
		if b.Verb != epl.Colocate && b.Verb != epl.Separate {
			continue
		}
		x, y := b.Actors[0], b.Actors[1]
		see(x)
		see(y)
		if x.Var != "" && y.Var != "" && root(x.Var) == root(y.Var) {
			continue
		}
		f := Finding{
			Span: b.Span, Severity: Warning, Code: "all-pairs",
			Message: fmt.Sprintf("nothing says which %s belongs to which %s: all of one are put together with all of the other", x, y),
			Hint:    fmt.Sprintf("connect them: %s in ref(%s.property), or by calls", y, x),
		}
		if b.Verb == epl.Separate {
			f.Severity = Note
			f.Message = fmt.Sprintf("each %s is kept apart from each %s: that needs as many servers as there are", x, y)
		}
		c.add(f)
		return true
	}
	for _, a := range order {
		if root(a.Var) != root(order[0].Var) {
			c.add(Finding{
				Span: r.When.Where(), Severity: Warning, Code: "all-pairs",
				Message: fmt.Sprintf("nothing connects %s and %s in %s: all pairs of them are looked at, which costs", order[0], a, r.label),
				Hint:    "connect them by ref or by a call, or make it several rules",
			})
			return true
		}
	}
	return false
}
