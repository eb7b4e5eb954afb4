package baseline

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// loads makes a snapshot: a server of one core for each list, with an actor for each of its shares
// of the core.
func loads(servers ...[]float64) *model.Snapshot {
	s := &model.Snapshot{Version: model.Version, At: 10 * time.Second, Window: 10 * time.Second}
	s.Nodes = []model.Node{{ID: "n", Capacity: model.Resources{CPU: 100}}}
	for i, actors := range servers {
		v := model.Server{ID: fmt.Sprint("s", i), State: model.Up, Limit: model.Resources{CPU: 1}}
		for k, cpu := range actors {
			v.Usage.CPU += cpu
			s.Actors = append(s.Actors, model.Actor{ID: fmt.Sprintf("a%d.%d", i, k), Type: "A", Server: i, Usage: model.Resources{CPU: cpu}})
		}
		s.Servers = append(s.Servers, v)
	}
	return s
}

// text gives a plan's actions in short.
func text(p model.Plan) []string {
	var out []string
	for _, a := range p.Actions {
		switch a.Verb {
		case model.Move:
			out = append(out, fmt.Sprintf("%s %s>%s", a.ActorName, a.FromName, a.ToName))
		case model.ScaleOut:
			out = append(out, "out "+a.NodeName)
		default:
			out = append(out, fmt.Sprintf("%s %s", a.Verb, a.ToName))
		}
	}
	return out
}

func expect(t *testing.T, what string, p model.Plan, want ...string) {
	t.Helper()
	if got := text(p); !slices.Equal(got, want) {
		t.Errorf("%s: planned %q, want %q", what, got, want)
	}
}

func TestStatic(t *testing.T) {
	s := loads(nil, nil, nil)
	s.Servers[1].State = model.Down
	expect(t, "one failed", Static{3}.Plan(s, model.Memory{}), "out n")
	expect(t, "all there", Static{2}.Plan(s, model.Memory{}))
	s.Nodes[0].Capacity.CPU = 2
	expect(t, "no room", Static{9}.Plan(s, model.Memory{}))
}

// TestFormula checks the autoscaler's formula with the example of Kubernetes' documentation and
// its edges.
func TestFormula(t *testing.T) {
	for _, c := range []struct {
		have        int
		usage, want float64 // mean share
		target      float64
	}{
		{have: 1, usage: 2, target: 1, want: 2},
		{have: 2, usage: .5, target: 1, want: 1},
		{have: 3, usage: .7, target: .7, want: 3},
		{have: 10, usage: .76, target: .7, want: 10}, // within the tolerance
		{have: 10, usage: .78, target: .7, want: 12},
		{have: 10, usage: .64, target: .7, want: 10},
		{have: 10, usage: .6, target: .7, want: 9},
		{have: 1, usage: 1, target: .05, want: 5},   // at most four more
		{have: 10, usage: 1, target: .05, want: 20}, // or twice as many
		{have: 4, usage: 0, target: .7, want: 1},
	} {
		b := Autoscaler{Target: c.target, Tolerance: .1, Stable: 3}
		if got := b.desired(c.have, c.usage*float64(c.have)); float64(got) != c.want {
			t.Errorf("%d servers at %v with target %v: %d are desired, want %v", c.have, c.usage, c.target, got, c.want)
		}
	}
}

func TestAutoscaler(t *testing.T) {
	b := Autoscaler{Target: .5, Tolerance: .1, Stable: 3}
	busy := loads([]float64{.45, .45}, []float64{.45, .45})
	p := b.Plan(busy, model.Memory{})
	outs := 0
	for _, a := range p.Actions {
		if a.Verb == model.ScaleOut {
			outs++
		}
	}
	if outs != 2 {
		t.Errorf("planned %q for busy servers, want two more", text(p))
	}

	// A new server gets what is its own.
	came := loads([]float64{.2, .2, .2, .2}, []float64{.2, .2, .2, .2}, nil)
	came.At = 20 * time.Second
	p = b.Plan(came, p.Memory)
	moves := 0
	for _, a := range p.Actions {
		if a.Verb == model.Move {
			moves++
			if a.To != 2 {
				t.Errorf("%s goes to %s, which isn't new", a.ActorName, a.ToName)
			}
		}
	}
	if moves == 0 || moves > 6 {
		t.Errorf("%d of 8 actors go to the new server", moves)
	}

	// Fewer servers, the newest first, only when as many were desired in none of three periods:
	// in the first of all it was four, and then three.
	memory := p.Memory
	idle := loads([]float64{.1}, []float64{.1}, []float64{.1}, []float64{.1})
	for n, want := range []string{3: "", 4: "drain s3", 5: "drain s1 drain s2 drain s3", 6: "drain s1 drain s2 drain s3"} {
		idle.At = time.Duration(n) * 10 * time.Second
		if n < 3 {
			continue
		}
		p = b.Plan(idle, memory)
		memory = p.Memory
		var drains []string
		for _, a := range p.Actions {
			if a.Verb == model.Drain {
				drains = append(drains, "drain "+a.ToName)
			}
		}
		if got := strings.Join(drains, " "); got != want {
			t.Errorf("in period %d it planned %q, want %q", n, text(p), want)
		}
		if n == 5 && len(p.Actions) != 3+3 {
			t.Errorf("planned %q: the actors of three servers have to move", text(p))
		}
	}
	idle.Servers[3].State = model.Draining
	idle.Actors[3].Server = 0
	if p = b.Plan(idle, memory); p.Actions[len(p.Actions)-1].Verb != model.Stop {
		t.Errorf("planned %q: an empty server should stop", text(p))
	}
}

// TestRing checks that no server has more than its bound, and that few actors move when a server
// comes or goes.
func TestRing(t *testing.T) {
	servers := make([][]float64, 10)
	servers[0] = make([]float64, 1000)
	s := loads(servers...)
	b := Ring{1.25}
	apply := func() int {
		p := b.Plan(s, model.Memory{})
		for _, a := range p.Actions {
			s.Actors[a.Actor].Server = a.To
		}
		return len(p.Actions)
	}
	bounded := func() {
		t.Helper()
		have := make([]int, len(s.Servers))
		up := 0
		for _, a := range s.Actors {
			have[a.Server]++
		}
		for _, v := range s.Servers {
			if v.State == model.Up {
				up++
			}
		}
		for i, n := range have {
			if n > 1250/up+1 || s.Servers[i].State != model.Up && n > 0 {
				t.Errorf("%s has %d of 1000 actors", s.Servers[i].ID, n)
			}
		}
	}
	if n := apply(); n < 800 {
		t.Errorf("%d actors went to their places", n)
	}
	bounded()
	if n := apply(); n != 0 {
		t.Errorf("%d actors move for nothing", n)
	}
	s.Servers[4].State = model.Draining
	if n := apply(); n < 50 || n > 300 {
		t.Errorf("%d actors move as one of ten servers goes", n)
	}
	bounded()
}

// policy compiles rules.
func policy(t *testing.T, text string) *ir.Program {
	t.Helper()
	tree, err := epl.Parse("p.epl", []byte(text), epl.Paper)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ir.Compile(tree)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBounds(t *testing.T) {
	got := BoundsOf(policy(t, `
		server.cpu.perc < 30 or server.cpu.perc > 70 => balance({Router, Session}, cpu);
		server.cpu.perc > 80 and client.call(Folder(fo).open).perc > 40 and File(fi) in ref(fo.files) => reserve(fo, cpu); colocate(fo, fi);
		Player(p) in ref(Session(s).players) => colocate(p, s);
		User(a).call(User(b).message).count >= 500 => colocate(a, b);
		server.mem.perc > 50 => balance({Router}, mem);
		true => pin(Router(r));
		true => separate(Folder(a), Folder(b));
	`))
	want := []Rule{
		{Name: "rule 1", Verb: epl.Balance, Upper: .7, Lower: .3, Types: []string{"Router", "Session"}},
		{Name: "rule 2", Verb: epl.Reserve, Upper: .8, Types: []string{"Folder"}, Function: "open", Calls: .4},
		{Name: "rule 2", Verb: epl.Colocate, Upper: .8, Types: []string{"Folder", "File"}, Property: "files"},
		{Name: "rule 3", Verb: epl.Colocate, Upper: 1, Types: []string{"Player", "Session"}, Property: "players", Reverse: true},
		{Name: "rule 4", Verb: epl.Colocate, Upper: 1, Types: []string{"User", "User"}, Function: "message", Calls: 500},
	}
	if !reflect.DeepEqual(got.Rules, want) {
		t.Errorf("got\n%+v, want\n%+v", got.Rules, want)
	}
}

func TestFirstFit(t *testing.T) {
	b := FirstFit{BoundsOf(policy(t, `server.cpu.perc < 20 or server.cpu.perc > 80 => balance({A}, cpu);`))}
	expect(t, "one from each, to the first where it fits",
		b.Plan(loads([]float64{0, .5, .5}, []float64{.45}, []float64{.9}, []float64{.1, .15}), model.Memory{}), "a0.1 s0>s3")
	expect(t, "nothing fits", b.Plan(loads([]float64{.9}, []float64{.7}), model.Memory{}))
	expect(t, "under the lower bound", b.Plan(loads([]float64{.3, .4}, []float64{.1}), model.Memory{}), "a0.0 s0>s1")
	s := loads([]float64{.5, .5}, nil)
	s.Actors[0].Fixed = true
	expect(t, "a fixed one stays", b.Plan(s, model.Memory{}), "a0.1 s0>s1")
	s.Servers[1].State = model.Draining
	expect(t, "no server that takes", b.Plan(s, model.Memory{}))
	expect(t, "without a policy", FirstFit{BoundsOf(nil)}.Plan(loads([]float64{.5, .4}, nil), model.Memory{}), "a0.0 s0>s1")
}

func TestFirstFitReserveAndColocate(t *testing.T) {
	b := FirstFit{BoundsOf(policy(t, `server.cpu.perc > 80 and client.call(Folder(fo).open).perc > 40 and File(fi) in ref(fo.files) => reserve(fo, cpu); colocate(fo, fi);`))}
	s := loads([]float64{.4, .4, .1}, []float64{.2}, []float64{.1})
	for i := range 2 {
		s.Actors[i].Type = "Folder"
	}
	s.Actors[2].Type = "File"
	s.Actors[1].Refs = []model.Ref{{Name: "files", To: 2}, {Name: "other", To: 3}}
	s.Calls = []model.Call{{From: model.Client, To: 1, Function: "open", Count: 70}, {From: model.Client, To: 0, Function: "open", Count: 30}}
	expect(t, "a busy folder and its file", b.Plan(s, model.Memory{}), "a0.1 s0>s2", "a0.2 s0>s2")

	b = FirstFit{BoundsOf(policy(t, `A(a).call(A(b).message).count >= 500 => colocate(a, b);`))}
	s = loads([]float64{.1}, []float64{.1}, []float64{.1})
	s.Calls = []model.Call{{From: 0, To: 1, Function: "message", Count: 499}, {From: 2, To: 1, Function: "message", Count: 500}}
	expect(t, "those that talk much", b.Plan(s, model.Memory{}), "a1.0 s1>s2")
}

func TestNew(t *testing.T) {
	w := &world.World{Servers: 4, Peak: 9, Mean: 3}
	want := map[string]int{StaticPeak: 9, StaticMean: 3, None: 4, HPA: 4, Original: 9, BoundedLoad: 9}
	for _, name := range Names() {
		b, err := New(name, w, nil)
		if err != nil || b.Servers != want[name] || b.Planner == nil || b.Doc == "" || !Is(name) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	if _, err := New("best", w, nil); err == nil || Is("best") {
		t.Error("there is a baseline called best")
	}
}

// TestPlansAreSound checks, of random snapshots, that plans are functions of their input, move
// what can be moved from where it is to servers that are up, each actor once.
func TestPlansAreSound(t *testing.T) {
	program := policy(t, `server.cpu.perc < 20 or server.cpu.perc > 60 => balance({any}, cpu);
		A(a) in ref(B(b).next) => colocate(a, b);
		server.cpu.perc > 50 and client.call(A(a).f).perc > 10 => reserve(a, cpu);`)
	for seed := range uint64(300) {
		d := rand.New(rand.NewPCG(seed, 1))
		servers := make([][]float64, d.IntN(8))
		for i := range servers {
			for range d.IntN(8) {
				servers[i] = append(servers[i], d.Float64()*.4)
			}
		}
		s := loads(servers...)
		for i := range s.Servers {
			s.Servers[i].State = []model.State{model.Up, model.Up, model.Up, model.Starting, model.Draining, model.Down}[d.IntN(6)]
		}
		for i := range s.Actors {
			a := &s.Actors[i]
			a.Fixed, a.Moving = d.IntN(10) == 0, d.IntN(10) == 0
			a.Type = []string{"A", "B"}[d.IntN(2)]
			if d.IntN(20) == 0 {
				a.Server = -1
			}
			a.Refs = []model.Ref{{Name: "next", To: d.IntN(len(s.Actors))}}
			s.Calls = append(s.Calls, model.Call{From: d.IntN(len(s.Actors)+1) - 1, To: i, Function: "f", Count: 5})
		}
		for _, name := range Names() {
			b, err := New(name, &world.World{Servers: 3, Peak: 5, Mean: 2}, program)
			if err != nil {
				t.Fatal(err)
			}
			var memory model.Memory
			for range 4 {
				before, _ := json.Marshal(s)
				p := b.Planner.Plan(s, memory)
				if again := b.Planner.Plan(s, memory); !reflect.DeepEqual(p, again) {
					t.Fatalf("%s, seed %d: two plans for the same", name, seed)
				}
				if after, _ := json.Marshal(s); string(before) != string(after) {
					t.Fatalf("%s, seed %d: the snapshot was changed", name, seed)
				}
				sound(t, fmt.Sprint(name, ", seed ", seed), s, p)
				memory = p.Memory
				s.At += s.Window
			}
		}
	}
}

func sound(t *testing.T, what string, s *model.Snapshot, p model.Plan) {
	t.Helper()
	moved := map[int]bool{}
	for _, a := range p.Actions {
		switch a.Verb {
		case model.Move:
			if moved[a.Actor] || !movable(s, a.Actor) || a.From != s.Actors[a.Actor].Server || a.From == a.To || s.Servers[a.To].State != model.Up {
				t.Fatalf("%s: %+v", what, a)
			}
			moved[a.Actor] = true
		case model.Drain:
			if s.Servers[a.To].State != model.Up {
				t.Fatalf("%s: %+v", what, a)
			}
		case model.Stop:
			if s.Servers[a.To].State != model.Draining {
				t.Fatalf("%s: %+v", what, a)
			}
		}
	}
}
