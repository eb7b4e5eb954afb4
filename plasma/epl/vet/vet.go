// Package vet tells whether a policy makes sense: by itself, and for an application whose
// manifest is known. It never runs anything.
package vet

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

// Severity is how bad a finding is.
type Severity string

const (
	// Error is what a policy is refused for.
	Error Severity = "error"
	// Warning is what is probably not meant.
	Warning Severity = "warning"
	// Note is what is good to know.
	Note Severity = "note"
)

// Finding is something to say of a part of a policy.
type Finding struct {
	epl.Span
	Severity Severity
	Code     string // for machines: the same for all findings of a check
	Message  string
	Hint     string    // what to do, or ""
	Related  []Related // other parts that it is about, in the order of the argument
}

// Related is a part of the policy that a finding needs.
type Related struct {
	epl.Span
	Message string
}

const (
	// maxFindings bounds what is said of one policy.
	maxFindings = 200
	// maxSteps bounds what checks do that hold all against all. A policy of a hundred rules
	// takes some thousand steps.
	maxSteps = 20_000_000
)

// Check gives what there is to say of a policy that was parsed without errors, in the order of
// its text. Without a manifest (nil) names of the application aren't checked.
func Check(p *epl.Policy, m *manifest.Manifest) []Finding {
	c := &checker{policy: p, manifest: m, bound: map[string]*rule{}, known: map[string][]string{}}
	for i, r := range p.Rules {
		r := newRule(i, r)
		c.rules = append(c.rules, r)
		for v := range r.types {
			if c.bound[v] == nil {
				c.bound[v] = r
			}
		}
	}
	for _, r := range c.rules {
		c.variables(r)
		c.features(r)
		c.behaviors(r)
		c.logic(r)
		c.products(r)
		c.names(r)
	}
	c.heads()
	c.limits()
	c.places()
	c.pins()
	c.sizes()
	c.shadowed()
	c.bounds()
	c.ties()
	slices.SortStableFunc(c.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Pos.Offset, b.Pos.Offset), cmp.Compare(a.Code, b.Code))
	})
	return c.found
}

type checker struct {
	policy   *epl.Policy
	manifest *manifest.Manifest
	rules    []*rule
	found    []Finding
	bound    map[string]*rule    // the first rule that has a variable of this name
	known    map[string][]string // names of the manifest, by what they name
	calls    bool                // it was said what calls between actors need
	steps    int
}

// spend tells whether there may be so many more steps, and says it if there may not.
func (c *checker) spend(steps int) bool {
	if c.steps > maxSteps {
		return false
	}
	if c.steps += steps; c.steps > maxSteps {
		c.found = append(c.found, Finding{
			Span: c.rules[0].head(), Severity: Warning, Code: "too-large",
			Message: "the policy is too large: not everything was checked", Hint: "make several policies of it",
		})
		return false
	}
	return true
}

func (c *checker) add(f Finding) {
	if len(c.found) < maxFindings {
		c.found = append(c.found, f)
	}
}

// rule is a rule with what all checks ask of it.
type rule struct {
	*epl.Rule
	index int
	label string            // how messages call it
	types map[string]string // of variables
	// said are comparisons that something was said about: others would say it again.
	said map[*epl.Compare]bool
	// alternatives are the condition as a disjunction of conjunctions; nil, false if there
	// were too many.
	alternatives [][]*term
	complete     bool
}

func newRule(i int, r *epl.Rule) *rule {
	out := &rule{Rule: r, index: i, label: "rule " + strconv.Itoa(i+1), types: map[string]string{}, said: map[*epl.Compare]bool{}}
	if r.Name != "" {
		out.label = fmt.Sprintf("rule %q", r.Name)
	}
	for _, a := range actors(r) {
		if t := out.types[a.Var]; a.Var != "" && a.Type != "" && (t == "" || t == epl.Any) {
			out.types[a.Var] = a.Type
		}
	}
	out.alternatives, out.complete = out.conjunctions(r.When, false)
	return out
}

// head is the part of the rule that stands for it.
func (r *rule) head() epl.Span {
	if r.Name != "" {
		return r.NameAt
	}
	return r.When.Where()
}

// typ is the type of an actor.
func (r *rule) typ(a *epl.Actor) string {
	if a.Var != "" {
		return r.types[a.Var]
	}
	return a.Type
}

// actors are all that a rule names, in the order of the text.
func actors(r *epl.Rule) []*epl.Actor {
	var all []*epl.Actor
	epl.Walk(r.When, func(x epl.Cond) { all = append(all, epl.Actors(x)...) })
	for _, b := range r.Do {
		all = append(all, b.Actors...)
	}
	return all
}
