package placement

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

// TestShardsStay: where an actor belongs is in users' clusters, and must never change.
func TestShardsStay(t *testing.T) {
	for a, want := range map[Actor]int{
		{"Counter", "a"}: 3443, {"Counter", "b"}: 1846, {"", ""}: 1896, {"Ledger", "ä/ö"}: 828,
	} {
		if got := a.Shard(); got != want {
			t.Errorf("%s is in shard %d, want %d", a, got, want)
		}
	}
	if (Actor{"a", "bc"}).Shard() == (Actor{"ab", "c"}).Shard() {
		t.Error("types and keys run into each other")
	}
	counts := make([]int, Shards)
	for i := range 100 * Shards {
		counts[Actor{"T", fmt.Sprint(i)}.Shard()]++
	}
	if least, most := slices.Min(counts), slices.Max(counts); least < 50 || most > 160 {
		t.Errorf("shards have %d to %d of 100 actors each", least, most)
	}
}

// TestTables: whatever changes, each shard has one owner that is there, servers have about as
// many as each other, no more change hands than must, and epochs grow for those that do.
func TestTables(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		table := Table{}
		servers := []string{"s-1"}
		table = table.Assign(servers)
		for step := range 12 {
			before := table
			change := "assign"
			least := Shards // that stay
			switch {
			case len(servers) > 1 && r.IntN(3) == 0:
				change = "without"
				i := r.IntN(len(servers))
				gone := servers[i]
				servers = slices.Delete(slices.Clone(servers), i, i+1)
				least -= before.Count(gone)
				table = table.Without(gone, servers)
			default:
				servers = append(slices.Clone(servers), fmt.Sprintf("s-%d", step+2))
				table = table.Assign(servers)
				least = Shards - (Shards+len(servers)-1)/len(servers) - len(servers)
				if before.uneven() > 1 {
					least = 0
				}
			}
			check(t, change, &before, &table, servers, least)
			if change == "assign" && table.uneven() > 1 {
				t.Fatalf("%s: servers have %v", change, table.counts())
			}
		}
	}
}

func (t *Table) counts() (n []int) {
	for _, s := range t.Servers {
		n = append(n, t.Count(s))
	}
	return n
}

func (t *Table) uneven() int {
	n := t.counts()
	return slices.Max(n) - slices.Min(n)
}

func check(t *testing.T, change string, before, after *Table, servers []string, least int) {
	t.Helper()
	stay := 0
	for shard := range Shards {
		was, had := before.Owner(shard)
		is, ok := after.Owner(shard)
		switch {
		case !ok || !slices.Contains(servers, is.Server):
			t.Fatalf("%s: shard %d is at %q of %v", change, shard, is.Server, servers)
		case had && was.Server == is.Server:
			stay++
			if was.Epoch != is.Epoch {
				t.Fatalf("%s: shard %d stays, and its epoch was %d and is %d", change, shard, was.Epoch, is.Epoch)
			}
		case was.Epoch >= is.Epoch:
			t.Fatalf("%s: shard %d changes hands, and its epoch was %d and is %d", change, shard, was.Epoch, is.Epoch)
		}
	}
	if stay < least {
		t.Fatalf("%s: %d shards stay, want %d at least", change, stay, least)
	}
}

func TestNobodyToGiveTo(t *testing.T) {
	table := Table{}.Assign([]string{"s-1"})
	if next := table.Without("s-1", nil); next.Count("s-1") != Shards {
		t.Error("shards that nobody takes are gone")
	}
	if next := table.Without("s-1", []string{"s-1"}); next.Count("s-1") != Shards {
		t.Error("shards that nobody else takes are gone")
	}
	if all := table.Counts(); len(all) != 1 || all["s-1"] != Shards {
		t.Errorf("counts are %v", all)
	}
	if all := new(Table).Counts(); len(all) != 0 {
		t.Errorf("counts of nobody are %v", all)
	}
	if next := table.Assign(nil); next.Count("s-1") != Shards {
		t.Error("shards that nobody takes are gone")
	}
}

func placementOf(t *Table, whole bool, revision int64, actors ...*api.Exception) *api.Placement {
	return &api.Placement{Whole: whole, Revision: revision, Shards: t.API(), Actors: actors}
}

func TestView(t *testing.T) {
	v := NewView()
	a := Actor{"T", "1"}
	if _, ok := v.Owner(a); ok {
		t.Error("an actor has an owner before anything is known")
	}
	table := Table{}.Assign([]string{"s-1", "s-2"})
	changed := v.Changed()
	at := func(server string, epoch uint64) *api.Exception {
		return &api.Exception{Actor: a.API(), Owner: &api.Owner{Server: server, Epoch: epoch}}
	}
	apply := func(p *api.Placement) {
		t.Helper()
		if err := v.Apply(p); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(server string, epoch uint64) {
		t.Helper()
		if got, ok := v.Owner(a); !ok || got != (Owner{server, epoch}) {
			t.Errorf("it is at %v, want %s of epoch %d", got, server, epoch)
		}
	}
	apply(placementOf(&table, true, 5))
	select {
	case <-changed:
	default:
		t.Error("nobody is told")
	}
	own, _ := table.Owner(a.Shard())
	expect(own.Server, own.Epoch)
	apply(&api.Placement{Revision: 6, Actors: []*api.Exception{at("s-9", 7)}})
	expect("s-9", 7)
	apply(&api.Placement{Revision: 7, Actors: []*api.Exception{at("s-8", 6)}})
	expect("s-9", 7) // what is older changes nothing
	v.Learn(a, Owner{"s-7", 7})
	expect("s-9", 7)
	v.Learn(a, Owner{"s-7", 8})
	expect("s-7", 8)
	if err := v.Await(t.Context(), 7); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.Await(ctx, 8); err == nil {
		t.Error("a revision is known that has not come")
	}
	if !v.Has("s-1") || v.Has("s-9") {
		t.Error("the wrong servers have shards")
	}
}

// TestServersThatAreAway are looked for where they were.
func TestServersThatAreAway(t *testing.T) {
	v := NewView()
	for _, whole := range []bool{false, true} {
		for _, s := range []*api.Server{
			{Id: "s-1", Node: "n1", Instance: 3, Address: "192.0.2.1:1"}, {Id: "s-1", Node: "n1"},
		} {
			if err := v.Apply(&api.Placement{Whole: whole, Servers: []*api.Server{s}}); err != nil {
				t.Fatal(err)
			}
			if got, ok := v.Server("s-1"); !ok || got.Instance != 3 || got.Address != "192.0.2.1:1" {
				t.Errorf("%+v", got)
			}
		}
	}
	if err := v.Apply(&api.Placement{Servers: []*api.Server{{Id: "s-1"}}}); err != nil {
		t.Fatal(err)
	}
	if _, ok := v.Server("s-1"); ok {
		t.Error("one that is no more is there")
	}
}

func TestNonsenseChangesNothing(t *testing.T) {
	v := NewView()
	table := Table{}.Assign([]string{"s-1"})
	if err := v.Apply(placementOf(&table, true, 1)); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*api.Shards{
		"none":     {},
		"few":      {Servers: []string{"a"}, Owners: make([]uint32, 5), Epochs: make([]uint64, 5)},
		"nobody":   {Owners: make([]uint32, Shards), Epochs: make([]uint64, Shards)},
		"unsorted": {Servers: []string{"b", "a"}, Owners: make([]uint32, Shards), Epochs: make([]uint64, Shards)},
	} {
		if err := v.Apply(&api.Placement{Whole: true, Shards: s}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if o, ok := v.Owner(Actor{"T", "1"}); !ok || o.Server != "s-1" {
		t.Errorf("it is at %v", o)
	}
}

func BenchmarkOwner(b *testing.B) {
	v := NewView()
	table := Table{}.Assign([]string{"s-1", "s-2", "s-3"})
	if err := v.Apply(placementOf(&table, true, 1)); err != nil {
		b.Fatal(err)
	}
	a := Actor{"Counter", "some key"}
	for b.Loop() {
		v.Owner(a)
	}
}
