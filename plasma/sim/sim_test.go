package sim

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// script plans the actions of each period in turn.
type script [][]model.Action

func (s script) Plan(at *model.Snapshot, _ model.Memory) model.Plan {
	k := int(at.At/time.Second) - 1
	if k >= len(s) {
		return model.Plan{}
	}
	return model.Plan{Actions: s[k]}
}

// twoServers is a world of two servers of a core with two actors on the first.
func twoServers() *world.World {
	w := queueWorld(2, 1, 200, world.Service{Mean: 2 * time.Millisecond, Shape: "constant"}, 10*time.Second)
	w.Servers, w.Period, w.Warmup = 2, time.Second, 0
	w.Server.Max = 2
	w.Nodes = []world.Node{{ID: "n0", Cores: 2}, {ID: "n1", Cores: 2}}
	w.Costs = world.Costs{MovePause: 10 * time.Millisecond, MovePerMiB: 90 * time.Millisecond, Start: 500 * time.Millisecond, Stop: 250 * time.Millisecond, Resize: 100 * time.Millisecond}
	w.Actors[0].State, w.Actors[1].State = mib, mib
	return w
}

func move(actor, from, to int) model.Action {
	return model.Action{Verb: model.Move, Actor: actor, From: from, To: to, Node: -1}
}

func on(verb model.Verb, to int) model.Action {
	return model.Action{Verb: verb, Actor: -1, From: -1, To: to, Node: -1}
}

func mustRun(t *testing.T, w *world.World, p Planner, o Options) *Result {
	t.Helper()
	r, err := Run(context.Background(), w, p, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMove(t *testing.T) {
	w := twoServers()
	r := mustRun(t, w, script{{move(0, 0, 1)}, {move(0, 1, 0)}, {move(1, 0, 1)}}, Options{})
	if r.Moves != 3 || r.MoveBytes != 3*mib || r.PingPong != 1 || len(r.Invalid) > 0 {
		t.Errorf("%d moves of %v bytes, %d there and back, %v", r.Moves, r.MoveBytes, r.PingPong, r.Invalid)
	}
	if r.MovePause < .2999 || r.MovePause > .3001 {
		t.Errorf("actors stood still for %v s, and not for 3 times 0.1 s", r.MovePause)
	}
	if first, last := r.Windows[0].Loads, r.Windows[9].Loads; first[1].CPU > 0 || last[1].CPU < .15 || last[0].CPU > .25 {
		t.Errorf("the load was %v before, and is %v", first, last)
	}
	if r.Latency.Max < 90 || r.Latency.Max > 130 {
		t.Errorf("the longest request took %v ms, and not about the 100 ms of a pause", r.Latency.Max)
	}
	if r.Failed+r.Lost+r.Dropped > 0 {
		t.Errorf("a move lost messages: %d, %d, %d", r.Failed, r.Lost, r.Dropped)
	}
}

func TestMoveCost(t *testing.T) {
	w := twoServers()
	w.Streams = nil
	w.Costs.MoveCPU = 200 * time.Millisecond
	r := mustRun(t, w, script{{move(0, 0, 1)}}, Options{})
	if l := r.Windows[1].Loads; l[0].CPU != .2 || l[1].CPU != .2 {
		t.Errorf("a move of 200 ms of a core at both ends used %v", l)
	}
}

func TestScale(t *testing.T) {
	w := twoServers()
	w.Actors[1].Server = 1
	r := mustRun(t, w, script{
		{on(model.ScaleOut, -1)},
		{},
		{on(model.Drain, 1), move(1, 1, 2)},
		{on(model.Stop, 1)},
		{on(model.Stop, 1), on(model.Resize, 0)},
	}, Options{})
	if r.ScaleOuts != 1 || r.ScaleIns != 1 || r.Names[2] != "server 2" {
		t.Errorf("%d servers came, %d went: %v", r.ScaleOuts, r.ScaleIns, r.Names)
	}
	// The first for 10 s, the second until 4 s and its stop, the third from 1 s.
	if want := 10 + 4.25 + 9.0; r.ServerSeconds != want || r.CoreSeconds != want {
		t.Errorf("%v server-seconds, %v core-seconds: want %v", r.ServerSeconds, r.CoreSeconds, want)
	}
	var servers []int
	for _, w := range r.Windows {
		servers = append(servers, w.Servers)
	}
	if servers[0] != 2 || servers[1] != 3 || servers[3] != 3 || servers[4] != 2 {
		t.Errorf("servers over time: %v", servers)
	}
	// The second stop is of what is now the second server in the snapshot.
	if r.Invalid["stop: the server is not draining"] != 1 || r.InvalidActions() != 1 {
		t.Errorf("invalid: %v", r.Invalid)
	}
}

func TestResize(t *testing.T) {
	w := twoServers()
	w.Actors[1].Server = 1
	w.Streams[0].Rate = []world.Point{{Value: 1200}} // more than a core each can do
	bigger := on(model.Resize, 0)
	bigger.Limit.CPU = 2
	tooBig := on(model.Resize, 1)
	tooBig.Limit.CPU = 3
	r := mustRun(t, w, script{{bigger, tooBig}}, Options{})
	if r.Resizes != 1 || r.Invalid["resize: a server can't have as many cores"] != 1 {
		t.Errorf("%d resizes; %v", r.Resizes, r.Invalid)
	}
	if math.Abs(r.CoreSeconds-28.9) > 1e-9 {
		t.Errorf("%v core-seconds, want 28.9", r.CoreSeconds)
	}
	if r.OverloadSeconds < 10 {
		t.Errorf("a server with too much to do was overloaded for %v s", r.OverloadSeconds)
	}
}

func TestInvalid(t *testing.T) {
	w := twoServers()
	w.Actors = append(w.Actors, world.Actor{ID: "f", Type: "Q", Fixed: true})
	out := on(model.ScaleOut, -1)
	onNode := func(n int) model.Action { a := out; a.Node = n; return a }
	r := mustRun(t, w, script{{
		move(9, 0, 1), move(0, 0, 9), move(2, 0, 1), move(0, 0, 0), move(0, 1, 1), move(0, 1, 1),
		move(0, 0, 1), move(0, 0, 1),
		on(model.Stop, 1), on(model.Stop, 7), on("dance", 0), on(model.Drain, 0), on(model.Drain, 0),
		onNode(5), out, out, out,
	}}, Options{})
	want := map[string]int{
		"move: there is no such actor":          1,
		"move: there is no such server":         1,
		"move: the actor is fixed":              1,
		"move: the actor is there already":      1,
		"move: the actor is not on that server": 2,
		"move: the actor is moving already":     1,
		"stop: the server is not draining":      1,
		"stop: there is no such server":         1,
		"dance: there is no such action":        1,
		"drain: the server is draining already": 1,
		"scale-out: there is no such node":      1,
		"scale-out: no node has room":           1,
	}
	for what, n := range want {
		if r.Invalid[what] != n {
			t.Errorf("%q: %d times, want %d", what, r.Invalid[what], n)
		}
	}
	if len(r.Invalid) != len(want) {
		t.Errorf("%v", r.Invalid)
	}
}

type shadow struct{ script }

func (s shadow) Plan(at *model.Snapshot, m model.Memory) model.Plan {
	p := s.script.Plan(at, m)
	p.Shadow = true
	return p
}

func TestShadow(t *testing.T) {
	r := mustRun(t, twoServers(), shadow{script{{move(0, 0, 1)}}}, Options{})
	if r.Moves != 0 || r.Shadowed != 1 {
		t.Errorf("%d moves, %d shadowed", r.Moves, r.Shadowed)
	}
}

func TestFailure(t *testing.T) {
	w := twoServers()
	w.Streams[0].Rate = []world.Point{{Value: 400}}
	w.Events = []world.Event{{At: 3500 * time.Millisecond, Fails: "server 0", Recover: time.Second}}
	var states []model.State
	o := Options{Record: func(s *model.Step) error {
		states = append(states, s.Snapshot.Servers[0].State)
		return nil
	}}
	r := mustRun(t, w, still{}, o)
	if r.Failures != 1 || r.Recovered != 2 || r.Failed == 0 || r.Failed > 50 {
		t.Errorf("%d failures, %d recovered, %d requests failed", r.Failures, r.Recovered, r.Failed)
	}
	if states[2] != model.Up || states[3] != model.Down || states[4] != model.Up {
		t.Errorf("the server was %v", states)
	}
	if r.Latency.Max < 900 {
		t.Errorf("the longest request took %v ms: those that came while the actors were down should have waited", r.Latency.Max)
	}
	if r.ServerSeconds != 13.5 {
		t.Errorf("%v server-seconds, want 13.5", r.ServerSeconds)
	}
	if last := r.Windows[9].Loads; len(last) != 1 || last[0].Server != 1 || last[0].CPU < .7 {
		t.Errorf("in the end the load is %v", last)
	}
}

// TestAllFail has all servers fail, so that actors have nowhere to be until one is started.
func TestAllFail(t *testing.T) {
	w := twoServers()
	w.Events = []world.Event{
		{At: 2200 * time.Millisecond, Fails: "n0", Recover: time.Second},
		{At: 2200 * time.Millisecond, Fails: "n1", Recover: time.Second},
		{At: 4 * time.Second, Born: &world.Actor{ID: "late", Type: "Q", Server: -1}},
	}
	r := mustRun(t, w, script{4: {on(model.ScaleOut, -1)}}, Options{})
	if r.Recovered != 3 || r.Windows[9].Servers != 1 || r.Windows[9].Answered < 150 {
		t.Errorf("%d recovered, %d servers, %d answered", r.Recovered, r.Windows[9].Servers, r.Windows[9].Answered)
	}
}

func TestDeath(t *testing.T) {
	w := twoServers()
	w.Streams[0].Rate = []world.Point{{Value: 900}}
	w.Events = []world.Event{
		{At: 2 * time.Second, Dies: "q0"},
		{At: 2 * time.Second, Dies: "q0"},
		{At: 5 * time.Second, Born: &w.Actors[0]},
		{At: 5 * time.Second, Born: &w.Actors[0]},
	}
	r := mustRun(t, w, still{}, Options{})
	if r.Windows[0].Actors != 2 || r.Windows[3].Actors != 1 || r.Windows[7].Actors != 2 {
		t.Error("the number of actors is wrong")
	}
	if r.Failed == 0 || r.Requests != r.Answered+r.Failed+r.Open {
		t.Errorf("%d requests: %d answered, %d failed, %d open", r.Requests, r.Answered, r.Failed, r.Open)
	}
}

func TestFull(t *testing.T) {
	w := twoServers()
	w.Streams[0].Rate = []world.Point{{Value: 5000}}
	r := mustRun(t, w, still{}, Options{MaxMessages: 100})
	if r.Dropped == 0 || r.Dropped != r.Failed || r.Open > 100 {
		t.Errorf("%d dropped, %d failed, %d open", r.Dropped, r.Failed, r.Open)
	}
}

func TestStuck(t *testing.T) {
	w := twoServers()
	w.Types["Q"].Functions["serve"] = world.Function{Calls: []world.Call{{Property: "me", Function: "serve"}}}
	w.Actors[0].Refs = map[string][]string{"me": {"q0"}}
	if _, err := Run(context.Background(), w, still{}, Options{}); !errors.Is(err, ErrStuck) {
		t.Errorf("a world that gets nowhere gives %v", err)
	}
}

func TestRecordError(t *testing.T) {
	full := errors.New("the disk is full")
	_, err := Run(context.Background(), twoServers(), still{}, Options{Record: func(*model.Step) error { return full }})
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

func TestWrongWorlds(t *testing.T) {
	for _, c := range []struct {
		change func(w *world.World)
		want   string
	}{
		{func(w *world.World) { w.Period = 0 }, "the period is 0s"},
		{func(w *world.World) { w.Duration = -1 }, "the duration is -1ns"},
		{func(w *world.World) { w.Period = 1 }, "more than a million periods"},
		{func(w *world.World) { w.Servers = 0 }, "0 servers"},
		{func(w *world.World) { w.Servers = 9 }, "the nodes have room for 4 servers of 1 cores"},
		{func(w *world.World) { w.Server.Cores = 0 }, "a server has 0 cores"},
		{func(w *world.World) { w.Nodes = nil }, "there are no nodes"},
		{func(w *world.World) { w.Costs.Start = -1 }, "a cost is -1ns"},
		{func(w *world.World) { w.Actors[1].ID = "q0" }, "two actors have the same name"},
		{func(w *world.World) { w.Actors[1].Type = "Z" }, "q1 is a Z, and there is no such type"},
		{func(w *world.World) { w.Actors[1].Server = 2 }, "q1 is on server 2, and the last one is 1"},
		{func(w *world.World) { w.Actors[1].State = -1 }, "q1: its scale, state and memory"},
		{func(w *world.World) { w.Actors[1].Refs = map[string][]string{"x": {"y"}} }, "q1.x refers to y, and there is no such actor"},
		{func(w *world.World) { w.Streams[0].Type = "Z" }, "stream 1 calls Z.serve, and there is no such type"},
		{func(w *world.World) { w.Streams[0].Function = "z" }, "stream 1 calls Q.z, which a Q hasn't"},
		{func(w *world.World) { w.Streams[0].Rate = []world.Point{{Value: -1}} }, "stream 1: its rate: -1 at 0s is no amount"},
		{func(w *world.World) { w.Streams[0].Rate = []world.Point{{At: 1}, {At: 1}} }, "put them in order"},
		{func(w *world.World) { w.Streams[0].Targets = []world.Target{{ID: "z"}} }, "stream 1: there is no actor z"},
		{func(w *world.World) { w.Streams[0].Targets = []world.Target{{ID: "q0"}, {ID: "q0"}} }, "q0 is a target twice"},
		{func(w *world.World) { w.Streams[0].Arrivals = []world.Arrival{{At: 2, ID: "q0"}, {At: 1, ID: "q0"}} }, "put them in order"},
		{func(w *world.World) { w.Events = []world.Event{{At: -1}} }, "its times must be from 0"},
		{func(w *world.World) { w.Events = []world.Event{{Dies: "z"}} }, "there is no actor z"},
		{func(w *world.World) {
			w.Types["Q"].Functions["serve"] = world.Function{Service: world.Service{Shape: "pareto"}}
		}, `Q.serve: no service time has the shape "pareto"`},
		{func(w *world.World) {
			w.Types["Q"].Functions["serve"] = world.Function{Calls: []world.Call{{Property: "p", Function: "f"}}}
		}, "Q.serve: it calls p.f, and no type has a function of that name"},
		{func(w *world.World) {
			w.Types["R"] = world.Type{}
			w.Types["Q"].Functions["serve"] = world.Function{Calls: []world.Call{{Property: "p", Function: "serve"}}}
			w.Actors[0].Refs = map[string][]string{"p": {"q1"}}
			w.Actors[1].Type = "R"
		}, "q0.p refers to q1: Q.serve calls serve, which a R hasn't"},
	} {
		w := twoServers()
		c.change(w)
		_, err := Run(context.Background(), w, still{}, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// BenchmarkRun tells how many events a second are simulated: of a world with calls, waits and
// plans as the others have.
func BenchmarkRun(b *testing.B) {
	w := queueWorld(5000, 2, 8000, world.Service{Mean: time.Millisecond}, 20*time.Second)
	w.Servers, w.Period = 16, time.Second
	w.Types["Q"].Functions["serve"] = world.Function{
		Service: world.Service{Mean: time.Millisecond},
		Calls:   []world.Call{{Property: "r", Function: "get", Wait: true}, {Property: "r", Function: "note"}},
	}
	w.Types["R"] = world.Type{Functions: map[string]world.Function{
		"get": {Service: world.Service{Mean: 500 * time.Microsecond}}, "note": {Service: world.Service{Mean: 100 * time.Microsecond}},
	}}
	w.Costs = world.Costs{LocalCall: time.Microsecond, NodeCall: 20 * time.Microsecond, RemoteCall: 100 * time.Microsecond, Serialize: 5 * time.Microsecond}
	for i := range 5000 {
		id := "r" + w.Actors[i].ID
		w.Actors[i].Server = -1
		w.Actors[i].Refs = map[string][]string{"r": {id}}
		w.Actors = append(w.Actors, world.Actor{ID: id, Type: "R", Server: -1})
	}
	b.ReportAllocs()
	events := uint64(0)
	for b.Loop() {
		r, err := Run(context.Background(), w, still{}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		events += r.Events
	}
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
}
