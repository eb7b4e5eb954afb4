package epl

import (
	"strconv"
	"strings"
	"time"
)

// String gives the policy as Format would, without its comments.
func (p *Policy) String() string {
	var b strings.Builder
	if p.Shadow {
		b.WriteString("mode shadow;")
	}
	if p.Limits != nil {
		b.WriteString(p.Limits.String())
	}
	for _, r := range p.Rules {
		b.WriteString(r.String())
	}
	return string(layout([]byte(b.String())))
}

// String gives the limits in one line.
func (l *Limits) String() string {
	var b strings.Builder
	b.WriteString("limits { ")
	if l.Servers != nil {
		b.WriteString("servers " + strconv.Itoa(l.Servers.Low) + ".." + strconv.Itoa(l.Servers.High) + "; ")
	}
	if l.Moves != nil {
		b.WriteString("moves " + strconv.FormatFloat(l.Moves.Count, 'f', -1, 64))
		if l.Moves.Percent {
			b.WriteString("%")
		}
		b.WriteString(" per " + duration(l.Moves.Per) + "; ")
	}
	if l.Cooldown != nil {
		b.WriteString("cooldown up " + duration(l.Cooldown.Up) + " down " + duration(l.Cooldown.Down) + "; ")
	}
	if l.Period != nil {
		b.WriteString("period " + duration(l.Period.Value) + "; ")
	}
	return b.String() + "}"
}

// String gives the rule in one line.
func (r *Rule) String() string {
	var b strings.Builder
	if r.Name != "" {
		b.WriteString("rule " + r.Name)
	}
	if r.Priority != 0 {
		if r.Name != "" {
			b.WriteString(" ")
		}
		b.WriteString("priority " + strconv.Itoa(r.Priority))
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(String(r.When) + " =>")
	for _, do := range r.Do {
		b.WriteString(" " + do.String() + ";")
	}
	if len(r.Do) == 0 {
		b.WriteString(";")
	}
	return b.String()
}

// String gives the behavior without a semicolon.
func (b *Behavior) String() string {
	var actors []string
	for _, a := range b.Actors {
		actors = append(actors, a.String())
	}
	s := strings.Join(actors, ", ")
	if b.Verb == Balance {
		s = "{" + s + "}"
	}
	if b.Resource != "" {
		s += ", " + b.Resource
	}
	s = string(b.Verb) + "(" + s + ")"
	if b.Level != Server {
		s += " at " + string(b.Level)
	}
	return s
}

// String gives the condition in one line.
func String(c Cond) string {
	switch c := c.(type) {
	case *Or:
		return String(c.X) + " or " + String(c.Y)
	case *And:
		return String(c.X) + " and " + String(c.Y)
	case *Not:
		return "not " + String(c.X)
	case *Paren:
		return "(" + String(c.X) + ")"
	case *Compare:
		s := c.Feature.String() + " " + string(c.Op) + " " + c.Value.String()
		if c.Over != nil {
			s += " over " + duration(c.Over.Value)
		}
		if c.For != nil {
			s += " for " + duration(c.For.Value)
		}
		return s
	case *In:
		return c.X.String() + " in ref(" + c.Of.String() + "." + c.Name + ")"
	}
	return "true"
}

// String gives the number as it was written, or in the feature's unit.
func (n Number) String() string {
	if n.Text != "" {
		return n.Text
	}
	return strconv.FormatFloat(n.Value, 'f', -1, 64)
}

// String gives the feature with its entity.
func (f *Feature) String() string {
	entity := "server"
	if f.Entity != nil {
		entity = f.Entity.String()
	}
	switch f.Kind {
	case Call:
		caller := "client"
		if f.Caller != nil {
			caller = f.Caller.String()
		}
		return caller + ".call(" + entity + "." + f.Name + ")." + f.Stat
	case Metric:
		return entity + `.metric("` + f.Name + `")`
	}
	return entity + "." + f.Name + "." + f.Stat
}

func duration(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}
