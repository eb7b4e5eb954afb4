package apps

import (
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/baseline"
	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/plan"
	"github.com/peregrine-dev/peregrine/plasma/sim"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

func run(t *testing.T, w *world.World, p sim.Planner, servers int) *sim.Result {
	t.Helper()
	r, err := sim.Run(t.Context(), w, p, sim.Options{Servers: servers})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// used is the share of their cores that servers use in the mean, after the warm-up.
func used(w *world.World, r *sim.Result) float64 {
	sum, n := 0.0, 0.0
	for _, x := range r.Windows {
		for _, l := range x.Loads {
			if x.At > w.Warmup {
				sum += float64(l.CPU)
				n++
			}
		}
	}
	return sum / n
}

// TestLoadsAreSane runs each world's mean load on servers for it, and on half as many.
func TestLoadsAreSane(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			w, _ := Stationary(name, 1)
			enough := run(t, w, baseline.Static{Servers: w.Mean}, w.Mean)
			if u := used(w, enough); u < .5 || u > .8 {
				t.Errorf("%d servers are used to %.0f %%", w.Mean, 100*u)
			}
			if enough.Lost+enough.Dropped+enough.Failed > 0 {
				t.Errorf("%d messages are lost, %d dropped, %d requests fail", enough.Lost, enough.Dropped, enough.Failed)
			}
			few := run(t, w, baseline.Static{Servers: w.Mean / 2}, w.Mean/2)
			if u := used(w, few); u < .9 {
				t.Errorf("%d servers are used to %.0f %% only", w.Mean/2, 100*u)
			}
			if few.Latency.P99 < 10*enough.Latency.P99 {
				t.Errorf("with half of the servers the 99th percentile is %.0f ms, with all %.0f ms", few.Latency.P99, enough.Latency.P99)
			}
		})
	}
}

// TestRequestsAreAsMany holds that a run has the requests that its rates say: four standard
// deviations of a Poisson number off at most.
func TestRequestsAreAsMany(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		w, _ := World(name, 2)
		r := run(t, w, baseline.Static{Servers: w.Peak}, w.Peak)
		want := loadOf(w).requests
		if d := float64(r.Requests) - want; d*d > 16*want+100 {
			t.Errorf("%s: %d requests, %.0f expected", name, r.Requests, want)
		}
		if r.Unanswered() > r.Requests/500+5 {
			t.Errorf("%s: %d of %d requests get no answer with servers for the peak", name, r.Unanswered(), r.Requests)
		}
	}
}

// TestPoliciesWork runs each world with its policies: all plans can be carried out, and nothing
// is left behind.
func TestPoliciesWork(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		for _, mode := range []epl.Mode{epl.Full, epl.Paper} {
			w, _ := World(name, 1)
			text, err := Policy(name, mode)
			if err != nil {
				t.Fatal(err)
			}
			policy, err := epl.Parse(name, text, mode)
			if err != nil {
				t.Fatal(err)
			}
			program, err := ir.Compile(policy)
			if err != nil {
				t.Fatal(err)
			}
			r := run(t, w, plan.New(program), 0)
			if n := r.InvalidActions(); n > 0 {
				t.Errorf("%s, mode %d: %d actions can't be done: %v", name, mode, n, r.Invalid)
			}
			if mode == epl.Paper {
				continue
			}
			if r.ScaleOuts+r.Resizes == 0 {
				t.Errorf("%s: its policy doesn't scale", name)
			}
			if r.Unanswered() > r.Requests/100 {
				t.Errorf("%s: %d of %d requests get no answer", name, r.Unanswered(), r.Requests)
			}
			t.Logf("%-10s %d requests, p99 %.0f ms, %.0f server seconds of %.0f at the peak, %d moves", name,
				r.Requests, r.Latency.P99, r.ServerSeconds, float64(w.Peak)*w.Duration.Seconds(), r.Moves)
		}
	}
}

// TestSessionsComeAndGo holds that halo's events make sense: as many sessions as at the
// beginning, of eight players each, nobody in two, and no router that calls one that has gone.
func TestSessionsComeAndGo(t *testing.T) {
	t.Parallel()
	w, _ := World("halo", 5)
	sessions, of, routers := map[string][]string{}, map[string]string{}, map[string][]string{}
	take := func(typ, id string, refs map[string][]string) {
		switch typ {
		case "Session":
			sessions[id] = refs["players"]
		case "Player":
			delete(of, id)
			for _, s := range refs["session"] {
				of[id] = s
			}
		case "Router":
			routers[id] = refs["sessions"]
		}
	}
	types := map[string]string{}
	for _, a := range w.Actors {
		types[a.ID] = a.Type
		take(a.Type, a.ID, a.Refs)
	}
	born, died := 0, 0
	check := func(at time.Duration) {
		on := 0
		for _, of := range routers {
			on += len(of)
			for _, s := range of {
				if sessions[s] == nil {
					t.Fatalf("at %s a router knows %s, which isn't there", at, s)
				}
			}
		}
		if on != 30 || len(of) != 30*8 {
			t.Fatalf("at %s %d sessions are on, of %d players", at, on, len(of))
		}
		for p, s := range of {
			if sessions[s] == nil {
				t.Fatalf("at %s %s is in %s, which isn't there", at, p, s)
			}
		}
	}
	check(0)
	for i, e := range w.Events {
		switch {
		case e.Born != nil:
			born++
			types[e.Born.ID] = e.Born.Type
			take(e.Born.Type, e.Born.ID, e.Born.Refs)
		case e.Refs != nil:
			take(types[e.Refs.ID], e.Refs.ID, e.Refs.Refs)
		case e.Dies != "":
			died++
			delete(sessions, e.Dies)
		}
		if i+1 == len(w.Events) || w.Events[i+1].At != e.At {
			check(e.At)
		}
	}
	if born < 40 || died < 35 {
		t.Errorf("%d sessions begin, %d end", born, died)
	}
}
