package place_test

import (
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func many(n int, server string, epoch uint64) map[placement.Actor]placement.Owner {
	all := make(map[placement.Actor]placement.Owner, n)
	for i := range n {
		all[actor(i)] = placement.Owner{Server: server, Epoch: epoch}
	}
	return all
}

func TestExceptions(t *testing.T) {
	c := start(t)
	s := c.servers(2)
	c.commit(s[0], c.move("m", actor(7), s[0], s[1], 2))
	// More than a mirror reads at once.
	c.ok(c.leader.AddExceptions(t.Context(), "s", many(4_200, s[0].Server, 1)))
	m := c.mirror()
	if n := m.ExceptionCount("s"); n != 4_200 {
		t.Errorf("%d exceptions", n)
	}
	if o, _ := m.Owner("s", actor(7)); o.Server != s[1].Server || o.Epoch != 2 {
		t.Errorf("one that was there is now %v", o)
	}
}

func TestTable(t *testing.T) {
	c := start(t)
	c.servers(1)
	m := c.mirror()
	table, revision := m.Table("s")
	next := table.Assign([]string{"s-1", "s-2", "a b/c"})
	next.Epochs[5] = 1 << 60
	c.ok(c.leader.SetTable(t.Context(), "s", next, revision))
	if err := c.leader.SetTable(t.Context(), "s", next, revision); !errdefs.IsAborted(err) {
		t.Errorf("an old revision: %v", err)
	}
	got, now := c.mirror().Table("s")
	if fmt.Sprint(got) != fmt.Sprint(next) || now <= revision {
		t.Errorf("revision %d after %d, or the table is another", now, revision)
	}
	if err := c.leader.SetTable(t.Context(), "s", placement.Table{Servers: []string{"b", "a"}}, now); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a table out of order: %v", err)
	}
}

func TestMovesEnd(t *testing.T) {
	c := start(t)
	s := c.servers(2)
	var moves []place.Move
	for i := range 300 {
		moves = append(moves, place.Move{ID: fmt.Sprint("m", i), Actor: actor(i), From: s[0].Server, To: s[1].Server, Epoch: 2})
	}
	n, err := c.leader.StartMoves(t.Context(), "s", moves)
	c.ok(err)
	if n != 300 {
		t.Errorf("%d started", n)
	}
	if n, err = c.leader.StartMoves(t.Context(), "s", moves[:5]); err != nil || n != 0 {
		t.Errorf("%d started again, %v", n, err)
	}
	c.ok(c.store.CancelMoves(t.Context(), "s", []place.Move{{ID: "another", Actor: actor(0)}, moves[1]}))
	if n := len(c.mirror().Moves("s")); n != 299 {
		t.Errorf("%d left", n)
	}
	c.ok(c.leader.AbortMoves(t.Context(), "s", moves))
	if n := len(c.mirror().Moves("s")); n != 0 {
		t.Errorf("%d left", n)
	}
	if _, err := c.leader.StartMoves(t.Context(), "s", []place.Move{{ID: "x", From: "a", To: "a", Epoch: 1}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a move to where it is: %v", err)
	}
}

func TestRelocate(t *testing.T) {
	c := start(t)
	s := c.servers(3)
	ctx := t.Context()
	c.ok(c.leader.AddExceptions(ctx, "s", many(200, s[0].Server, 1)))
	out := c.move("out", actor(1), s[0], s[1], 2)
	c.move("in", actor(9999), s[1], s[0], 3)
	c.commit(s[0], c.move("gone", actor(2), s[0], s[2], 2))
	table, revision := c.mirror().Table("s")
	next := table.Without(s[0].Server, []string{s[1].Server})
	owners := many(200, s[1].Server, 3)
	if err := c.leader.Relocate(ctx, "s", s[0].Server, next, revision, owners); !errdefs.IsAborted(err) {
		t.Fatalf("a server that is there: %v", err)
	}
	if n := len(c.mirror().Moves("s")); n != 2 {
		t.Errorf("%d moves", n)
	}
	c.ok(c.node.Unregister(ctx, s[0]))
	c.ok(c.leader.Relocate(ctx, "s", s[0].Server, next, revision, owners))
	m := c.mirror()
	if n := len(m.Moves("s")); n != 0 {
		t.Errorf("%d moves are left", n)
	}
	for a, o := range m.Exceptions("s") {
		want := placement.Owner{Server: s[1].Server, Epoch: 3}
		if a == actor(2) {
			want = placement.Owner{Server: s[2].Server, Epoch: 2}
		}
		if o != want {
			t.Fatalf("%s is of %v, want %v", a, o, want)
		}
	}
	if got, _ := m.Table("s"); got.Count(s[0].Server) != 0 {
		t.Error("it still has shards")
	}
	back, err := c.node.Register(ctx, s[0])
	c.ok(err)
	if refused := c.commit(back, out); refused[0] == "" {
		t.Error("a move from before took place")
	}
}

func BenchmarkExceptions(b *testing.B) {
	c := start(b)
	s := c.servers(2)
	for n := 0; b.Loop(); n++ {
		all := map[placement.Actor]placement.Owner{}
		for i := range 10_000 {
			all[actor(n*10_000+i)] = placement.Owner{Server: s[0].Server, Epoch: 1}
		}
		c.ok(c.leader.AddExceptions(b.Context(), "s", all))
	}
}
