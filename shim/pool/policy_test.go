package pool

import (
	"math"
	"testing"
	"time"
)

var origin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestTarget(t *testing.T) {
	l := Limits{Min: 4, Max: 32, Memory: 100}
	for name, c := range map[string]struct {
		limits Limits
		want   float64
		part   int64
		target int
	}{
		"idle":                    {l, 0, 0, 4},
		"some":                    {l, 9.1, 0, 10},
		"too many":                {l, 1e300, 0, 32},
		"memory":                  {l, 32, 10, 10},
		"memory is exact":         {l, 32, 33, 3},
		"memory below min":        {l, 0, 50, 2},
		"one part is too large":   {l, 1, 101, 0},
		"no pool":                 {Limits{}, 5, 0, 0},
		"min is max":              {Limits{Min: 3, Max: 3, Memory: 100}, 50, 1, 3},
		"not a number is nothing": {l, math.NaN(), 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.limits.Target(c.want, c.part); got != c.target {
				t.Errorf("got %d, want %d", got, c.target)
			}
		})
	}
}

func TestDemand(t *testing.T) {
	p := DefaultPace()
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		claims      int
		gap, after  time.Duration
		burst, rate [2]float64 // from, to
	}{
		"one":                     {1, 0, 0, [2]float64{1, 1}, [2]float64{.03, .04}},
		"32 at once":              {32, ms, 0, [2]float64{32, 32}, [2]float64{1, 1.1}},
		"32 at once, 2 min later": {32, ms, burstHalf, [2]float64{15.9, 16.1}, [2]float64{0, .1}},
		"an hour later":           {32, ms, time.Hour, [2]float64{0, .001}, [2]float64{0, .001}},
		"10 per second":           {3000, 100 * ms, 0, [2]float64{1, 1}, [2]float64{9.9, 10.2}},
		// A burst is not more than comes until a part is built in any case.
		"steadily fast": {5000, 10 * ms, 0, [2]float64{50, 52}, [2]float64{75, 101}},
	} {
		t.Run(name, func(t *testing.T) {
			var d Demand
			now := origin
			for range c.claims {
				now = now.Add(c.gap)
				d.Observe(now, p)
			}
			now = now.Add(c.after)
			if b := d.Burst(now); b < c.burst[0] || b > c.burst[1] {
				t.Errorf("burst is %v, want %v", b, c.burst)
			}
			if r := d.Rate(now); r < c.rate[0] || r > c.rate[1] {
				t.Errorf("rate is %v, want %v", r, c.rate)
			}
		})
	}
}

func TestDemandIsForgotten(t *testing.T) {
	var d Demand
	if d.Want(origin, time.Second) != 0 {
		t.Error("wants parts before any claim")
	}
	for range 1000 {
		d.Observe(origin, DefaultPace())
	}
	last := math.Inf(1)
	for i := range 60 {
		want := d.Want(origin.Add(time.Duration(i)*time.Minute), 50*time.Millisecond)
		if want > last {
			t.Fatalf("wants %v after %d minutes and wanted %v before", want, i, last)
		}
		last = want
	}
	if last != 0 {
		t.Errorf("still wants %v after an hour", last)
	}
	d.Observe(origin.Add(-time.Hour), DefaultPace()) // a clock that went back
	if w := d.Want(origin.Add(-time.Hour), 0); math.IsNaN(w) || math.IsInf(w, 0) {
		t.Errorf("wants %v", w)
	}
}

func TestDue(t *testing.T) {
	p := Pace{Quiet: 30, Patience: 500}
	for name, c := range map[string]struct{ missing, claim, due time.Duration }{
		"after a claim":                {0, 0, 30},
		"claims go on":                 {0, 100, 130},
		"claims don't end":             {0, 480, 500},
		"missing for long":             {0, 5000, 500},
		"missing for another reason":   {1000, 0, 30},
		"missing again after a build":  {1000, 1000, 1030},
		"missing again, claims go on":  {1000, 1400, 1430},
		"missing again, without pause": {1000, 1490, 1500},
	} {
		t.Run(name, func(t *testing.T) {
			if due := p.Due(origin.Add(c.missing), origin.Add(c.claim)); due != origin.Add(c.due) {
				t.Errorf("due after %d, want %d", due.Sub(origin), c.due)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	p := DefaultPace()
	for failures, want := range map[int]time.Duration{-1: 0, 0: 0, 1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 1 << 40: time.Minute} {
		if got := p.Backoff(failures); got != want {
			t.Errorf("after %d: %v, want %v", failures, got, want)
		}
	}
}
