package plan_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

const everything = `limits { servers 1..12; cooldown up 5s down 20s; }
rule pins priority 20: true => pin(Root(r));
rule apart priority 15: Replica(a) in ref(b.peers) and Replica(b).mem.perc >= 0 => separate(a, b);
rule hot priority 12: server.cpu.perc > 80 and client.call(Part(p).get).perc > 40 => reserve(p, cpu);
rule with priority 9: Part(p).call(Leaf(l).get).count > 5 => colocate(p, l);
rule level priority 5: server.cpu.perc < 50 or server.cpu.perc > 80 => balance({Part, Leaf, Replica}, cpu);`

// random makes a world of any shape.
func random(rng *rand.Rand) *builder {
	b := newBuilder(1 + rng.IntN(8))
	n := 1 + rng.IntN(60)
	kinds := []string{"Root", "Replica", "Part", "Leaf"}
	for i := range n {
		kind := kinds[rng.IntN(len(kinds))]
		b.actor(fmt.Sprintf("%s%d", kind, i), kind, rng.IntN(len(b.Servers)), rng.Float64()*rng.Float64()*0.4)
	}
	for range rng.IntN(2 * n) {
		from, to := rng.IntN(n), rng.IntN(n)
		if b.Actors[from].Type == "Replica" && b.Actors[to].Type == "Replica" && from != to {
			b.ref(from, "peers", to)
		}
		b.call(from, to, "get", float64(rng.IntN(20)))
	}
	for i := range b.Actors {
		if rng.IntN(3) == 0 {
			b.call(model.Client, i, "get", float64(rng.IntN(200)))
		}
		b.Actors[i].Queue = float64(rng.IntN(3))
		b.Actors[i].State = float64(rng.IntN(1 << 22))
	}
	for i := range b.Servers {
		if rng.IntN(8) == 0 {
			b.Servers[i].State = []model.State{model.Starting, model.Draining, model.Down}[rng.IntN(3)]
		}
		if rng.IntN(4) == 0 {
			b.Servers[i].Max = model.Resources{CPU: 3, Mem: 2 << 30}
		}
	}
	return b
}

// What no plan may do, whatever the world is.
func TestPlansKeepPromises(t *testing.T) {
	t.Parallel()
	p := planner(t, everything)
	for seed := range uint64(300) {
		b := random(rand.New(rand.NewPCG(seed, 1)))
		s := &b.Snapshot
		var m model.Memory
		for period := range 12 {
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
			text, _ := json.Marshal(s)
			got := p.Plan(s, m)
			if again, _ := json.Marshal(s); string(again) != string(text) {
				t.Fatalf("seed %d: the snapshot was changed", seed)
			}
			if err := promises(s, &got); err != nil {
				t.Fatalf("seed %d, period %d: %v%s", seed, period, err, describe(got))
			}
			one, _ := json.Marshal(got)
			two, _ := json.Marshal(p.Plan(s, m))
			if string(one) != string(two) {
				t.Fatalf("seed %d: two plans of the same differ:\n%s\n%s", seed, one, two)
			}
			m = got.Memory
			s = apply(s, &got)
		}
	}
}

func promises(s *model.Snapshot, p *model.Plan) error {
	home := make([]int, len(s.Actors))
	for i := range s.Actors {
		home[i] = s.Actors[i].Server
	}
	moved := map[int]bool{}
	draining := map[int]bool{}
	for i := range s.Servers {
		draining[i] = s.Servers[i].State == model.Draining
	}
	for _, a := range p.Actions {
		if a.Rule == "" || a.Reason == "" {
			return fmt.Errorf("an action says not why: %+v", a)
		}
		switch a.Verb {
		case model.Move:
			actor := &s.Actors[a.Actor]
			switch {
			case actor.Type == "Root":
				return fmt.Errorf("%s is pinned and moves", actor.ID)
			case moved[a.Actor]:
				return fmt.Errorf("%s moves twice", actor.ID)
			case home[a.Actor] != a.From || a.From == a.To:
				return fmt.Errorf("%s is on %d: %+v", actor.ID, home[a.Actor], a)
			case s.Servers[a.To].State != model.Up || draining[a.To]:
				return fmt.Errorf("%s moves to %s, which takes nobody", actor.ID, a.ToName)
			case s.Servers[a.From].State == model.Down:
				return fmt.Errorf("%s moves from a server that is down", actor.ID)
			}
			home[a.Actor], moved[a.Actor] = a.To, true
			for _, r := range actor.Refs {
				if r.Name == "peers" && home[r.To] == a.To && s.Actors[r.To].Server != a.From && !moved[r.To] {
					return fmt.Errorf("%s moves to its peer %s", actor.ID, s.Actors[r.To].ID)
				}
			}
		case model.Drain:
			draining[a.To] = true
		case model.Stop:
			for i := range s.Actors {
				if s.Actors[i].Server == a.To {
					return fmt.Errorf("%s stops with %s", a.ToName, s.Actors[i].ID)
				}
			}
		case model.Resize:
			if one := s.Servers[a.To]; a.Limit.CPU > max(one.Max.CPU, one.Limit.CPU)+1e-9 {
				return fmt.Errorf("%s may have %v cores, and gets %v", one.ID, one.Max.CPU, a.Limit.CPU)
			}
		}
	}
	used := make([]float64, len(s.Nodes))
	for i := range s.Servers {
		if s.Servers[i].State != model.Down {
			used[s.Servers[i].Node] += s.Servers[i].Limit.CPU
		}
	}
	for _, a := range p.Actions {
		if a.Verb == model.ScaleOut {
			used[a.Node] += a.Limit.CPU
		}
	}
	for i, cores := range used {
		if cores > s.Nodes[i].Capacity.CPU+1e-9 {
			return fmt.Errorf("%s has %v cores, and %v are given away", s.Nodes[i].ID, s.Nodes[i].Capacity.CPU, cores)
		}
	}
	for _, d := range p.Decisions {
		if d.Reason == "" || d.Code == "" {
			return fmt.Errorf("a decision says not why: %+v", d)
		}
		for _, i := range d.Actions {
			if i < 0 || i >= len(p.Actions) {
				return fmt.Errorf("a decision's action %d is not there", i)
			}
		}
	}
	return nil
}

// Where usage stays as it is, plans come to an end.
func TestPlansConverge(t *testing.T) {
	t.Parallel()
	p := planner(t, everything)
	for seed := range uint64(200) {
		b := random(rand.New(rand.NewPCG(seed, 2)))
		for i := range b.Servers {
			b.Servers[i].State = model.Up
		}
		_, plans := run(t, p, &b.Snapshot, 120)
		for _, last := range plans[100:] {
			if len(last.Actions) > 0 {
				t.Errorf("seed %d: after %s there is still to do %q%s", seed, 100*window, actions(last), describe(last))
				break
			}
		}
	}
}

// Balancing ends near the mean, or near the largest part that can't be divided.
func TestBalanceIsNearTheBound(t *testing.T) {
	t.Parallel()
	p := planner(t, `true => balance({Part}, cpu);`)
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 3))
		b := newBuilder(2 + rng.IntN(8))
		n := len(b.Servers) * (4 + rng.IntN(12))
		for i := range n {
			b.actor(fmt.Sprintf("p%d", i), "Part", rng.IntN(len(b.Servers)), 1.2*rng.Float64()*float64(len(b.Servers))/float64(n))
		}
		last, _ := run(t, p, &b.Snapshot, 60)
		sum, highest, largest := 0.0, 0.0, 0.0
		for i := range last.Servers {
			sum += last.Servers[i].Usage.CPU
			highest = max(highest, last.Servers[i].Usage.CPU)
		}
		for i := range last.Actors {
			largest = max(largest, last.Actors[i].Usage.CPU)
		}
		mean := sum / float64(len(last.Servers))
		if bound := max(mean, largest); highest > 1.15*mean+1e-9 && highest > 1.05*bound {
			t.Errorf("seed %d: the highest of %d servers has %.3f, the mean is %.3f, the largest part %.3f", seed, len(last.Servers), highest, mean, largest)
		}
	}
}

// big makes a world of so many actors, unevenly loaded, with calls and references.
func big(actors, servers int) *model.Snapshot {
	rng := rand.New(rand.NewPCG(7, 7))
	b := newBuilder(servers)
	each := 0.7 * float64(servers) / float64(actors)
	for i := range actors {
		at := rng.IntN(servers)
		if rng.IntN(10) == 0 {
			at = rng.IntN(max(1, servers/20)) // some servers have more
		}
		if i%4 == 0 {
			b.actor(fmt.Sprintf("folder-%06d", i), "Folder", at, 2*each*rng.Float64())
			continue
		}
		file := b.actor(fmt.Sprintf("file-%06d", i), "File", at, 2*each*rng.Float64())
		b.ref(i/4*4, "files", file)
		b.call(i/4*4, file, "read", float64(rng.IntN(50)))
	}
	for i := 0; i < actors; i += 4 {
		b.call(model.Client, i, "open", float64(rng.IntN(500)))
	}
	return &b.Snapshot
}

const metadata = `limits { servers 2..2000; moves 5% per 10s; }
rule hot priority 9: server.cpu.perc > 80 and client.call(Folder(fo).open).perc > 40 and File(fi) in ref(fo.files) => reserve(fo, cpu); colocate(fo, fi);
rule busy priority 5: Folder(fo).call(File(fi).read).count > 45 => colocate(fo, fi);
rule level priority 2: server.cpu.perc < 40 or server.cpu.perc > 80 => balance({Folder, File}, cpu);`

func BenchmarkPlan(b *testing.B) {
	for _, size := range []struct{ actors, servers int }{{10_000, 300}, {100_000, 1000}} {
		b.Run(fmt.Sprintf("%d-on-%d", size.actors, size.servers), func(b *testing.B) {
			p, s := planner(b, metadata), big(size.actors, size.servers)
			m := model.Memory{} // all is still to be done
			b.ReportAllocs()
			b.ResetTimer()
			var longest time.Duration
			for b.Loop() {
				start := time.Now()
				p.Plan(s, m)
				longest = max(longest, time.Since(start))
			}
			b.ReportMetric(float64(longest.Microseconds())/1000, "ms-longest")
		})
	}
}
