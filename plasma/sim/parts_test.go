package sim

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestHeap compares the heap to sorting.
func TestHeap(t *testing.T) {
	d := rand.New(rand.NewPCG(1, 1))
	var h heap
	var last event
	popped, pushed := 0, 0
	for step := range 200_000 {
		if step < 100_000 && d.IntN(3) > 0 || len(h.events) == 0 {
			// Never before what was taken already: as in a simulation.
			h.push(last.at+int64(d.IntN(50)), kind(d.IntN(14)), int32(pushed), 0)
			pushed++
			continue
		}
		e := h.pop()
		if popped > 0 && !last.before(e) {
			t.Fatalf("event %+v came after %+v", last, e)
		}
		last = e
		popped++
	}
	if popped < pushed-len(h.events) {
		t.Errorf("%d of %d events came back", popped, pushed)
	}
}

func TestWeights(t *testing.T) {
	d := rand.New(rand.NewPCG(2, 2))
	for _, n := range []int{1, 2, 3, 7, 8, 100} {
		w := newWeights(n)
		if w.draw(0) >= 0 {
			t.Errorf("of %d weights of zero one was drawn", n)
		}
		want := make([]float64, n)
		sum := 0.0
		for range 3 * n {
			i := d.IntN(n)
			want[i] = float64(d.IntN(4))
			w.set(i, want[i])
		}
		for _, v := range want {
			sum += v
		}
		if math.Abs(w.total()-sum) > 1e-9 {
			t.Errorf("%d weights are %v in all, want %v", n, w.total(), sum)
		}
		if sum == 0 {
			continue
		}
		const draws = 100_000
		got := make([]float64, n)
		for range draws {
			got[w.draw(d.Float64()*sum)]++
		}
		for i := range want {
			p := want[i] / sum
			if off := math.Abs(got[i] - draws*p); off > 5*math.Sqrt(draws*p*(1-p))+1e-9 {
				t.Errorf("weight %v of %v was drawn %v times of %d", want[i], sum, got[i], draws)
			}
		}
		if i := w.draw(sum); want[i] == 0 { // rounding can lead there
			t.Errorf("a weight of zero was drawn at the end")
		}
	}
}

func TestReadyQueue(t *testing.T) {
	d := rand.New(rand.NewPCG(3, 3))
	var q ready
	var want []entry
	for i := range 10_000 {
		if d.IntN(2) == 0 || len(want) == 0 {
			e := entry{int32(i), uint32(d.Uint32())}
			q.push(e)
			want = append(want, e)
			continue
		}
		if e := q.pop(); e != want[0] {
			t.Fatalf("got %v, want %v", e, want[0])
		}
		want = want[1:]
	}
}

// TestServed checks that latencies beyond the bound are thinned out, and not cut off.
func TestServed(t *testing.T) {
	var w window
	w.stride = 1
	const n = 3 * maxServed
	for i := range n {
		w.wasServed(int32(i%2), 0, int64(i), true)
	}
	if len(w.served) > maxServed || len(w.served) < maxServed/2 {
		t.Errorf("%d of %d latencies are kept", len(w.served), n)
	}
	_, values := groups(w.served, 1, func(s served) int32 { return s.server })
	for _, q := range []float64{.1, .5, .9, .99} {
		if got := float64(values[int(q*float64(len(values)))]); math.Abs(got/n-q) > .001 {
			t.Errorf("quantile %v is %v of %v", q, got, n)
		}
	}
}

func TestGroups(t *testing.T) {
	all := []served{{actor: 2, ns: 5}, {actor: 0, ns: 9}, {actor: 2, ns: 1}, {actor: -1, ns: 7}, {actor: 2, ns: 3}}
	offsets, values := groups(all, 3, func(s served) int32 { return s.actor })
	if !slices.Equal(offsets, []int32{0, 1, 1, 4}) || !slices.Equal(values, []int64{9, 1, 3, 5}) {
		t.Errorf("%v %v", offsets, values)
	}
	l := latency([]int64{1e6, 2e6, 3e6, 4e6})
	if l.Mean != 2.5 || l.P50 != 3 || l.P99 != 4 {
		t.Errorf("%+v", l)
	}
}

// FuzzRun runs random worlds with wild planners, and looks where everything is at the end.
func FuzzRun(f *testing.F) {
	f.Add(uint64(1), uint64(2), byte(0))
	f.Add(uint64(122), uint64(122), byte(3))
	f.Fuzz(func(t *testing.T, seed, planner uint64, few byte) {
		w := randomWorld(seed)
		o := Options{}
		if few > 0 {
			o.MaxMessages, o.MaxWaits = int(few), int(few)
		}
		r, err := prepare(w, newWild(planner), o.defaults(w))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.loop(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := r.check(); err != nil {
			t.Error(err)
		}
	})
}
