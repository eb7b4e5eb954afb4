package load

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/world"
)

func dice() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// chi is the chi-square statistic of counts against what is expected, over its 99.9 % quantile
// (by Wilson and Hilferty): above 1 they don't fit.
func chi(counts, expected []float64) float64 {
	x := 0.0
	for i := range counts {
		d := counts[i] - expected[i]
		x += d * d / expected[i]
	}
	k := float64(len(counts) - 1)
	q := 1 - 2/(9*k) + 3.09*math.Sqrt(2/(9*k))
	return x / (k * q * q * q)
}

func TestZipf(t *testing.T) {
	for _, s := range []float64{0, .56, .8, .99, 2} {
		shares := Zipf(40, s)
		sum := 0.0
		for i, share := range shares {
			sum += share
			if ratio := shares[0] / share; math.Abs(ratio-math.Pow(float64(i+1), s)) > 1e-6 {
				t.Errorf("s %v: rank 1 has %v times the share of rank %d", s, ratio, i+1)
			}
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Errorf("s %v: the shares are %v together", s, sum)
		}
	}
}

func TestDegree(t *testing.T) {
	const n, low, high, exponent = 50_000, 2, 20, 2.276
	r := dice()
	counts, expected := make([]float64, high-low+1), make([]float64, high-low+1)
	sum := 0.0
	for k := range expected {
		expected[k] = math.Pow(float64(k+low), -exponent)
		sum += expected[k]
	}
	for k := range expected {
		expected[k] *= n / sum
	}
	for range n {
		counts[Degree(r, exponent, low, high)-low]++
	}
	if x := chi(counts, expected); x > 1 {
		t.Errorf("chi-square is %.2f times its bound: %v, expected %v", x, counts, expected)
	}
}

func TestPareto(t *testing.T) {
	const n, alpha, low, high, bins = 50_000, 1.1, 1., 8., 20
	r := dice()
	below := func(x float64) float64 { // the distribution's function
		return (1 - math.Pow(low/x, alpha)) / (1 - math.Pow(low/high, alpha))
	}
	counts, expected := make([]float64, bins), make([]float64, bins)
	for k := range expected {
		expected[k] = n / bins
	}
	for range n {
		x := Pareto(r, alpha, low, high)
		if x < low || x > high {
			t.Fatalf("%v is out of %v to %v", x, low, high)
		}
		counts[min(bins-1, int(below(x)*bins))]++
	}
	if x := chi(counts, expected); x > 1 {
		t.Errorf("chi-square is %.2f times its bound: %v", x, counts)
	}
}

func TestDay(t *testing.T) {
	const day = 8 * time.Minute
	c := Day(.2, 1, day, 1)
	for at, want := range map[time.Duration]float64{0: .2, day / 2: 1, day: .2, day / 4: .6} {
		if got := c(at); math.Abs(got-want) > 1e-9 {
			t.Errorf("at %s it is %v, want %v", at, got, want)
		}
	}
	// The mean of a sine's square is 1/2, of its sixth power 5/16.
	for sharp, want := range map[float64]float64{1: .5, 3: 5. / 16} {
		if got := Day(0, 1, day, sharp).Mean(day); math.Abs(got-want) > 1e-3 {
			t.Errorf("sharp %v: the mean is %v, want %v", sharp, got, want)
		}
	}
}

func TestCrowd(t *testing.T) {
	c := Day(1, 1, time.Minute, 1).Crowd(10*time.Second, 10*time.Second, 5*time.Second, 20*time.Second, 2)
	for at, want := range map[int]float64{0: 1, 10: 1, 15: 2, 20: 3, 24: 3, 35: 2, 45: 1, 60: 1} {
		if got := c(time.Duration(at) * time.Second); math.Abs(got-want) > 1e-9 {
			t.Errorf("at %d s it is %v, want %v", at, got, want)
		}
	}
}

func TestRate(t *testing.T) {
	const d = 4 * time.Minute
	c := Day(.5, 1.5, d, 1)
	points, flat := c.Rate(100, d, false), c.Rate(100, d, true)
	if len(flat) != 1 || math.Abs(flat[0].Value-100) > .1 {
		t.Errorf("flat it is %v", flat)
	}
	sum := 0.0
	for at := time.Duration(0); at < d; at += time.Second {
		sum += world.At(points, at)
	}
	if mean := sum / d.Seconds(); math.Abs(mean-100) > 1 {
		t.Errorf("its mean is %v, want 100", mean)
	}
}

func TestShift(t *testing.T) {
	const n, top = 12, 3
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprint(i))
	}
	weights := Zipf(n, 1)
	targets := Targets(ids, Shuffled(dice(), weights))
	Shift(dice(), targets, top, 10*time.Second, time.Minute)
	var before []int
	for at := time.Duration(0); at < time.Minute; at += 10 * time.Second {
		now := make([]float64, n)
		sum := 0.0
		for i := range targets {
			now[i] = world.Step(targets[i].Weight, at)
			sum += now[i]
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Errorf("at %s the weights are %v together", at, sum)
		}
		hot := highest(now, top)
		stay := 0
		for _, i := range hot {
			if contains(before, i) {
				stay++
			}
		}
		if at > 0 && stay != top-1 {
			t.Errorf("at %s %v are hot, before %v: one should have changed", at, hot, before)
		}
		before = hot
	}
}

func TestPick(t *testing.T) {
	got := Pick(dice(), []string{"a", "b", "c"}, 5, "b")
	if len(got) != 2 || got[0] == got[1] {
		t.Errorf("it picks %v", got)
	}
	for _, id := range got {
		if id == "b" {
			t.Error("it picks the one that it must not")
		}
	}
}
