package vet

import (
	"fmt"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// features says which comparisons compare what can't be compared.
func (c *checker) features(r *rule) {
	epl.Walk(r.When, func(x epl.Cond) {
		if x, ok := x.(*epl.Compare); ok {
			c.stat(x)
			c.unit(r, x)
			c.times(x)
			if x.Feature.Caller != nil && !c.calls {
				c.calls = true
				c.add(Finding{
					Span: x.Feature.Span, Severity: Note, Code: "calls-need-sdk",
					Message: "calls between actors, by function, are known only of applications that use the SDK",
					Hint:    "of plain containers the network knows bytes and connections",
				})
			}
		}
	})
}

func (c *checker) stat(x *epl.Compare) {
	f := x.Feature
	switch {
	case f.Kind == epl.Resource && f.Stat == "count":
		c.add(Finding{
			Span: f.StatAt, Severity: Error, Code: "meaningless-stat",
			Message: fmt.Sprintf("%s.count has no meaning: only calls are counted", f.Name),
			Hint:    "perc is the share of the server's limit, size the amount: " + amount(f.Name),
		})
	case x.Op == epl.Equal && (f.Kind == epl.Resource || f.Kind == epl.Latency || f.Stat == "perc"):
		c.add(Finding{
			Span: x.Span, Severity: Warning, Code: "equal-measure",
			Message: fmt.Sprintf("%s is measured: it is hardly ever exactly %s", f, x.Value),
			Hint:    "compare with >= or <=",
		})
	}
}

func amount(resource string) string {
	switch resource {
	case "cpu":
		return "thousandths of a core"
	case "mem":
		return "bytes"
	}
	return "bytes per second"
}

// unit says if a number has a unit that its feature hasn't.
func (c *checker) unit(r *rule, x *epl.Compare) {
	f, unit := x.Feature, x.Value.Unit()
	want := "no unit"
	switch {
	case unit == "" || f.Kind == epl.Metric:
		return
	case f.Kind == epl.Latency:
		if unit == "ms" || unit == "s" {
			return
		}
		want = "ms or s"
	case f.Stat == "size" && f.Name != "cpu" || f.Stat == "size" && f.Kind == epl.Call:
		if unit != "ms" && unit != "s" {
			return
		}
		want = "bytes: KiB, MiB or GiB"
	}
	r.said[x] = true
	c.add(Finding{
		Span: x.Value.Span, Severity: Error, Code: "wrong-unit",
		Message: fmt.Sprintf("%s isn't in %s", f, unit), Hint: "it has " + want,
	})
}

// times says if "over" or "for" change nothing.
func (c *checker) times(x *epl.Compare) {
	check := func(d *epl.Duration, word string) {
		if d == nil {
			return
		}
		l := c.policy.Limits
		if d.Value == 0 || l != nil && l.Period != nil && d.Value < l.Period.Value {
			c.add(Finding{
				Span: d.Span, Severity: Warning, Code: "no-time",
				Message: fmt.Sprintf("%q of less than a period has no effect: features are seen once a period", word),
				Hint:    "leave it out, or make it longer",
			})
		}
	}
	check(x.Over, "over")
	check(x.For, "for")
}

// behaviors says what is odd about a rule's behaviors.
func (c *checker) behaviors(r *rule) {
	if len(r.Do) == 0 {
		c.add(Finding{
			Span: r.When.Where(), Severity: Warning, Code: "no-behavior",
			Message: fmt.Sprintf("%s has no behaviors: it does nothing", r.label),
		})
	}
	for _, b := range r.Do {
		switch b.Verb {
		case epl.Balance:
			c.balanced(r, b)
		case epl.Colocate, epl.Separate:
			if a, o := b.Actors[0], b.Actors[1]; a.Var != "" && a.Var == o.Var {
				c.add(Finding{
					Span: b.Span, Severity: Error, Code: "with-itself",
					Message: fmt.Sprintf("%s is about %s and itself", b.Verb, a.Var), Hint: "it takes two variables",
				})
			}
		}
	}
}

func (c *checker) balanced(r *rule, b *epl.Behavior) {
	if len(b.Actors) == 0 {
		c.add(Finding{
			Span: b.Span, Severity: Warning, Code: "nothing-to-balance",
			Message: "balance has no types: it does nothing", Hint: "any stands for all types",
		})
	}
	seen := map[string]bool{}
	for _, a := range b.Actors {
		if t, ok := r.types[a.Type]; ok {
			c.add(Finding{
				Span: a.Span, Severity: Error, Code: "not-a-type",
				Message: fmt.Sprintf("balance takes types, %s is a variable", a.Type), Hint: "write " + t,
			})
		}
		if seen[a.Type] {
			c.add(Finding{
				Span: a.Span, Severity: Warning, Code: "twice", Message: fmt.Sprintf("%s is in the same balance twice", a.Type),
			})
		}
		seen[a.Type] = true
	}
}
