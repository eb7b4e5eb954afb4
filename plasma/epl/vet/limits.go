package vet

import (
	"fmt"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// heads says what is odd about the policy's mode and its rules' heads.
func (c *checker) heads() {
	if c.policy.Shadow {
		c.add(Finding{
			Span: c.policy.ShadowAt, Severity: Note, Code: "shadow-mode",
			Message: "in shadow mode plans are made and explained, and not carried out",
		})
	}
	names := map[string]*rule{}
	for _, r := range c.rules {
		if before := names[r.Name]; before != nil && r.Name != "" {
			c.add(Finding{
				Span: r.NameAt, Severity: Error, Code: "name-twice",
				Message: fmt.Sprintf("two rules have the name %q", r.Name),
				Related: []Related{{before.NameAt, "the other one"}},
			})
			continue
		}
		names[r.Name] = r
	}
}

// shortest is a period that costs more than it gives.
const shortest = 100 * time.Millisecond

// limits says which limits make no sense.
func (c *checker) limits() {
	l := c.policy.Limits
	if l == nil {
		return
	}
	say := func(at epl.Span, s Severity, message, hint string) {
		c.add(Finding{Span: at, Severity: s, Code: "limits", Message: message, Hint: hint})
	}
	if s := l.Servers; s != nil {
		switch {
		case s.Low > s.High:
			say(s.Span, Error, fmt.Sprintf("at least %d servers and at most %d: there is no such number", s.Low, s.High), fmt.Sprintf("write: servers %d..%d", s.High, s.Low))
		case s.Low == 0:
			say(s.Span, Error, "actors need a server: there has to be at least one", fmt.Sprintf("write: servers 1..%d", max(1, s.High)))
		}
	}
	if m := l.Moves; m != nil {
		switch {
		case m.Count == 0:
			say(m.Span, Error, "no moves are allowed: no behavior can do anything", "mode shadow makes plans that are not carried out")
		case m.Percent && m.Count > 100:
			say(m.Span, Warning, "more than 100 % of all actors is no limit", "")
		}
		if m.Per == 0 {
			say(m.Span, Error, "moves in no time have no meaning", "write: per 10s")
		} else if l.Period != nil && m.Per < l.Period.Value {
			say(m.Span, Note, "moves are planned once a period: within a shorter time there are none or all of them", "")
		}
	}
	if p := l.Period; p != nil && p.Value < shortest {
		s, hint := Warning, "a period is usually some seconds long"
		if p.Value == 0 {
			s = Error
		}
		say(p.Span, s, fmt.Sprintf("a period of %s is too short to see anything in it", p.Value), hint)
	}
	c.cooldown()
}

func (c *checker) cooldown() {
	l := c.policy.Limits
	d := l.Cooldown
	if d == nil {
		return
	}
	if d.Down < d.Up {
		c.add(Finding{
			Span: d.Span, Severity: Warning, Code: "limits",
			Message: "servers are stopped sooner than they are started", Hint: "down should be longer than up",
		})
	}
	if l.Period == nil {
		return
	}
	for _, x := range []struct {
		name string
		time time.Duration
		s    Severity
	}{{"up", d.Up, Note}, {"down", d.Down, Warning}} {
		if x.time > 0 && x.time < l.Period.Value {
			c.add(Finding{
				Span: d.Span, Severity: x.s, Code: "limits",
				Message: fmt.Sprintf("a cooldown %s of less than the period has no effect: servers change at most once a period", x.name),
			})
		}
	}
}

// ties says which rules want different things of the same actors, and neither goes first.
func (c *checker) ties() {
	ranked := false
	for _, r := range c.rules {
		ranked = ranked || r.Priority != 0
	}
	if !ranked {
		return
	}
	for i, r := range c.rules {
		for _, o := range c.rules[max(0, i-maxShadows):i] {
			if !c.spend(1 + len(r.Do)*len(o.Do)) {
				return
			}
			if r.Priority != o.Priority {
				continue
			}
			if x, y := rivals(o, r); x != nil && !c.exclude(r, o) {
				c.add(Finding{
					Span: r.head(), Severity: Note, Code: "same-priority",
					Message: fmt.Sprintf("%s and %s have the same priority, and want different things of the same type: the first in the text goes first", o.label, r.label),
					Hint:    "give one of them a higher priority",
					Related: []Related{{x.Span, o.label}, {y.Span, r.label}},
				})
			}
		}
	}
}

// rivals finds behaviors of two rules that move the same type in different ways.
func rivals(r, o *rule) (x, y *epl.Behavior) {
	for _, a := range r.Do {
		for _, b := range o.Do {
			if a.Verb == b.Verb || a.Verb == epl.Pin || b.Verb == epl.Pin || a.Verb == epl.Separate && b.Verb == epl.Colocate || a.Verb == epl.Colocate && b.Verb == epl.Separate {
				continue
			}
			for _, s := range a.Actors {
				for _, t := range b.Actors {
					if matches(r.typ(s), o.typ(t)) {
						return a, b
					}
				}
			}
		}
	}
	return nil, nil
}
