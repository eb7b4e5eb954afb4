package sim

import "math/rand/v2"

// dice draws from one of many small generators: each stream and each actor has its own, so that
// the load and the work stay the same whatever a planner does. That makes policies comparable
// with fewer runs.
type dice struct {
	from *rand.PCG
	*rand.Rand
}

func newDice() *dice {
	d := &dice{}
	d.Rand = rand.New(d)
	return d
}

// Uint64 is for the embedded Rand.
func (d *dice) Uint64() uint64 { return d.from.Uint64() }

// of makes the next draws come from p.
func (d *dice) of(p *rand.PCG) *dice {
	d.from = p
	return d
}

// generator gives the generator of the index-th of a kind of things.
func generator(seed, what uint64, index int) rand.PCG {
	return *rand.NewPCG(mix(seed^what<<56), mix(uint64(index)+what<<32))
}

// mix spreads neighbouring seeds: the finisher of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// weights draws an index by weight, and changes a weight, in logarithmic time: a Fenwick tree.
type weights struct {
	of   []float64
	tree []float64 // 1-based
	top  int       // the greatest power of two in len(of)
}

func newWeights(n int) *weights {
	top := 1
	for top*2 <= n {
		top *= 2
	}
	return &weights{of: make([]float64, n), tree: make([]float64, n+1), top: top}
}

func (w *weights) set(i int, value float64) {
	if value == w.of[i] {
		return
	}
	w.of[i] = value
	// Sums are made anew from the parts, not adjusted: adjusted ones drift, and a weight of zero
	// would still be drawn now and then.
	for j := i + 1; j < len(w.tree); j += j & -j {
		sum := w.of[j-1]
		for k := 1; k < j&-j; k *= 2 {
			sum += w.tree[j-k]
		}
		w.tree[j] = sum
	}
}

func (w *weights) total() float64 {
	sum := 0.0
	for j := len(w.of); j > 0; j -= j & -j {
		sum += w.tree[j]
	}
	return sum
}

// draw gives the index at u of the sum of weights, u in [0, total); -1 if all are zero.
func (w *weights) draw(u float64) int {
	at := 0
	for step := w.top; step > 0; step /= 2 {
		if next := at + step; next < len(w.tree) && w.tree[next] <= u {
			at = next
			u -= w.tree[next]
		}
	}
	// Rounding can lead past the last weight that counts.
	for at >= 0 && (at >= len(w.of) || w.of[at] == 0) {
		at--
	}
	return at
}
