package load

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/world"
)

// Zipf gives the shares of n ranks, the k-th in proportion to 1/k^s. Their sum is 1.
func Zipf(n int, s float64) []float64 {
	out := make([]float64, n)
	sum := 0.0
	for i := range out {
		out[i] = math.Pow(float64(i+1), -s)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// Targets gives each ID its weight, for all the time.
func Targets(ids []string, weights []float64) []world.Target {
	out := make([]world.Target, len(ids))
	for i, id := range ids {
		out[i] = world.Target{ID: id, Weight: []world.Point{{Value: weights[i]}}}
	}
	return out
}

// Shuffled gives the weights in an order that is drawn, so that ranks have nothing to do with
// names.
func Shuffled(r *rand.Rand, weights []float64) []float64 {
	out := make([]float64, len(weights))
	for i, k := range r.Perm(len(weights)) {
		out[i] = weights[k]
	}
	return out
}

// Shift changes who has the highest weights: every so often one of the top ones changes places
// with another that is drawn, in turn.
func Shift(r *rand.Rand, targets []world.Target, top int, every, until time.Duration) {
	now := make([]float64, len(targets))
	for i := range targets {
		now[i] = targets[i].Weight[0].Value
	}
	hot := highest(now, top)
	for k, at := 0, every; at < until; k, at = k+1, at+every {
		from := hot[k%top]
		to := r.IntN(len(targets))
		for contains(hot, to) {
			to = r.IntN(len(targets))
		}
		now[from], now[to] = now[to], now[from]
		for _, i := range []int{from, to} {
			targets[i].Weight = append(targets[i].Weight, world.Point{At: at, Value: now[i]})
		}
		hot[k%top] = to
	}
}

func highest(weights []float64, n int) []int {
	var out []int
	for len(out) < n {
		best := -1
		for i, w := range weights {
			if !contains(out, i) && (best < 0 || w > weights[best]) {
				best = i
			}
		}
		out = append(out, best)
	}
	return out
}

func contains(all []int, i int) bool {
	for _, k := range all {
		if k == i {
			return true
		}
	}
	return false
}

// Pareto draws from a Pareto distribution of the shape alpha that is bounded to low..high, by
// the inverse of its distribution function.
func Pareto(r *rand.Rand, alpha, low, high float64) float64 {
	l, h := math.Pow(low, alpha), math.Pow(high, alpha)
	u := r.Float64()
	return math.Pow(-(u*h-u*l-h)/(h*l), -1/alpha)
}

// Degree draws a whole number from low to high, k in proportion to k^-exponent: a power law.
func Degree(r *rand.Rand, exponent float64, low, high int) int {
	sum := 0.0
	for k := low; k <= high; k++ {
		sum += math.Pow(float64(k), -exponent)
	}
	u := r.Float64() * sum
	for k := low; k < high; k++ {
		if u -= math.Pow(float64(k), -exponent); u < 0 {
			return k
		}
	}
	return high
}

// Pick draws k different ones of all but one.
func Pick(r *rand.Rand, all []string, k int, but string) []string {
	var out []string
	for _, i := range r.Perm(len(all)) {
		if len(out) < k && all[i] != but {
			out = append(out, all[i])
		}
	}
	return out
}
