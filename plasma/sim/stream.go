package sim

import (
	"math/rand/v2"
	"sort"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/world"
)

// stream is a load from clients.
type stream struct {
	world    *world.Stream
	typ      int32
	function int32 // by name
	rng      rand.PCG
	next     int // of a trace's arrivals
	ids      []int32
	// weights are of targets: 0 as long as one isn't alive. nil means all of the type alike.
	weights *weights
	nominal []float64 // what a target's weight is while it's alive
	steps   []int     // of each target: the next point of its weights
	of      map[int32]int
}

// schedule puts a stream's next arrival into the heap.
func (r *run) schedule(i int32) {
	s := &r.streams[i]
	if s.world.Arrivals != nil {
		if s.next < len(s.world.Arrivals) {
			r.heap.push(max(r.now, int64(s.world.Arrivals[s.next].At)), evArrival, i, 0)
		}
		return
	}
	at, ok := nextArrival(s.world.Rate, r.now, int64(r.options.Duration), r.dice.of(&s.rng))
	if ok {
		r.heap.push(at, evArrival, i, 0)
	}
}

// nextArrival draws when the next request of a Poisson stream comes: stretch by stretch with the
// stretch's highest rate, of which as many are kept as the rate at their time asks for. ok is
// false if there is none before the end.
func nextArrival(rate []world.Point, now, end int64, d *dice) (at int64, ok bool) {
	for now < end {
		from, to, until := stretch(rate, now)
		top := max(from, to)
		if top <= 0 {
			if until < 0 {
				return 0, false
			}
			now = until
			continue
		}
		gap := d.ExpFloat64() / top * float64(time.Second)
		if until >= 0 && gap >= float64(until-now) {
			now = until // a Poisson stream has no memory: the next stretch begins afresh
			continue
		}
		if gap >= float64(end-now) {
			return 0, false
		}
		now += int64(gap)
		if from == to {
			return now, true
		}
		if d.Float64()*top < rateAt(rate, now) {
			return now, true
		}
	}
	return 0, false
}

// stretch gives the rates at the ends of the stretch that begins at now, and when it ends; -1 is
// never.
func stretch(rate []world.Point, now int64) (from, to float64, until int64) {
	if len(rate) == 0 {
		return 0, 0, -1
	}
	k := after(rate, now)
	switch k {
	case 0:
		return rate[0].Value, rate[0].Value, int64(rate[0].At)
	case len(rate):
		return rate[k-1].Value, rate[k-1].Value, -1
	}
	return rateAt(rate, now), rate[k].Value, int64(rate[k].At)
}

// rateAt is the rate at a time: straight between points, and before and after them as at them.
func rateAt(rate []world.Point, at int64) float64 {
	k := after(rate, at)
	switch k {
	case 0:
		return rate[0].Value
	case len(rate):
		return rate[k-1].Value
	}
	a, b := rate[k-1], rate[k]
	return a.Value + (b.Value-a.Value)*float64(at-int64(a.At))/float64(b.At-a.At)
}

// after is the index of the first point after a time.
func after(rate []world.Point, at int64) int {
	return sort.Search(len(rate), func(k int) bool { return int64(rate[k].At) > at })
}

// arrive is a request of a client.
func (r *run) arrive(i int32) {
	s := &r.streams[i]
	to := none
	if s.world.Arrivals != nil {
		to = s.ids[s.next]
		s.next++
	} else {
		to = r.draw(s)
	}
	r.schedule(i)
	if to == none {
		return
	}
	r.opened()
	a := &r.actors[to]
	fn := r.types[a.typ].functions[s.function]
	if r.messages.inUse >= r.options.MaxMessages {
		r.result.Dropped++
		r.failed()
		return
	}
	m := r.messages.take()
	r.messages.all[m] = message{
		from: none, fn: fn, frame: none, sent: r.now, epoch: a.epoch, client: true, next: none,
	}
	if a.status == unborn {
		r.lose(m)
		return
	}
	bytes := r.functions[fn].bytes
	r.window.called(none, to, fn, bytes)
	a.net += bytes
	r.servers[a.server].net += bytes
	r.enqueue(to, m)
}

// draw gives a target of a stream, none if none is alive.
func (r *run) draw(s *stream) int32 {
	d := r.dice.of(&s.rng)
	if s.weights == nil {
		live := r.types[s.typ].live
		if len(live) == 0 {
			return none
		}
		return live[d.IntN(len(live))]
	}
	total := s.weights.total()
	if total <= 0 {
		return none
	}
	k := s.weights.draw(d.Float64() * total)
	if k < 0 {
		return none
	}
	return s.ids[k]
}

// weightChanges takes the next step of a target's weight.
func (r *run) weightChanges(i, target int32) {
	s := &r.streams[i]
	points := s.world.Targets[target].Weight
	k := s.steps[target]
	for k < len(points) && int64(points[k].At) <= r.now {
		s.nominal[target] = points[k].Value
		k++
	}
	s.steps[target] = k
	if k < len(points) {
		r.heap.push(int64(points[k].At), evWeight, i, target)
	}
	r.reweigh(s, int(target))
}

// reweigh gives a target its weight, or none if it isn't alive.
func (r *run) reweigh(s *stream, target int) {
	w := 0.0
	if r.actors[s.ids[target]].status != unborn {
		w = s.nominal[target]
	}
	s.weights.set(target, w)
}

// comesOrGoes tells the streams that an actor was born or has died.
func (r *run) comesOrGoes(i int32) {
	for k := range r.streams {
		s := &r.streams[k]
		if s.weights == nil {
			continue
		}
		if t, ok := s.of[i]; ok {
			r.reweigh(s, t)
		}
	}
}
