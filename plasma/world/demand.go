package world

import (
	"sort"
	"time"
)

// At is a rate at a time: straight between its points, and beyond them as at the nearest.
func At(points []Point, at time.Duration) float64 {
	for i, p := range points {
		if at >= p.At {
			continue
		}
		if i == 0 {
			return p.Value
		}
		q := points[i-1]
		return q.Value + (p.Value-q.Value)*float64(at-q.At)/float64(p.At-q.At)
	}
	if len(points) == 0 {
		return 0
	}
	return points[len(points)-1].Value
}

// Step is a weight at a time: that of the last point until then, 0 before the first.
func Step(points []Point, at time.Duration) float64 {
	v := 0.0
	for _, p := range points {
		if p.At > at {
			break
		}
		v = p.Value
	}
	return v
}

// expected is how many requests a rate makes in a time.
func (s *Stream) expected(d time.Duration) float64 {
	if len(s.Rate) == 0 {
		return 0
	}
	sum, last := 0.0, Point{Value: At(s.Rate, 0)}
	for _, p := range s.Rate {
		if p.At >= d {
			break
		}
		if p.At > 0 {
			sum += (p.At - last.At).Seconds() * (p.Value + last.Value) / 2
			last = p
		}
	}
	return sum + (d-last.At).Seconds()*(At(s.Rate, d)+last.Value)/2
}

// Demand is what a load asks for, per second.
type Demand struct {
	Requests float64 // of clients
	Messages float64 // requests, and the calls that they cause
	CPU      float64 // cores; without what messages and moves cost
}

// traceWindow is what a trace's rate is counted in.
const traceWindow = 10 * time.Second

// DemandAt is the mean demand at a time, of what the world says: it simulates nothing. The world
// must be valid.
func (w *World) DemandAt(at time.Duration) Demand { return newDemands(w).at(at) }

// at is the demand at a time, no earlier than the time before.
func (d *demands) at(at time.Duration) Demand {
	d.advance(at)
	w := d.w
	var total Demand
	for i := range w.Streams {
		s := &w.Streams[i]
		if len(s.Arrivals) > 0 {
			from := max(0, min(at-traceWindow/2, w.Duration-traceWindow))
			first := sort.Search(len(s.Arrivals), func(k int) bool { return s.Arrivals[k].At >= from })
			for _, a := range s.Arrivals[first:] {
				if a.At >= from+traceWindow {
					break
				}
				total.add(d.of(a.ID, s.Function), 1/traceWindow.Seconds())
			}
			continue
		}
		rate := At(s.Rate, at)
		var sum Demand
		weights := 0.0
		if s.Targets == nil {
			for _, id := range d.order {
				if a := d.actors[id]; a != nil && a.Type == s.Type {
					sum.add(d.of(id, s.Function), 1)
					weights++
				}
			}
		}
		for _, t := range s.Targets {
			if v := Step(t.Weight, at); v > 0 && d.actors[t.ID] != nil {
				sum.add(d.of(t.ID, s.Function), v)
				weights += v
			}
		}
		if weights > 0 {
			total.add(sum, rate/weights)
		}
	}
	return total
}

// demands are what a call of each actor's function asks for, all in all, as time goes on.
type demands struct {
	w      *World
	actors map[string]*Actor // that are alive
	order  []string          // of all that have been, so that sums are the same each time
	refs   map[string]map[string][]string
	known  map[[2]string]Demand
	next   int // event
}

func newDemands(w *World) *demands {
	d := &demands{
		w: w, actors: make(map[string]*Actor, len(w.Actors)),
		refs: map[string]map[string][]string{}, known: map[[2]string]Demand{},
	}
	for i := range w.Actors {
		d.actors[w.Actors[i].ID] = &w.Actors[i]
		d.order = append(d.order, w.Actors[i].ID)
	}
	return d
}

// advance takes the events until a time.
func (d *demands) advance(at time.Duration) {
	for d.next < len(d.w.Events) && d.w.Events[d.next].At <= at {
		e := &d.w.Events[d.next]
		d.next++
		switch {
		case e.Born != nil:
			d.actors[e.Born.ID] = e.Born
			d.order = append(d.order, e.Born.ID)
		case e.Dies != "":
			delete(d.actors, e.Dies)
		case e.Refs != nil:
			d.refs[e.Refs.ID] = e.Refs.Refs
		}
		clear(d.known)
	}
}

func (d *demands) of(id, function string) Demand {
	key := [2]string{id, function}
	if known, ok := d.known[key]; ok {
		return known
	}
	a := d.actors[id]
	if a == nil {
		return Demand{}
	}
	d.known[key] = Demand{} // a circle ends here: what it adds isn't counted
	f := d.w.Types[a.Type].Functions[function]
	scale := a.Scale
	if scale == 0 {
		scale = 1
	}
	sum := Demand{Requests: 1, Messages: 1, CPU: f.Service.Mean.Seconds() * scale}
	refs := a.Refs
	if changed, ok := d.refs[id]; ok {
		refs = changed
	}
	for _, c := range f.Calls {
		to := refs[c.Property]
		factor := c.chance()
		if !c.All {
			factor /= float64(max(len(to), 1))
		}
		for _, other := range to {
			called := d.of(other, c.Function)
			called.Requests = 0
			sum.add(called, factor)
		}
	}
	d.known[key] = sum
	return sum
}

func (d *Demand) add(o Demand, times float64) {
	d.Requests += o.Requests * times
	d.Messages += o.Messages * times
	d.CPU += o.CPU * times
}

// Needed is how many servers a demand needs when they are used to a share of their cores.
func (w *World) Needed(cpu, share float64) int {
	n := 1
	for float64(n)*w.Server.Cores*share < cpu-1e-9 && n < maxServers {
		n++
	}
	return n
}

// Size sets how many servers a valid world needs at its peak and in the mean, at 70 % of their
// cores, from its load. It looks at 240 moments, at fewer of a large world.
func (w *World) Size() {
	const share, work = .7, 4_000_000
	parts := len(w.Actors) + len(w.Events)
	for i := range w.Streams {
		parts += len(w.Streams[i].Targets)
	}
	samples := min(240, max(12, work/max(parts, 1)))
	d := newDemands(w)
	most, sum := 0.0, 0.0
	for i := range samples {
		at := time.Duration(float64(w.Duration) * (float64(i) + .5) / float64(samples))
		cpu := d.at(at).CPU
		most = max(most, cpu)
		sum += cpu
	}
	w.Peak = w.Needed(most, share)
	w.Mean = w.Needed(sum/float64(samples), share)
}
