package sim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/world"
)

func (r *run) prepareStreams() error {
	for i := range r.world.Streams {
		w := &r.world.Streams[i]
		s := stream{world: w, rng: generator(r.options.Seed, 2, i)}
		var ok bool
		if s.typ, ok = r.typeIDs[w.Type]; !ok {
			return fmt.Errorf("stream %d calls %s.%s, and there is no such type", i+1, w.Type, w.Function)
		}
		s.function = int32(slices.Index(r.functionNames, w.Function))
		if s.function < 0 || r.types[s.typ].functions[s.function] == none {
			return fmt.Errorf("stream %d calls %s.%s, which a %s hasn't", i+1, w.Type, w.Function, w.Type)
		}
		if err := r.prepareLoad(&s); err != nil {
			return fmt.Errorf("stream %d: %w", i+1, err)
		}
		r.streams = append(r.streams, s)
	}
	for i := range r.streams {
		r.schedule(int32(i))
		for t := range r.streams[i].world.Targets {
			if r.streams[i].weights != nil {
				r.weightChanges(int32(i), int32(t))
			}
		}
	}
	return nil
}

func (r *run) prepareLoad(s *stream) error {
	id := func(name string) error {
		i, ok := r.ids[name]
		if !ok {
			return fmt.Errorf("there is no actor %s", name)
		}
		if r.types[r.actors[i].typ].functions[s.function] == none {
			return fmt.Errorf("%s has no function %s", name, s.world.Function)
		}
		s.ids = append(s.ids, i)
		return nil
	}
	var last time.Duration
	for _, a := range s.world.Arrivals {
		if err := id(a.ID); err != nil {
			return err
		}
		if a.At < last {
			return fmt.Errorf("the arrival at %s comes after that at %s: put them in order", a.At, last)
		}
		last = a.At
	}
	if err := checkPoints(s.world.Rate); err != nil {
		return fmt.Errorf("its rate: %w", err)
	}
	if s.world.Arrivals != nil || s.world.Targets == nil {
		return nil
	}
	n := len(s.world.Targets)
	s.weights = newWeights(n)
	s.nominal = make([]float64, n)
	s.steps = make([]int, n)
	s.of = make(map[int32]int, n)
	for t, target := range s.world.Targets {
		if err := id(target.ID); err != nil {
			return err
		}
		if err := checkPoints(target.Weight); err != nil {
			return fmt.Errorf("the weight of %s: %w", target.ID, err)
		}
		if _, twice := s.of[s.ids[t]]; twice {
			return fmt.Errorf("%s is a target twice", target.ID)
		}
		s.of[s.ids[t]] = t
		if len(target.Weight) == 0 {
			s.nominal[t] = 1
		}
	}
	return nil
}

func checkPoints(points []world.Point) error {
	for k, p := range points {
		if !positive(p.Value) {
			return fmt.Errorf("%v at %s is no amount: give one that is not below zero", p.Value, p.At)
		}
		if k > 0 && p.At <= points[k-1].At {
			return fmt.Errorf("the point at %s comes after that at %s: put them in order", p.At, points[k-1].At)
		}
	}
	return nil
}

// positive tells whether a number is finite and not below zero.
func positive(x float64) bool { return x >= 0 && !math.IsInf(x, 1) }
