package model

import (
	"fmt"
	"math"

	"github.com/containerd/errdefs"
)

// The most that a snapshot may have of each.
const (
	MaxServers = 1 << 16
	MaxActors  = 1 << 21
	MaxCalls   = 1 << 23
)

// Validate tells what is wrong with a snapshot that came from elsewhere, as errdefs'
// ErrInvalidArgument: the planner relies on relations that lead somewhere, and on numbers.
func (s *Snapshot) Validate() error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (s *Snapshot) validate() error {
	if s.Version != Version {
		return fmt.Errorf("the snapshot is of version %d, and this program knows version %d", s.Version, Version)
	}
	if s.Window <= 0 {
		return fmt.Errorf("the window is %s: want a time in which usage was measured", s.Window)
	}
	if len(s.Servers) > MaxServers || len(s.Nodes) > MaxServers || len(s.Actors) > MaxActors || len(s.Calls) > MaxCalls {
		return fmt.Errorf("the snapshot has more than %d servers or nodes, %d actors or %d calls", MaxServers, MaxActors, MaxCalls)
	}
	names := map[string]bool{}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if err := named(names, "node", i, n.ID); err != nil {
			return err
		}
		if err := amounts("node "+n.ID, n.Capacity.CPU, n.Capacity.Mem, n.Capacity.Net); err != nil {
			return err
		}
	}
	clear(names)
	for i := range s.Servers {
		if err := s.server(i, names); err != nil {
			return err
		}
	}
	clear(names)
	for i := range s.Actors {
		if err := s.actor(i, names); err != nil {
			return err
		}
	}
	for i := range s.Calls {
		c := &s.Calls[i]
		if c.From < Client || c.From >= len(s.Actors) || c.To < 0 || c.To >= len(s.Actors) {
			return fmt.Errorf("call %d is from actor %d to actor %d, of %d", i, c.From, c.To, len(s.Actors))
		}
		if err := amounts("call", c.Count, c.Bytes); err != nil {
			return err
		}
	}
	return nil
}

func (s *Snapshot) server(i int, names map[string]bool) error {
	one := &s.Servers[i]
	if err := named(names, "server", i, one.ID); err != nil {
		return err
	}
	switch one.State {
	case Up, Starting, Draining, Down:
	default:
		return fmt.Errorf("server %s is %q: want up, starting, draining or down", one.ID, one.State)
	}
	if one.Node < -1 || one.Node >= len(s.Nodes) {
		return fmt.Errorf("server %s is on node %d, of %d", one.ID, one.Node, len(s.Nodes))
	}
	for _, r := range []Resources{one.Limit, one.Usage, one.Max} {
		if err := amounts("server "+one.ID, r.CPU, r.Mem, r.Net); err != nil {
			return err
		}
	}
	return measured("server "+one.ID, one.Latency, one.Queue, one.Metrics)
}

func (s *Snapshot) actor(i int, names map[string]bool) error {
	a := &s.Actors[i]
	if err := named(names, "actor", i, a.ID); err != nil {
		return err
	}
	if a.Type == "" {
		return fmt.Errorf("actor %s has no type", a.ID)
	}
	if a.Server < -1 || a.Server >= len(s.Servers) {
		return fmt.Errorf("actor %s is on server %d, of %d", a.ID, a.Server, len(s.Servers))
	}
	for _, r := range a.Refs {
		if r.To < -1 || r.To >= len(s.Actors) {
			return fmt.Errorf("actor %s refers to actor %d, of %d", a.ID, r.To, len(s.Actors))
		}
	}
	if err := amounts("actor "+a.ID, a.Usage.CPU, a.Usage.Mem, a.Usage.Net, a.State); err != nil {
		return err
	}
	return measured("actor "+a.ID, a.Latency, a.Queue, a.Metrics)
}

func named(known map[string]bool, what string, i int, id string) error {
	if id == "" {
		return fmt.Errorf("%s %d has no id", what, i)
	}
	if known[id] {
		return fmt.Errorf("there are two of %s %s", what, id)
	}
	known[id] = true
	return nil
}

func measured(who string, l Latency, queue float64, metrics map[string]float64) error {
	if err := amounts(who, l.Mean, l.P50, l.P95, l.P99, queue); err != nil {
		return err
	}
	for name, value := range metrics {
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return fmt.Errorf("%s has a metric %s that is no number", who, name)
		}
	}
	return nil
}

func amounts(who string, values ...float64) error {
	for _, v := range values {
		if !(v >= 0) || math.IsInf(v, 0) {
			return fmt.Errorf("%s has an amount of %v: want a number that is not negative", who, v)
		}
	}
	return nil
}
