package sim

import (
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// maxServed bounds the latencies that are kept of a window: beyond it every second is let go.
const maxServed = 1 << 19

// window is what is counted between two plans, and a few sums over all of them.
type window struct {
	index    int
	began    int64
	requests uint64
	answered uint64
	moves    int
	refs     int // changes of actors and references
	typical  float64

	calls   []calls
	callers map[caller]int32

	served []served
	stride int
	skip   int

	total  latencies
	area   float64
	areaAt int64
	open   int

	refsAt int
	refsOf [][]model.Ref

	// Of the last snapshot: what its servers and actors are, and the actors' numbers in it.
	snapped []int32
	actors  []int32
	numbers []int32
}

type caller struct{ from, to, fn int32 }

type calls struct {
	caller
	count, bytes float64
}

// served is a request, or a call that is waited for, that was answered.
type served struct {
	actor, server int32
	ns            int64
	client        bool
}

func (w *window) begin(r *run) {
	w.began = r.now
	w.requests, w.answered, w.moves = 0, 0, 0
	w.calls = w.calls[:0]
	if w.callers == nil {
		w.callers = make(map[caller]int32)
		w.total = newLatencies()
		w.refs = 1
	}
	clear(w.callers)
	w.served = w.served[:0]
	w.stride, w.skip = 1, 0
	for i := range r.actors {
		r.actors[i].cpu, r.actors[i].net = 0, 0
	}
	for i := range r.servers {
		s := &r.servers[i]
		s.cpu, s.net, s.placed = 0, 0, 0
	}
}

func (w *window) called(from, to, fn int32, bytes float64) {
	key := caller{from, to, fn}
	i, ok := w.callers[key]
	if !ok {
		i = int32(len(w.calls))
		w.callers[key] = i
		w.calls = append(w.calls, calls{caller: key})
	}
	w.calls[i].count++
	w.calls[i].bytes += bytes
}

func (w *window) wasServed(actor, server int32, ns int64, client bool) {
	if w.skip > 0 {
		w.skip--
		return
	}
	w.skip = w.stride - 1
	if len(w.served) == maxServed {
		for i := range maxServed / 2 {
			w.served[i] = w.served[2*i]
		}
		w.served = w.served[:maxServed/2]
		w.stride *= 2
		w.skip = w.stride - 1
	}
	w.served = append(w.served, served{actor, server, ns, client})
}

// groups sorts latencies into n groups by key, -1 being none, each from the least. The i-th
// group is values[offsets[i]:offsets[i+1]].
func groups(all []served, n int, key func(served) int32) (offsets []int32, values []int64) {
	offsets = make([]int32, n+2)
	for _, s := range all {
		if k := key(s); k >= 0 {
			offsets[k+2]++
		}
	}
	for i := 2; i < len(offsets); i++ {
		offsets[i] += offsets[i-1]
	}
	values = make([]int64, offsets[n+1])
	for _, s := range all {
		if k := key(s); k >= 0 {
			values[offsets[k+1]] = s.ns
			offsets[k+1]++
		}
	}
	for i := range n {
		slices.Sort(values[offsets[i]:offsets[i+1]])
	}
	return offsets[:n+1], values
}

// latency gives the mean and quantiles of sorted latencies, in milliseconds.
func latency(sorted []int64) model.Latency {
	n := len(sorted)
	if n == 0 {
		return model.Latency{}
	}
	sum := 0.0
	for _, ns := range sorted {
		sum += float64(ns)
	}
	at := func(q float64) float64 {
		return float64(sorted[min(n-1, int(q*float64(n)))]) / 1e6
	}
	return model.Latency{Mean: sum / float64(n) / 1e6, P50: at(.5), P95: at(.95), P99: at(.99)}
}
