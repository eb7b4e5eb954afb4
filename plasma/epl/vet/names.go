package vet

import (
	"fmt"
	"maps"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// names says which names the application hasn't got.
func (c *checker) names(r *rule) {
	if c.manifest == nil {
		return
	}
	for _, a := range actors(r.Rule) {
		c.typ(a)
	}
	epl.Walk(r.When, func(x epl.Cond) {
		switch x := x.(type) {
		case *epl.In:
			c.property(r, x)
		case *epl.Compare:
			switch f := x.Feature; f.Kind {
			case epl.Call:
				c.member(f.NameAt, f.Name, r.typ(f.Entity), "function", func(t string) []string { return c.manifest.Types[t].Functions })
			case epl.Metric:
				if f.Entity != nil {
					c.member(f.NameAt, f.Name, r.typ(f.Entity), "metric", func(t string) []string { return c.manifest.Types[t].Metrics })
				} else if !slices.Contains(c.manifest.Server.Metrics, f.Name) {
					c.unknown(f.NameAt, "metric", f.Name, " of servers", c.manifest.Server.Metrics)
				}
			}
		}
	})
}

// typeNames are the application's.
func (c *checker) typeNames() []string {
	return c.once("type", func() []string { return slices.Sorted(maps.Keys(c.manifest.Types)) })
}

// once makes a list of names and keeps it.
func (c *checker) once(what string, of func() []string) []string {
	names, ok := c.known[what]
	if !ok {
		names = of()
		c.known[what] = names
	}
	return names
}

func (c *checker) typ(a *epl.Actor) {
	if _, ok := c.manifest.Types[a.Type]; ok || a.Type == "" || a.Type == epl.Any {
		return
	}
	at := a.Span
	at.End = at.Pos
	at.End.Offset += len(a.Type)
	at.End.Column += len(a.Type)
	c.unknown(at, "type", a.Type, "", c.typeNames())
}

func (c *checker) unknown(at epl.Span, what, name, of string, known []string) {
	if len(c.found) >= maxFindings {
		return // saves the search
	}
	f := Finding{
		Span: at, Severity: Error, Code: "unknown-" + what,
		Message: fmt.Sprintf("the manifest has no %s %q%s", what, name, of),
	}
	if near := epl.Nearest(name, known); near != "" {
		f.Hint = fmt.Sprintf("did you mean %q?", near)
	} else if len(known) > 0 && len(known) <= 10 {
		f.Hint = fmt.Sprintf("it has %s", list(known))
	}
	c.add(f)
}

func list(names []string) string {
	s := ""
	for i, n := range names {
		if i > 0 {
			s += ", "
		}
		s += n
	}
	return s
}

// member checks a name of a type, or of any type.
func (c *checker) member(at epl.Span, name, typ, what string, of func(string) []string) {
	if typ == epl.Any {
		known := c.once(what, func() []string {
			var all []string
			for _, t := range c.typeNames() {
				all = append(all, of(t)...)
			}
			return all
		})
		if !slices.Contains(known, name) {
			c.unknown(at, what, name, " of any type", known)
		}
		return
	}
	if _, ok := c.manifest.Types[typ]; ok && !slices.Contains(of(typ), name) {
		c.unknown(at, what, name, " of "+typ, of(typ))
	}
}

// property checks X in ref(Of.Name): that the property is there, and holds such actors.
func (c *checker) property(r *rule, x *epl.In) {
	typ, of := r.typ(x.X), r.typ(x.Of)
	c.member(x.NameAt, x.Name, of, "property", func(t string) []string {
		return slices.Sorted(maps.Keys(c.manifest.Types[t].Properties))
	})
	to, ok := c.manifest.Types[of].Properties[x.Name]
	if _, known := c.manifest.Types[typ]; ok && known && to != typ && to != epl.Any {
		c.add(Finding{
			Span: x.Span, Severity: Error, Code: "wrong-reference",
			Message: fmt.Sprintf("%s of %s refers to %s, never to %s", x.Name, of, to, typ),
		})
	}
}
