package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// queueWorld is a queue: so many actors on one server, called at a rate. As many actors as to make
// it unlikely that one is called while it runs behave as one queue with several servers.
func queueWorld(actors int, cores float64, rate float64, s world.Service, d time.Duration) *world.World {
	w := &world.World{
		Name: "queue", Seed: 1, Duration: d, Warmup: d / 20, Period: d / 10, Servers: 1,
		Nodes:  []world.Node{{ID: "n0", Cores: 64, Memory: 1 << 40, Network: 1e9}},
		Server: world.Server{Cores: cores, Memory: 1 << 30, Network: 1e9},
		Types:  map[string]world.Type{"Q": {Functions: map[string]world.Function{"serve": {Service: s}}}},
		Streams: []world.Stream{
			{Type: "Q", Function: "serve", Rate: []world.Point{{Value: rate}}},
		},
	}
	for i := range actors {
		w.Actors = append(w.Actors, world.Actor{ID: fmt.Sprint("q", i), Type: "Q"})
	}
	return w
}

// randomWorld has a bit of everything: all shapes, calls that wait and that don't, births, deaths,
// failures, zones, a trace, changing weights.
func randomWorld(seed uint64) *world.World {
	d := rand.New(rand.NewPCG(seed, 7))
	w := &world.World{
		Name: "random", Seed: seed + 1, Duration: 20 * time.Second, Warmup: time.Second,
		Period: time.Second, Servers: 1 + d.IntN(6),
		Server: world.Server{Cores: []float64{.5, 1, 1.5, 2}[d.IntN(4)], Max: 3, Memory: 1 << 30, Network: 1e8},
		Costs: world.Costs{
			LocalCall: time.Duration(d.IntN(20)) * time.Microsecond, NodeCall: 50 * time.Microsecond,
			RemoteCall: time.Duration(d.IntN(900)) * time.Microsecond, ZoneCall: 3 * time.Millisecond,
			Serialize: time.Duration(d.IntN(40)) * time.Microsecond,
			MovePause: time.Duration(d.IntN(2000)) * time.Microsecond, MovePerMiB: time.Millisecond,
			MoveCPU: time.Duration(d.IntN(1000)) * time.Microsecond,
			Start:   time.Duration(d.IntN(2000)) * time.Millisecond, Stop: 100 * time.Millisecond,
			Resize: 10 * time.Millisecond,
		},
		Types: map[string]world.Type{
			"A": {Functions: map[string]world.Function{
				"ask": {Service: world.Service{Mean: time.Millisecond}, Bytes: 100, Calls: []world.Call{
					{Property: "bs", Function: "get", All: d.IntN(2) == 0, Wait: true},
					{Property: "bs", Function: "note", Probability: .5},
				}},
				"tell": {Service: world.Service{Mean: 200 * time.Microsecond, Shape: "constant"}, Calls: []world.Call{
					{Property: "bs", Function: "note", All: true},
				}},
			}},
			"B": {Functions: map[string]world.Function{
				"get": {Service: world.Service{Mean: 300 * time.Microsecond, Shape: "lognormal", Sigma: 1}, Bytes: 1000, Calls: []world.Call{
					{Property: "next", Function: "get", Probability: .3, Wait: true},
				}},
				"note": {Service: world.Service{Mean: 10 * time.Microsecond}},
			}},
		},
	}
	for i := range 1 + d.IntN(3) {
		w.Nodes = append(w.Nodes, world.Node{ID: fmt.Sprint("n", i), Zone: fmt.Sprint("z", i%2), Cores: 40, Memory: 1 << 36, Network: 1e9})
	}
	as, bs := 1+d.IntN(20), 1+d.IntN(20)
	name := func(kind string, n int) string { return fmt.Sprint(kind, d.IntN(n)) }
	actor := func(id, typ string) world.Actor {
		a := world.Actor{ID: id, Type: typ, Server: d.IntN(w.Servers+1) - 1, State: float64(d.IntN(1 << 20)), Memory: 1 << 20, Fixed: d.IntN(10) == 0}
		if typ == "A" {
			a.Refs = map[string][]string{"bs": {name("b", bs), name("b", bs)}}
		} else {
			a.Refs = map[string][]string{"next": {name("b", bs)}}
		}
		return a
	}
	for i := range as {
		w.Actors = append(w.Actors, actor(fmt.Sprint("a", i), "A"))
	}
	for i := range bs {
		w.Actors = append(w.Actors, actor(fmt.Sprint("b", i), "B"))
	}
	s := world.Stream{Type: "A", Function: "ask", Rate: []world.Point{
		{At: 0, Value: 0}, {At: 8 * time.Second, Value: float64(d.IntN(1500))}, {At: 15 * time.Second, Value: 100},
	}}
	for i := range as {
		s.Targets = append(s.Targets, world.Target{ID: fmt.Sprint("a", i), Weight: []world.Point{
			{Value: d.Float64()}, {At: 9 * time.Second, Value: float64(d.IntN(2))},
		}})
	}
	w.Streams = append(w.Streams, s,
		world.Stream{Type: "A", Function: "tell", Rate: []world.Point{{Value: 50}}},
		world.Stream{Type: "B", Function: "get", Arrivals: []world.Arrival{
			{At: time.Second, ID: "b0"}, {At: time.Second, ID: "b0"}, {At: 3 * time.Second, ID: "b0"},
		}})
	at := time.Duration(0)
	for i := range d.IntN(30) {
		at += time.Duration(d.IntN(2000)) * time.Millisecond
		e := world.Event{At: at}
		switch d.IntN(6) {
		case 0:
			e.Dies = name("a", as)
		case 1:
			e.Dies = name("b", bs)
		case 2:
			a := actor(name("b", bs+3), "B")
			e.Born = &a
		case 3:
			e.Fails, e.Recover = fmt.Sprint("server ", d.IntN(w.Servers)), time.Duration(d.IntN(3000))*time.Millisecond
		case 4:
			e.Refs = &world.Refs{ID: name("a", as), Refs: map[string][]string{"bs": {name("b", bs)}}}
		case 5:
			if i%3 == 0 {
				e.Fails, e.Recover = "n0", time.Second
			} else {
				e.Fails, e.Recover = "server 99", time.Second
			}
		}
		w.Events = append(w.Events, e)
	}
	return w
}

// still plans nothing.
type still struct{}

func (still) Plan(*model.Snapshot, model.Memory) model.Plan { return model.Plan{} }

// wild does what comes to its mind, of which a good deal is impossible.
type wild struct{ d *rand.Rand }

func newWild(seed uint64) wild { return wild{rand.New(rand.NewPCG(seed, 99))} }

func (p wild) Plan(s *model.Snapshot, m model.Memory) model.Plan {
	var out model.Plan
	some := func(n int) int { return p.d.IntN(n+2) - 1 }
	for range p.d.IntN(20) {
		a := model.Action{Actor: some(len(s.Actors)), From: some(len(s.Servers)), To: some(len(s.Servers)), Node: some(len(s.Nodes))}
		switch k := p.d.IntN(12); {
		case k < 6:
			a.Verb = model.Move
			if a.Actor >= 0 && a.Actor < len(s.Actors) {
				a.From = s.Actors[a.Actor].Server
			}
		case k == 6:
			a.Verb = model.ScaleOut
			if len(s.Servers) > 12 {
				continue
			}
		case k == 7:
			a.Verb, a.Limit.CPU = model.Resize, p.d.Float64()*4-.2
		case k == 8:
			a.Verb = model.Drain
			if len(s.Servers) < 3 {
				continue
			}
		case k == 9:
			a.Verb = model.Stop
		case k == 10:
			a.Verb = []model.Verb{model.Reserve, model.Release}[p.d.IntN(2)]
		default:
			a.Verb = "fly"
		}
		out.Actions = append(out.Actions, a)
	}
	return out
}
