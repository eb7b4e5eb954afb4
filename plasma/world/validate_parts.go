package world

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (c *checker) types() {
	if n := len(c.w.Types); n == 0 || n > maxTypes {
		c.report("world", -1, "there are %d types: give from 1 to %d", n, maxTypes)
	}
	for _, t := range slices.Sorted(maps.Keys(c.w.Types)) {
		functions := c.w.Types[t].Functions
		if err := checkName(t); err != nil {
			c.report("type "+t, -1, "a type's name: %v", err)
		}
		for _, f := range slices.Sorted(maps.Keys(functions)) {
			part := "type " + t + " " + f
			if err := checkName(f); err != nil {
				c.report(part, -1, "a function's name: %v", err)
			}
			c.function(part, t+"."+f, functions[f])
		}
	}
}

func (c *checker) function(part, name string, f Function) {
	s := f.Service
	if s.Mean < 0 || s.Mean > maxCost {
		c.report(part, -1, "%s: its service is %s: give one from 0 to %s", name, s.Mean, maxCost)
	}
	switch s.Shape {
	case "", "exponential", "constant":
		if s.Sigma != 0 {
			c.report(part, -1, "%s: only the shape lognormal has a sigma", name)
		}
	case "lognormal":
		if !within(s.Sigma, 5) {
			c.report(part, -1, "%s: its sigma is %v: give one from 0 to 5", name, s.Sigma)
		}
	default:
		c.report(part, -1, "%s: there is no shape %q: use exponential, constant or lognormal", name, s.Shape)
	}
	if !within(f.Bytes, maxBytes) {
		c.report(part, -1, "%s: its bytes must be from 0 to 1 PiB", name)
	}
	for _, call := range f.Calls {
		if checkName(call.Property) != nil || checkName(call.Function) != nil {
			c.report(part, -1, "%s: each call needs a property and a function", name)
		}
		if !within(call.Probability, 1) {
			c.report(part, -1, "%s: it calls %s.%s with probability %v: give one from 0 to 1", name, call.Property, call.Function, call.Probability)
		}
	}
}

func (c *checker) actors() {
	if len(c.w.Actors) > maxActors {
		c.report("world", -1, "there are %d actors: give at most %d", len(c.w.Actors), maxActors)
		return
	}
	c.typeOf = make(map[string]string, len(c.w.Actors))
	for i := range c.w.Actors {
		c.actor("actor", i, &c.w.Actors[i])
	}
}

func (c *checker) actor(part string, i int, a *Actor) {
	if err := checkName(a.ID); err != nil {
		c.report(part, i, "an actor's id: %v", err)
	}
	if _, ok := c.typeOf[a.ID]; ok {
		c.report(part, i, "two actors are %q: an id is of one actor, even when it has gone", a.ID)
	}
	c.typeOf[a.ID] = a.Type
	if _, ok := c.w.Types[a.Type]; !ok {
		c.report(part, i, "actor %s: there is no type %q", a.ID, a.Type)
	}
	if a.Server < -1 || a.Server >= c.w.Servers {
		c.report(part, i, "actor %s is on server %d: give one from 0 to %d, or none", a.ID, a.Server, c.w.Servers-1)
	}
	if !within(a.State, maxBytes) || !within(a.Memory, maxBytes) || !within(a.Scale, 1e6) {
		c.report(part, i, "actor %s: its state, memory and scale must be from 0 to 1 PiB, 1 PiB and 1e6", a.ID)
	}
}

func (c *checker) events() {
	events := c.w.Events
	if len(events) > maxEvents {
		c.report("world", -1, "there are %d events: give at most %d", len(events), maxEvents)
		return
	}
	nodes := make(map[string]bool, len(c.w.Nodes))
	for _, n := range c.w.Nodes {
		nodes[n.ID] = true
	}
	born := map[string]time.Duration{}
	dead := map[string]bool{}
	for i := range events {
		e := &events[i]
		if e.At < 0 || e.At > c.w.Duration {
			c.report("event", i, "an event at %s: give a time from 0 to the duration, %s", e.At, c.w.Duration)
		}
		if i > 0 && e.At < events[i-1].At {
			c.report("event", i, "the event at %s is after that at %s: give events in the order of time", e.At, events[i-1].At)
		}
		if e.kinds() != 1 {
			c.report("event", i, "the event at %s: give just one of born, dies, fails and refs", e.At)
		}
		if e.Recover < 0 || e.Recover > maxDuration || e.Recover != 0 && e.Fails == "" {
			c.report("event", i, "the event at %s: recover is of a failure, from 0 to %s", e.At, maxDuration)
		}
		switch {
		case e.Born != nil:
			born[e.Born.ID] = e.At
			c.actor("event", i, e.Born)
		case e.Dies != "":
			switch _, ok := c.typeOf[e.Dies]; {
			case !ok:
				// One that is born later isn't known yet.
				c.report("event", i, "%s dies at %s, and there is no such actor then", e.Dies, e.At)
			case dead[e.Dies]:
				c.report("event", i, "%s dies twice", e.Dies)
			}
			dead[e.Dies] = true
		case e.Fails != "" && !nodes[e.Fails]:
			n, ok := strings.CutPrefix(e.Fails, "server ")
			if v, err := strconv.Atoi(n); !ok || err != nil || v < 0 {
				c.report("event", i, "%q fails at %s: give a node's id or \"server N\"", e.Fails, e.At)
			}
		case e.Refs != nil:
			if _, ok := c.typeOf[e.Refs.ID]; !ok || dead[e.Refs.ID] {
				c.report("event", i, "%s gets references at %s, and there is no such actor then", e.Refs.ID, e.At)
			}
		}
	}
}

// kinds is how many of an event's kinds are given.
func (e *Event) kinds() int {
	n := 0
	for _, given := range []bool{e.Born != nil, e.Dies != "", e.Fails != "", e.Refs != nil} {
		if given {
			n++
		}
	}
	return n
}

func (c *checker) streams() {
	if len(c.w.Streams) > maxStreams {
		c.report("world", -1, "there are %d streams: give at most %d", len(c.w.Streams), maxStreams)
		return
	}
	arrivals := 0.0
	for i := range c.w.Streams {
		s := &c.w.Streams[i]
		if _, ok := c.w.Types[s.Type].Functions[s.Function]; !ok {
			c.report("stream", i, "a stream calls %s.%s: there is no such function", s.Type, s.Function)
		}
		switch {
		case len(s.Arrivals) > 0 && (len(s.Rate) > 0 || len(s.Targets) > 0):
			c.report("stream", i, "the stream of %s.%s has arrivals: it needs no rate and no targets", s.Type, s.Function)
		case len(s.Arrivals) == 0 && len(s.Rate) == 0:
			c.report("stream", i, "the stream of %s.%s has no rate and no arrivals", s.Type, s.Function)
		}
		c.points(i, "rate", s.Rate)
		c.trace(i, s)
		c.targets(i, s)
		arrivals += float64(len(s.Arrivals)) + s.expected(c.w.Duration)
	}
	if arrivals > maxArrivals {
		c.report("world", -1, "the streams make about %.0f requests: give at most %d", arrivals, maxArrivals)
	}
}

func (c *checker) trace(i int, s *Stream) {
	for k, a := range s.Arrivals {
		if a.At < 0 || a.At > c.w.Duration || k > 0 && a.At < s.Arrivals[k-1].At {
			c.report("stream", i, "arrival %d at %s: give times in order, from 0 to %s", k+1, a.At, c.w.Duration)
		}
		if c.typeOf[a.ID] != s.Type {
			c.report("stream", i, "arrival %d at %s: there is no %s %q", k+1, a.At, s.Type, a.ID)
		}
		if len(c.problems) == maxProblems {
			return
		}
	}
}

func (c *checker) points(i int, what string, points []Point) {
	if len(points) > maxPoints {
		c.report("stream", i, "a %s has %d points: give at most %d", what, len(points), maxPoints)
	}
	for k, p := range points {
		if p.At < 0 || p.At > maxDuration || k > 0 && p.At <= points[k-1].At {
			c.report("stream", i, "a %s has a point at %s: give points in the order of time", what, p.At)
		}
		if !within(p.Value, maxRate) {
			c.report("stream", i, "a %s is %v: give one from 0 to %v", what, p.Value, maxRate)
		}
	}
}

func (c *checker) targets(i int, s *Stream) {
	if len(s.Targets) > maxActors {
		c.report("stream", i, "a stream has %d targets: give at most %d", len(s.Targets), maxActors)
		return
	}
	seen := make(map[string]bool, len(s.Targets))
	some := len(s.Targets) == 0
	for _, t := range s.Targets {
		if c.typeOf[t.ID] != s.Type {
			c.report("stream", i, "a stream of %s.%s has the target %q: there is no %s of that name", s.Type, s.Function, t.ID, s.Type)
		}
		if seen[t.ID] {
			c.report("stream", i, "a stream of %s.%s has the target %q twice", s.Type, s.Function, t.ID)
		}
		seen[t.ID] = true
		c.points(i, "weight", t.Weight)
		for _, p := range t.Weight {
			some = some || p.Value > 0
		}
	}
	if !some {
		c.report("stream", i, "a stream of %s.%s has no target with a weight above 0", s.Type, s.Function)
	}
}
