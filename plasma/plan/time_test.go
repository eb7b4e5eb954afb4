package plan_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// course plans for servers' usage over time: one snapshot for each row, and says what is done.
func course(t *testing.T, policy string, usage [][]float64) [][]string {
	t.Helper()
	p := planner(t, policy)
	var m model.Memory
	var all [][]string
	for i, row := range usage {
		b := newBuilder(len(row))
		b.At += time.Duration(i) * window
		for s, cpu := range row {
			for j := range 10 {
				b.actor(fmt.Sprintf("p%d-%d", s, j), "Part", s, cpu/10)
			}
		}
		got := p.Plan(&b.Snapshot, m)
		m = got.Memory
		all = append(all, actions(got))
	}
	return all
}

func TestForATime(t *testing.T) {
	t.Parallel()
	p := planner(t, `rule r: server.cpu.perc > 80 for 10s => pin(Part);`)
	var m model.Memory
	var held []bool
	for i, cpu := range []float64{0.9, 0.9, 0.5, 0.9, 0.9, 0.9, 0.9} {
		b := newBuilder(1)
		b.At += time.Duration(i) * window
		b.actor("p", "Part", 0, cpu)
		plan := p.Plan(&b.Snapshot, m)
		m = plan.Memory
		held = append(held, plan.Decisions[0].Code == "pinned")
	}
	if want := []bool{false, false, false, false, false, true, true}; !slices.Equal(held, want) {
		t.Errorf("it held %v, want %v", held, want)
	}
}

func TestOverATime(t *testing.T) {
	t.Parallel()
	p := planner(t, `rule r: server.cpu.perc > 80 over 15s => pin(Part);`)
	var m model.Memory
	var held []bool
	for i, cpu := range []float64{0.5, 0.9, 0.9, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9} {
		b := newBuilder(1)
		b.At += time.Duration(i) * window
		b.actor("p", "Part", 0, cpu)
		// The memory goes through its written form, as that of a live system does.
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m = model.Memory{}
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		plan := p.Plan(&b.Snapshot, m)
		m = plan.Memory
		held = append(held, plan.Decisions[0].Code == "pinned")
	}
	if want := []bool{false, false, false, true, true, false, false, false, true}; !slices.Equal(held, want) {
		t.Errorf("it held %v, want %v", held, want)
	}
}

func TestCooldowns(t *testing.T) {
	t.Parallel()
	const policy = `limits { servers 1..9; cooldown up 10s down 15s; } server.cpu.perc < 60 or server.cpu.perc > 80 => balance({Part}, cpu);`
	got := course(t, policy, [][]float64{{0.95}, {0.95}, {0.95}})
	if want := [][]string{{"scale-out n0"}, nil, {"scale-out n0"}}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("up: %q, want %q", got, want)
	}
	got = course(t, policy, [][]float64{{0.1, 0.1}, {0.1, 0.1}, {0.7, 0.7}, {0.1, 0.1}, {0.1, 0.1}, {0.1, 0.1}, {0.1, 0.1}})
	for i, list := range got {
		if drains := len(list) > 0 && strings.HasPrefix(list[0], "drain "); drains != (i >= 5) {
			t.Errorf("down, at %d: %q", i, list)
		}
	}
}

func TestStartingServersAreWaitedFor(t *testing.T) {
	t.Parallel()
	p := planner(t, `server.cpu.perc < 60 or server.cpu.perc > 80 => balance({Part}, cpu);`)
	b := newBuilder(2)
	for i := range 9 {
		b.actor(fmt.Sprintf("p%d", i), "Part", 0, 0.1)
	}
	b.Servers[1].State = model.Starting
	if got := p.Plan(&b.Snapshot, model.Memory{}); len(got.Actions) > 0 {
		t.Errorf("%q%s", actions(got), describe(got))
	}
}

func TestDrainIsFollowedThrough(t *testing.T) {
	t.Parallel()
	p := planner(t, `limits { moves 2 per 5s; } server.cpu.perc > 80 => balance({Part}, cpu);`)
	b := newBuilder(2)
	for i := range 5 {
		b.actor(fmt.Sprintf("p%d", i), "Part", 0, 0.05)
	}
	b.Servers[0].State = model.Draining
	last, plans := run(t, p, &b.Snapshot, 5)
	if last.Servers[0].State != model.Down {
		t.Errorf("it is %s", last.Servers[0].State)
	}
	for i, want := range []int{2, 2, 1, 1, 0} {
		if len(plans[i].Actions) != want {
			t.Errorf("plan %d does %q, want %d actions", i, actions(plans[i]), want)
		}
	}
}

func TestPinnedActorsKeepADrain(t *testing.T) {
	t.Parallel()
	p := planner(t, `true => pin(Root);`)
	b := newBuilder(2)
	b.actor("root", "Root", 0, 0.1)
	b.Servers[0].State = model.Draining
	got := p.Plan(&b.Snapshot, model.Memory{})
	if len(got.Actions) > 0 || !slices.ContainsFunc(got.Decisions, func(d model.Decision) bool { return d.Code == "drain-blocked" }) {
		t.Errorf("%q%s", actions(got), describe(got))
	}
}

func TestReservationsEnd(t *testing.T) {
	t.Parallel()
	p := planner(t, `server.cpu.perc > 80 and client.call(Folder(f).open).perc > 40 => reserve(f, cpu);`)
	b := newBuilder(2)
	hot := b.actor("hot", "Folder", 0, 0.6)
	b.actor("cold", "Folder", 0, 0.3)
	b.call(model.Client, hot, "open", 10)
	first := p.Plan(&b.Snapshot, model.Memory{})
	if want := []string{"move cold s0 s1", "reserve hot s0"}; !slices.Equal(actions(first), want) {
		t.Fatalf("%q, want %q%s", actions(first), want, describe(first))
	}
	s, m := apply(&b.Snapshot, &first), first.Memory
	for i := range 8 { // it still uses much: the reservation stays, though the rule holds no more
		got := p.Plan(s, m)
		if len(got.Actions) > 0 {
			t.Fatalf("plan %d: %q", i, actions(got))
		}
		s, m = apply(s, &got), got.Memory
	}
	s.Actors[hot].Usage.CPU, s.Servers[0].Usage.CPU = 0.1, 0.1
	got := p.Plan(s, m)
	if want := []string{"release hot s0"}; !slices.Equal(actions(got), want) || len(got.Memory.Reserved) > 0 {
		t.Errorf("%q, want %q", actions(got), want)
	}
}

// A move may fail: what was reserved for it is not kept for nobody.
func TestReservationsWithoutTheirActor(t *testing.T) {
	t.Parallel()
	p := planner(t, `server.cpu.perc > 80 => balance({Folder}, cpu);`)
	b := newBuilder(2)
	b.actor("hot", "Folder", 0, 0.3)
	m := model.Memory{Reserved: map[string]model.Reservation{
		"hot":  {Server: "s1", Resource: "cpu", Rule: "r", Last: b.At},
		"gone": {Server: "s0", Resource: "cpu", Rule: "r", Last: b.At},
	}}
	got := p.Plan(&b.Snapshot, m)
	if want := []string{"release gone s0", "release hot s1"}; !slices.Equal(actions(got), want) || len(got.Memory.Reserved) > 0 {
		t.Errorf("%q, want %q; %v", actions(got), want, got.Memory.Reserved)
	}
}

// Any snapshot that is valid can be planned for.
func FuzzPlan(f *testing.F) {
	for seed := range 3 {
		text, err := json.Marshal(big(20*(seed+1), 3))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	p := planner(f, everything)
	f.Fuzz(func(t *testing.T, text []byte) {
		var s model.Snapshot
		if json.Unmarshal(text, &s) != nil || s.Validate() != nil || len(s.Actors) > 1000 {
			return
		}
		first := p.Plan(&s, model.Memory{})
		s.At += s.Window
		p.Plan(&s, first.Memory)
	})
}

// TestContainersThatAreActors: an actor that is its container keeps no server there, unless a
// policy pins it, and is not moved.
func TestContainersThatAreActors(t *testing.T) {
	for policy, want := range map[string]int{
		"server.cpu.perc < 40 or server.cpu.perc > 80 => balance({Web}, cpu);":                      2,
		"server.cpu.perc < 40 or server.cpu.perc > 80 => balance({Web}, cpu); true => pin(Web(w));": 0,
	} {
		b := newBuilder(3)
		for i := range 3 {
			a := b.actor(fmt.Sprint("w", i), "Web", i, 0.05)
			b.Actors[a].Fixed, b.Actors[a].Ends = true, true
		}
		p := planner(t, policy).Plan(&b.Snapshot, model.Memory{})
		drains := 0
		for _, a := range p.Actions {
			if a.Verb != model.Drain {
				t.Errorf("%s: %s %s", policy, a.Verb, a.ActorName)
			}
			drains++
		}
		if drains != want {
			t.Errorf("%s: %d servers are drained, want %d: %+v", policy, drains, want, p.Decisions)
		}
	}
}
