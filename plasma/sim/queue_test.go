package sim

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/world"
)

// near fails unless got is within so many percent of want.
func near(t *testing.T, what string, got, want, percent float64) {
	t.Helper()
	off := 100 * (got - want) / want
	t.Logf("%-28s %10.4f, in theory %10.4f: %+.2f %%", what, got, want, off)
	if slower > 1 {
		percent *= 4 // of a tenth of the requests
	}
	if math.IsNaN(off) || math.Abs(off) > percent {
		t.Errorf("%s is %v, in theory %v: that is off by %.2f %%, and more than %v %%", what, got, want, off, percent)
	}
}

// erlangC is the probability that a request has to wait at c servers with an offered load.
func erlangC(c int, load float64) float64 {
	b := 1.0
	for k := 1; k <= c; k++ {
		b = load * b / (float64(k) + load*b)
	}
	return b / (1 - load/float64(c)*(1-b))
}

// TestQueues compares queues to what is known of them.
func TestQueues(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name   string
		actors int
		cores  float64
		rate   float64 // per second
		s      world.Service
		mean   float64 // in ms: of the time from arrival to answer
		p99    float64
	}{
		{name: "M/M/1 at 50 %", actors: 1, cores: 1, rate: 500, s: world.Service{Mean: ms}, mean: 2, p99: 2 * math.Log(100)},
		{name: "M/M/1 at 80 %", actors: 1, cores: 1, rate: 800, s: world.Service{Mean: ms}, mean: 5, p99: 5 * math.Log(100)},
		{name: "M/M/1 with half a core", actors: 1, cores: .5, rate: 350, s: world.Service{Mean: ms}, mean: 2 / (1 - .7)},
		{name: "M/D/1 at 80 %", actors: 1, cores: 1, rate: 800, s: world.Service{Mean: ms, Shape: "constant"}, mean: 1 + .8/(2*.2)},
		{name: "M/M/4 at 80 %", actors: 20000, cores: 4, rate: 3200, s: world.Service{Mean: ms}, mean: 1 + erlangC(4, 3.2)/(4-3.2)},
		{name: "M/M/16 at 90 %", actors: 20000, cores: 16, rate: 14400, s: world.Service{Mean: ms}, mean: 1 + erlangC(16, 14.4)/(16-14.4)},
		// Pollaczek-Khinchine: a wait of load * mean * (1 + variation²) / (2 * (1 - load)).
		{name: "M/G/1 lognormal", actors: 1, cores: 1, rate: 600, s: world.Service{Mean: ms, Shape: "lognormal", Sigma: .8}, mean: 1 + .6*math.Exp(.64)/(2*.4)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := time.Duration(600_000 / slower / c.rate * float64(time.Second))
			w := queueWorld(c.actors, c.cores, c.rate, c.s, d)
			got, err := Run(context.Background(), w, still{}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			near(t, "arrivals per second", float64(got.Requests)/d.Seconds(), c.rate, 1)
			near(t, "mean time in ms", got.Latency.Mean, c.mean, 4)
			if c.p99 > 0 {
				near(t, "99th percentile in ms", got.Latency.P99, c.p99, 6)
			}
			// Little's law: two sums that are made apart.
			near(t, "requests under way", got.MeanOpen, c.rate*c.mean/1000, 5)
			load := 0.0
			for _, w := range got.Windows {
				load += float64(w.Loads[0].CPU) * w.Length.Seconds() / d.Seconds()
			}
			near(t, "load", load, c.rate*c.s.Mean.Seconds()/c.cores, 2)
		})
	}
}

// TestRate checks that a stream whose rate changes has as many arrivals as its area, and that
// they come when they should.
func TestRate(t *testing.T) {
	w := queueWorld(1, 64, 0, world.Service{}, 100*time.Second)
	w.Streams[0].Rate = []world.Point{{At: 10 * time.Second}, {At: 50 * time.Second, Value: 4000}, {At: 60 * time.Second, Value: 1000}}
	got, err := Run(context.Background(), w, still{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{0, 5000, 15000, 25000, 35000, 25000, 10000, 10000, 10000, 10000} {
		if n := float64(got.Windows[i].Requests); math.Abs(n-want) > 5*math.Sqrt(want) {
			t.Errorf("in the %d-th ten seconds came %v requests, and not about %v", i+1, n, want)
		}
	}
}

// TestTandem checks calls that wait and the time messages take: an asking actor and an answering
// one are two queues in a row, and between them is the network.
func TestTandem(t *testing.T) {
	w := queueWorld(1, 1, 500, world.Service{Mean: time.Millisecond}, 1000/slower*time.Second)
	w.Types["Q"].Functions["serve"] = world.Function{
		Service: world.Service{Mean: time.Millisecond},
		Calls:   []world.Call{{Property: "next", Function: "work", Wait: true}},
	}
	w.Types["R"] = world.Type{Functions: map[string]world.Function{"work": {Service: world.Service{Mean: time.Millisecond}}}}
	w.Actors[0].Refs = map[string][]string{"next": {"r0"}}
	w.Actors = append(w.Actors, world.Actor{ID: "r0", Type: "R", Server: 1})
	w.Servers = 2
	w.Nodes = append(w.Nodes, world.Node{ID: "n1", Cores: 64})
	w.Costs.RemoteCall = 3 * time.Millisecond
	got, err := Run(context.Background(), w, still{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "mean time in ms", got.Latency.Mean, 2+3+2+3, 2)
	// With the serializing each turn takes 0.2 ms more on either side, of which one part is
	// constant; the answer's part is paid by the asker's next turn.
	w.Costs.Serialize = 200 * time.Microsecond
	got, err = Run(context.Background(), w, still{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "load with serializing", float64(got.Windows[5].Loads[0].CPU), .5*1.4, 4)
	near(t, "load with serializing", float64(got.Windows[5].Loads[1].CPU), .5*1.4, 4)
}
