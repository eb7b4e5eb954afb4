package assemble

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func actor(kind, key string) *api.Actor { return &api.Actor{Type: kind, Key: key} }

func profiled(node string, window time.Duration, servers ...*api.ServerProfile) *api.ProfileResponse {
	return &api.ProfileResponse{Node: node, Window: int64(window), Servers: servers}
}

func hosted(id string, cpu float64, r *api.ReportRequest) *api.ServerProfile {
	return &api.ServerProfile{Service: "s", Server: id, Running: true, Cpu: cpu, Memory: 100, Network: 10, Report: r}
}

func TestSnapshot(t *testing.T) {
	in := Input{
		Service: "s", At: time.Minute, Window: 10 * time.Second,
		Nodes:   []model.Node{{ID: "n2"}, {ID: "n1", Capacity: model.Resources{CPU: 2}}},
		Servers: []Server{{ID: "s-2", Node: "n2", State: model.Draining}, {ID: "s-1", Node: "n1", State: model.Up, Limit: model.Resources{CPU: 1}}},
		Profiles: []*api.ProfileResponse{
			profiled("n1", 10*time.Second, &api.ServerProfile{
				Service: "s", Server: "s-1", Running: true, Cpu: .5, Memory: 100, Network: 10, Metrics: map[string]float64{"a": 1, "b": 1},
				Report: &api.ReportRequest{
					Window: 1e9, Queue: 3, Latency: &api.Latency{P99: 7}, Metrics: map[string]float64{"a": 2},
					Actors: []*api.ActorReport{
						{
							Actor: actor("User", "z"), Cpu: 8e8, State: 5, Memory: 6, Received: 1, Sent: 2, Queue: 1,
							References: []*api.Reference{{Property: "room", To: actor("Room", "r")}, {Property: "room", To: actor("Room", "no")}},
						},
						{Actor: actor("Room", "r"), Cpu: 2e8, Metrics: map[string]float64{"m": -1, "x": math.NaN()}},
					},
					Calls: []*api.CallReport{
						{To: actor("User", "z"), Function: "f", Count: 2, Bytes: 20},
						{From: actor("Gone", "x"), To: actor("User", "z"), Function: "f", Count: 1, Bytes: 1},
						{From: actor("User", "z"), To: actor("Room", "r"), Function: "g", Count: 1},
						{To: actor("Gone", "x"), Function: "f", Count: 9},
					},
				},
			}),
			profiled("n2", 10*time.Second, &api.ServerProfile{Service: "other", Server: "s-2", Running: true, Cpu: 9}),
		},
		Manifest: &manifest.Manifest{Types: map[string]manifest.Type{"Room": {State: "1KiB"}, "User": {State: "1KiB"}}},
	}
	got := Snapshot(in)
	want := model.Snapshot{
		Version: 1, At: time.Minute, Window: 10 * time.Second,
		Nodes: []model.Node{{ID: "n1", Capacity: model.Resources{CPU: 2}}, {ID: "n2"}},
		Servers: []model.Server{
			{
				ID: "s-1", Node: 0, State: model.Up, Limit: model.Resources{CPU: 1}, Usage: model.Resources{CPU: .5, Mem: 100, Net: 10},
				Latency: model.Latency{P99: 7}, Queue: 3, Metrics: map[string]float64{"a": 2, "b": 1},
			},
			{ID: "s-2", Node: 1, State: model.Draining},
		},
		Actors: []model.Actor{
			{ID: "Room/r", Type: "Room", Usage: model.Resources{CPU: .1}, State: 1024, Metrics: map[string]float64{"m": -1}},
			{ID: "User/z", Type: "User", Usage: model.Resources{CPU: .4, Mem: 6, Net: 3}, State: 5, Queue: 1, Refs: []model.Ref{{Name: "room", To: 0}}},
		},
		Calls: []model.Call{
			{From: 1, To: 0, Function: "g", Count: 10},
			{From: model.Client, To: 1, Function: "f", Count: 30, Bytes: 210},
		},
	}
	if !reflect.DeepEqual(got, want) {
		g, _ := json.MarshalIndent(got, "", " ")
		w, _ := json.MarshalIndent(want, "", " ")
		t.Errorf("%s\nwant\n%s", g, w)
	}
}

// TestRest has what a server used beside its actors' turns go to them by their messages.
func TestRest(t *testing.T) {
	report := &api.ReportRequest{Window: 1e9, Actors: []*api.ActorReport{
		{Actor: actor("A", "a"), Cpu: 1e8, Latency: &api.Latency{Count: 30}},
		{Actor: actor("A", "b"), Cpu: 1e8, Latency: &api.Latency{Count: 10}},
		{Actor: actor("A", "c")},
	}}
	for usage, want := range map[float64][]float64{.6: {.4, .2, 0}, .2: {.1, .1, 0}, .1: {.05, .05, 0}} {
		s := Snapshot(Input{Service: "s", Servers: []Server{{ID: "s-1", State: model.Up}}, Profiles: []*api.ProfileResponse{profiled("n", time.Second, hosted("s-1", usage, report))}})
		for i, a := range s.Actors {
			if math.Abs(a.Usage.CPU-want[i]) > 1e-9 {
				t.Errorf("of %g, %s has %g, want %g", usage, a.ID, a.Usage.CPU, want[i])
			}
		}
	}
}

// TestTwice has an actor that two servers report.
func TestTwice(t *testing.T) {
	name := placement.Actor{Type: "A", Key: "a"}
	report := func(cpu int64) *api.ReportRequest {
		return &api.ReportRequest{Window: 1e9, Actors: []*api.ActorReport{{Actor: name.API(), Cpu: cpu}}}
	}
	first := profiled("n", time.Second, hosted("s-1", 1, report(1e8)))
	second := profiled("n", time.Second, hosted("s-2", 1, report(2e8)))
	owner := func(server string) func(placement.Actor) (placement.Owner, bool) {
		return func(placement.Actor) (placement.Owner, bool) { return placement.Owner{Server: server}, server != "" }
	}
	for what, test := range map[string]struct {
		profiles []*api.ProfileResponse
		move     string
		owner    string
		server   int
		cpu      float64
		moving   bool
	}{
		"the last":                       {profiles: []*api.ProfileResponse{first, second}, server: 1, cpu: .2},
		"the last, turned round":         {profiles: []*api.ProfileResponse{second, first}, server: 0, cpu: .1},
		"its owner":                      {profiles: []*api.ProfileResponse{first, second}, owner: "s-1", server: 0, cpu: .1},
		"its target":                     {profiles: []*api.ProfileResponse{first, second}, owner: "s-2", move: "s-1", server: 0, cpu: .1, moving: true},
		"an owner that reported nothing": {profiles: []*api.ProfileResponse{first}, owner: "s-2", server: 1, cpu: .1},
		"a target that is unknown":       {profiles: []*api.ProfileResponse{first}, move: "s-9", server: 0, cpu: .1, moving: true},
		"an owner that is unknown":       {profiles: []*api.ProfileResponse{first}, owner: "s-9", server: 0, cpu: .1},
	} {
		in := Input{
			Service: "s", Servers: []Server{{ID: "s-1", State: model.Up}, {ID: "s-2", State: model.Up}},
			Profiles: test.profiles, Owner: owner(test.owner),
		}
		if test.move != "" {
			in.Moves = map[placement.Actor]Move{name: {To: test.move}}
		}
		s := Snapshot(in)
		if len(s.Actors) != 1 || s.Actors[0].Server != test.server || s.Actors[0].Usage.CPU != test.cpu || s.Actors[0].Moving != test.moving {
			t.Errorf("%s: %+v", what, s.Actors)
		}
	}
}

func TestPlain(t *testing.T) {
	plain := func(id string, state model.State) Server { return Server{ID: id, State: state, Plain: true} }
	one, two := profiled("n1", time.Second, hosted("w-1", .5, nil)), profiled("n2", time.Second, hosted("w-2", .5, nil), hosted("w-3", .5, nil))
	one.Flows = []*api.Flow{{From: "w-1", To: "w-2", Bytes: 100, Packets: 1}, {From: "x", To: "w-1", Bytes: 5, Packets: 5}, {From: "w-1", To: "w-3"}}
	two.Flows = []*api.Flow{{From: "w-1", To: "w-2", Bytes: 90, Packets: 2}}
	s := Snapshot(Input{
		Service: "s", Window: 2 * time.Second, Profiles: []*api.ProfileResponse{one, two},
		Servers: []Server{plain("w-1", model.Up), plain("w-2", model.Up), plain("w-3", model.Draining)},
	})
	usage := model.Resources{CPU: .5, Mem: 100, Net: 10}
	wantActors := []model.Actor{
		{ID: "s/w-1", Type: "s", Server: 0, Usage: usage, Fixed: true, Ends: true}, {ID: "s/w-2", Type: "s", Server: 1, Usage: usage, Fixed: true, Ends: true},
	}
	wantCalls := []model.Call{
		{From: model.Client, To: 0, Function: Connection, Count: 10, Bytes: 10}, {From: 0, To: 1, Function: Connection, Count: 4, Bytes: 200},
	}
	if !reflect.DeepEqual(s.Actors, wantActors) || !reflect.DeepEqual(s.Calls, wantCalls) {
		t.Errorf("%+v\n%+v", s.Actors, s.Calls)
	}
}

func TestSources(t *testing.T) {
	p := profiled("n", time.Second, &api.ServerProfile{
		Service: "s", Server: "s-1", Running: true, Metrics: map[string]float64{"http_inflight": 1, "bad\"name": 1},
		Report: &api.ReportRequest{
			Actors: []*api.ActorReport{
				{Actor: actor("Folder", "a"), Metrics: map[string]float64{"entries": 1}, References: []*api.Reference{{Property: "files", To: actor("File", "f")}}},
				{Actor: actor("File", "f"), References: []*api.Reference{{Property: "x", To: actor("File", "f")}, {Property: "x", To: actor("Folder", "a")}}},
				{Actor: actor("not a name", "f")},
			},
			Calls: []*api.CallReport{{To: actor("Folder", "a"), Function: "open"}, {To: actor("Folder", "a"), Function: "a b"}},
		},
	})
	got := Sources("s", false, []*api.ProfileResponse{p})
	want := manifest.Manifest{
		Name: "s", Server: manifest.Server{Metrics: []string{"http_inflight"}},
		Types: map[string]manifest.Type{
			"Folder": {Functions: []string{"open"}, Properties: map[string]string{"files": "File"}, Metrics: []string{"entries"}},
			"File":   {Properties: map[string]string{"x": "any"}},
		},
	}
	if g, w := fmt.Sprintf("%v", got), fmt.Sprintf("%v", want); g != w {
		t.Errorf("%s, want %s", g, w)
	}
	if got := Sources("s", true, []*api.ProfileResponse{p}); !slices.Equal(got.Types["s"].Functions, []string{Connection}) {
		t.Errorf("%v", got)
	}
}

// garbage is an input of anything.
func garbage(r *rand.Rand) Input {
	numbers := []float64{0, 1, -1, .5, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, -math.MaxFloat64, 5e-324}
	number := func() float64 { return numbers[r.IntN(len(numbers))] }
	ints := []int64{0, 1, -1, 1e9, math.MaxInt64, math.MinInt64, 1e6}
	integer := func() int64 { return ints[r.IntN(len(ints))] }
	word := func() string { return []string{"", "a", "b", "s", "a/b", "c d", "w-1", "w-2", "/"}[r.IntN(9)] }
	name := func() *api.Actor {
		if r.IntN(10) == 0 {
			return nil
		}
		return actor(word(), word())
	}
	values := func() map[string]float64 { return map[string]float64{word(): number(), word(): number()} }
	lat := func() *api.Latency { return &api.Latency{Mean: number(), P50: number(), P95: number(), P99: number()} }
	amounts := func() model.Resources { return model.Resources{CPU: number(), Mem: number(), Net: number()} }
	in := Input{Service: word(), At: time.Duration(integer()), Window: time.Duration(integer()), Moves: map[placement.Actor]Move{}}
	for range r.IntN(4) {
		in.Nodes = append(in.Nodes, model.Node{ID: word(), Capacity: amounts()})
		in.Moves[placement.Of(name())] = Move{word(), word()}
	}
	states := []model.State{model.Up, model.Up, model.Starting, model.Draining, model.Down, "x", ""}
	for range r.IntN(6) {
		in.Servers = append(in.Servers, Server{word(), word(), states[r.IntN(len(states))], amounts(), amounts(), r.IntN(3) == 0})
	}
	if r.IntN(2) == 0 {
		owner := word()
		in.Owner = func(placement.Actor) (placement.Owner, bool) { return placement.Owner{Server: owner}, owner != "" }
	}
	for range r.IntN(4) {
		p := profiled(word(), time.Duration(integer()))
		for range r.IntN(4) {
			report := &api.ReportRequest{Window: integer(), Queue: number(), Latency: lat(), Metrics: values()}
			for range r.IntN(6) {
				report.Actors = append(report.Actors, &api.ActorReport{
					Actor: name(), Cpu: integer(), State: uint64(integer()), Memory: uint64(integer()), Received: uint64(integer()), Sent: uint64(integer()),
					Queue: number(), Latency: lat(), Metrics: values(), References: []*api.Reference{{Property: word(), To: name()}, nil},
				})
				report.Calls = append(report.Calls, &api.CallReport{From: name(), To: name(), Function: word(), Count: uint64(integer()), Bytes: uint64(integer())}, nil)
			}
			if r.IntN(4) == 0 {
				report = nil
			}
			p.Servers = append(p.Servers, &api.ServerProfile{
				Service: in.Service, Server: word(), Running: r.IntN(5) > 0, Cpu: number(), Memory: number(), Network: number(),
				Throttled: number(), Metrics: values(), Report: report,
			})
			p.Flows = append(p.Flows, &api.Flow{From: word(), To: word(), Bytes: uint64(integer()), Packets: uint64(integer())}, nil)
		}
		in.Profiles = append(in.Profiles, p, nil)
	}
	return in
}

func check(t *testing.T, in Input) {
	t.Helper()
	s := Snapshot(in)
	if err := s.Validate(); err != nil {
		t.Fatalf("%v of %+v", err, in)
	}
	if again := Snapshot(in); !reflect.DeepEqual(s, again) {
		t.Fatalf("%+v, and then %+v", s, again)
	}
	byName := slices.IsSortedFunc(s.Actors, func(x, y model.Actor) int {
		if x.ID < y.ID {
			return -1
		}
		return 1
	})
	if !byName {
		t.Errorf("out of order: %+v", s.Actors)
	}
	reported := map[string]bool{}
	for _, p := range in.Profiles {
		for _, one := range p.GetServers() {
			reported[in.Service+"/"+one.GetServer()] = true
			for _, a := range one.GetReport().GetActors() {
				reported[placement.Of(a.GetActor()).String()] = true
			}
		}
	}
	used := make([]float64, len(s.Servers))
	for _, a := range s.Actors {
		if !reported[a.ID] {
			t.Errorf("nobody reports %s", a.ID)
		}
		if used[a.Server] += a.Usage.CPU; in.Owner == nil && len(in.Moves) == 0 && used[a.Server] > s.Servers[a.Server].Usage.CPU*(1+1e-9) {
			t.Errorf("actors of %+v use %v", s.Servers[a.Server], used[a.Server])
		}
	}
	if err := json.NewEncoder(discard{}).Encode(&s); err != nil {
		t.Error(err)
	}
	Sources(in.Service, len(in.Nodes) == 0, in.Profiles)
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestGarbage(t *testing.T) {
	for seed := range uint64(3000) {
		check(t, garbage(rand.New(rand.NewPCG(seed, 1))))
	}
}
