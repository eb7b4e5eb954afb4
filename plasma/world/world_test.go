package world

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// drawn is a valid world with a bit of everything.
func drawn(seed uint64) *World {
	d := rand.New(rand.NewPCG(seed, 1))
	duration := func(most time.Duration) time.Duration { return time.Duration(d.Int64N(int64(most))) }
	w := &World{
		Name: fmt.Sprintf("drawn %d", seed), Seed: d.Uint64() >> 1, Duration: time.Second + duration(time.Hour),
		Period: time.Second, Servers: 1 + d.IntN(4), Peak: 3, Mean: 2,
		Server: Server{Cores: .5 + d.Float64(), Memory: d.Float64() * 1e9, Network: float64(1 + d.IntN(1<<40))},
		Costs:  Costs{LocalCall: duration(time.Second), MovePerMiB: duration(time.Second), Start: duration(time.Minute)},
		Nodes:  []Node{{ID: "n 0", Cores: 64, Memory: 1 << 36, Network: 1e9}, {ID: "n\"1", Zone: "ü", Cores: d.Float64()}},
		Types: map[string]Type{
			"A": {Functions: map[string]Function{
				"f": {Service: Service{Mean: duration(time.Second), Shape: "constant"}, Calls: []Call{
					{Property: "bs", Function: "g", All: d.IntN(2) == 0, Wait: true, Probability: d.Float64()},
				}},
				"idle": {},
			}},
			"B": {Functions: map[string]Function{"g": {Service: Service{duration(time.Second), "lognormal", d.Float64()}, Bytes: d.Float64() * 1e6}}},
		},
	}
	if d.IntN(2) == 0 {
		w.Server.Max = w.Server.Cores * 2
	}
	var as, bs []string
	for i := range 1 + d.IntN(9) {
		as, bs = append(as, fmt.Sprintf("a%d", i)), append(bs, fmt.Sprintf("b\t%d", i)[:1]+fmt.Sprint(i))
	}
	for i := range as {
		w.Actors = append(w.Actors,
			Actor{ID: as[i], Type: "A", Server: d.IntN(w.Servers+1) - 1, State: float64(d.IntN(1 << 30)), Refs: map[string][]string{"bs": bs[:1+d.IntN(len(bs))]}},
			Actor{ID: bs[i], Type: "B", Server: -1, Memory: d.Float64(), Scale: d.Float64(), Fixed: d.IntN(3) == 0})
	}
	w.Streams = []Stream{
		{Type: "A", Function: "f", Rate: []Point{{0, d.Float64()}, {1 + duration(time.Hour), 2}}},
		{Type: "A", Function: "idle", Rate: []Point{{0, 1}}, Targets: []Target{{as[0], []Point{{0, 1}, {time.Second, d.Float64()}}}}},
		{Type: "B", Function: "g", Arrivals: []Arrival{{duration(time.Second), bs[0]}, {time.Second, bs[0]}}},
	}
	w.Events = []Event{
		{At: 10, Born: &Actor{ID: "late", Type: "B", Server: -1, Refs: map[string][]string{"x": as}}},
		{At: 10, Refs: &Refs{as[0], map[string][]string{"bs": {"late"}}}},
		{At: 20, Dies: bs[0]},
		{At: 30, Fails: "n 0", Recover: duration(time.Minute)},
		{At: 30, Fails: "server 0"},
	}
	return w
}

func TestWriteIsReadsInverse(t *testing.T) {
	for seed := range uint64(200) {
		w := drawn(seed)
		if err := w.Validate(); err != nil {
			t.Fatal(err)
		}
		back(t, w)
	}
}

func TestValidate(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, spoil := range map[string]func(*World){
		"name":                  func(w *World) { w.Name = "a\nb" },
		"seed":                  func(w *World) { w.Seed = math.MaxUint64 },
		"duration 0":            func(w *World) { w.Duration = 0 },
		"duration is long":      func(w *World) { w.Duration = 8 * 24 * time.Hour },
		"warmup is long":        func(w *World) { w.Warmup = w.Duration },
		"period 0":              func(w *World) { w.Period = 0 },
		"period is short":       func(w *World) { w.Period = 1 },
		"no servers":            func(w *World) { w.Servers = 0 },
		"no peak":               func(w *World) { w.Peak = 0 },
		"no nodes":              func(w *World) { w.Nodes = nil },
		"no room":               func(w *World) { w.Servers, w.Server.Cores, w.Server.Max = 2, 64, 0 },
		"nodes alike":           func(w *World) { w.Nodes[1].ID = w.Nodes[0].ID },
		"node of NaN":           func(w *World) { w.Nodes[1].Cores = nan },
		"cores":                 func(w *World) { w.Server.Cores = 0 },
		"cores NaN":             func(w *World) { w.Server.Cores = nan },
		"max":                   func(w *World) { w.Server.Max = .1 },
		"memory":                func(w *World) { w.Server.Memory = inf },
		"cost":                  func(w *World) { w.Costs.Stop = -1 },
		"no types":              func(w *World) { w.Types = nil },
		"sigma":                 func(w *World) { set(w, "B", "g", func(f *Function) { f.Service.Sigma = nan }) },
		"bytes":                 func(w *World) { set(w, "B", "g", func(f *Function) { f.Bytes = -1 }) },
		"probability":           func(w *World) { set(w, "A", "f", func(f *Function) { f.Calls[0].Probability = 1.1 }) },
		"call of nothing":       func(w *World) { set(w, "A", "f", func(f *Function) { f.Calls[0].Function = "h" }) },
		"property of nobody":    func(w *World) { set(w, "A", "f", func(f *Function) { f.Calls[0].Property = "cs" }) },
		"type of nothing":       func(w *World) { w.Actors[0].Type = "C" },
		"actors alike":          func(w *World) { w.Actors[1].ID = w.Actors[0].ID },
		"actor's server":        func(w *World) { w.Actors[0].Server = w.Servers },
		"scale":                 func(w *World) { w.Actors[0].Scale = -1 },
		"state":                 func(w *World) { w.Actors[0].State = nan },
		"ref of nothing":        func(w *World) { w.Actors[0].Refs["bs"] = []string{"no"} },
		"ref without function":  func(w *World) { w.Actors[0].Refs["bs"] = []string{"a0"} },
		"event's order":         func(w *World) { w.Events[0].At = 25 },
		"event at the end":      func(w *World) { w.Events[4].At = w.Duration + 1 },
		"event of two kinds":    func(w *World) { w.Events[0].Dies = "a0" },
		"event of none":         func(w *World) { w.Events[2].Dies = "" },
		"born twice":            func(w *World) { w.Events[0].Born.ID = "a0" },
		"dies twice":            func(w *World) { w.Events[3] = w.Events[2] },
		"dies before its birth": func(w *World) { w.Events[0], w.Events[2] = Event{Dies: "late"}, w.Events[0] },
		"fails nowhere":         func(w *World) { w.Events[3].Fails = "n 7" },
		"recover of a birth":    func(w *World) { w.Events[0].Recover = 1 },
		"stream of nothing":     func(w *World) { w.Streams[0].Function = "g" },
		"stream without load":   func(w *World) { w.Streams[0].Rate = nil },
		"rate":                  func(w *World) { w.Streams[0].Rate[0].Value = -1 },
		"rate is huge":          func(w *World) { w.Streams[0].Rate[0].Value = 9e6; w.Duration = time.Hour },
		"rate's order":          func(w *World) { w.Streams[0].Rate[1].At = 0 },
		"target of nothing":     func(w *World) { w.Streams[1].Targets[0].ID = "b0" },
		"targets alike":         func(w *World) { w.Streams[1].Targets = append(w.Streams[1].Targets, w.Streams[1].Targets[0]) },
		"no weight":             func(w *World) { w.Streams[1].Targets[0].Weight = []Point{{0, 0}} },
		"arrival's order":       func(w *World) { w.Streams[2].Arrivals[0].At = 2 * time.Second },
		"arrival of nothing":    func(w *World) { w.Streams[2].Arrivals[0].ID = "a0" },
		"arrivals and a rate":   func(w *World) { w.Streams[2].Rate = []Point{{0, 1}} },
	} {
		w := drawn(3)
		spoil(w)
		err := w.Validate()
		if err == nil {
			t.Errorf("%s: it is valid", name)
		} else if strings.TrimSpace(err.Error()) == "" {
			t.Errorf("%s: nothing is said", name)
		}
	}
}

func set(w *World, typ, function string, do func(*Function)) {
	f := w.Types[typ].Functions[function]
	do(&f)
	w.Types[typ].Functions[function] = f
}

// TestCircles holds that calls may go in circles if they die out, and not if they don't.
func TestCircles(t *testing.T) {
	ring := func(probability float64, all bool, refs ...string) *World {
		w := drawn(1)
		w.Types["R"] = Type{Functions: map[string]Function{"go": {Calls: []Call{{Property: "next", Function: "go", Probability: probability, All: all}}}}}
		for i := range 3 {
			w.Actors = append(w.Actors, Actor{ID: fmt.Sprintf("r%d", i), Type: "R", Server: -1, Refs: map[string][]string{"next": refs}})
		}
		return w
	}
	for name, c := range map[string]struct {
		w     *World
		valid bool
	}{
		"dies out":           {ring(.5, false, "r0", "r1"), true},
		"all, and dies out":  {ring(.3, true, "r0", "r1"), true},
		"never ends":         {ring(1, false, "r1"), false},
		"grows":              {ring(.6, true, "r0", "r1"), false},
		"hardly ever ends":   {ring(.9999, false, "r1"), false},
		"nobody is referred": {ring(1, true), true},
	} {
		if err := c.w.Validate(); (err == nil) != c.valid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDemand(t *testing.T) {
	w := drawn(1)
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	w.Duration = 100 * time.Second
	w.Types = map[string]Type{
		"A": {Functions: map[string]Function{"f": {Service: Service{Mean: ms(2)}, Calls: []Call{{Property: "bs", Function: "g", All: true, Probability: .5}}}}},
		"B": {Functions: map[string]Function{"g": {Service: Service{Mean: ms(3)}}}},
	}
	w.Actors = []Actor{
		{ID: "a", Type: "A", Server: -1, Refs: map[string][]string{"bs": {"b", "c"}}},
		{ID: "b", Type: "B", Server: -1, Scale: 2},
		{ID: "c", Type: "B", Server: -1},
	}
	w.Streams = []Stream{{Type: "A", Function: "f", Rate: []Point{{0, 0}, {10 * time.Second, 100}}}}
	w.Events = []Event{
		{At: 20 * time.Second, Refs: &Refs{"a", map[string][]string{"bs": {"c"}}}},
		{At: 30 * time.Second, Dies: "c"},
	}
	if err := w.Validate(); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[int]Demand{
		0:  {},
		5:  {50, 100, 50 * (.002 + .5*.006 + .5*.003)},
		15: {100, 200, 100 * (.002 + .5*.006 + .5*.003)},
		25: {100, 150, 100 * (.002 + .5*.003)},
		35: {100, 100, 100 * .002},
	} {
		got := w.DemandAt(time.Duration(at) * time.Second)
		if math.Abs(got.Requests-want.Requests)+math.Abs(got.Messages-want.Messages)+math.Abs(got.CPU-want.CPU) > 1e-9 {
			t.Errorf("at %d s it is %+v, want %+v", at, got, want)
		}
	}
	w.Server.Cores = .1
	w.Size()
	if w.Peak != 10 {
		t.Errorf("the peak is %d servers: .65 cores are 9.3 of 70 %% of .1", w.Peak)
	}
}
