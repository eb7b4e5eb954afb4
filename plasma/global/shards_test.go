package global

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// within gives an actor of a shard that a server has.
func within(t *testing.T, table placement.Table, server string) placement.Actor {
	t.Helper()
	for i := range 1_000_000 {
		a := placement.Actor{Type: "T", Key: fmt.Sprint(i)}
		if o, ok := table.Owner(a.Shard()); ok && o.Server == server {
			return a
		}
	}
	t.Fatalf("%s has no shards", server)
	return placement.Actor{}
}

func TestShardsAreShared(t *testing.T) {
	l := newLab(t, 2)
	ids := l.running(2)
	if n := l.counts(); n[ids[0]] != placement.Shards/2 || n[ids[1]] != placement.Shards/2 {
		t.Errorf("shards are %v", n)
	}
	for id, h := range l.hosts {
		if h.frozen {
			t.Errorf("%s stays frozen", id)
		}
	}
}

// TestActorsStayWhenShardsGo: a server that drains gives its shards away and keeps its actors,
// which the placement says before anybody may make one of them again.
func TestActorsStayWhenShardsGo(t *testing.T) {
	l := newLab(t, 2)
	ids := l.running(2)
	table, _ := l.mirror.Table("s")
	own, other := within(t, table, ids[0]), within(t, table, ids[1])
	moved := placement.Actor{Type: "T", Key: "came by a move"}
	l.hosts[ids[0]].actors = []placement.Actor{own, moved}
	l.hosts[ids[1]].actors = []placement.Actor{other}
	if err := l.reign.AddExceptions(t.Context(), "s", map[placement.Actor]placement.Owner{moved: {Server: ids[0], Epoch: 9}}); err != nil {
		t.Fatal(err)
	}
	l.settle()
	before, _ := l.mirror.Owner("s", own)
	l.do(1, func(k *keeper, ctx context.Context) error {
		return k.change(ctx, ids[0], func(s *place.Server) { s.State = model.Draining })
	})
	l.do(1, (*keeper).share)
	if n := l.counts(); n[ids[0]] != 0 || n[ids[1]] != placement.Shards {
		t.Errorf("shards are %v", n)
	}
	for a, want := range map[placement.Actor]placement.Owner{own: before, moved: {Server: ids[0], Epoch: 9}} {
		if got, _ := l.mirror.Owner("s", a); got != want {
			t.Errorf("%s is at %v, want %v", a, got, want)
		}
	}
	if !l.hosts[ids[0]].frozen {
		t.Error("it makes new actors before it knows the new table")
	}
	l.do(1, (*keeper).share)
	_, revision := l.mirror.Table("s")
	if h := l.hosts[ids[0]]; h.frozen || h.thawed < revision {
		t.Errorf("it is frozen: %v, thawed by %d, the table is of %d", h.frozen, h.thawed, revision)
	}
}

// TestNothingIsSharedBlindly: while the server that is to lose shards does not say what it has,
// or starts again after it said so, the table stays.
func TestNothingIsSharedBlindly(t *testing.T) {
	for name, test := range map[string]func(l *lab, id string){
		"it does not answer": func(l *lab, id string) { l.hosts[id].away = true },
		"it starts again":    func(l *lab, id string) { l.hosts[id].onAsked = func() { l.register(id, "n1") } },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 2)
			ids := l.running(2)
			before, _ := l.mirror.Table("s")
			l.do(1, func(k *keeper, ctx context.Context) error {
				return k.change(ctx, ids[0], func(s *place.Server) { s.State = model.Draining })
			})
			test(l, ids[0])
			err := l.keeper().share(t.Context())
			if err != nil && !errdefs.IsUnavailable(err) {
				t.Fatal(err)
			}
			l.settle()
			if after, _ := l.mirror.Table("s"); after.Owners != before.Owners {
				t.Error("the table has changed")
			}
		})
	}
}

// TestNewManagerThaws: hosts that an earlier manager has frozen make new actors again.
func TestNewManagerThaws(t *testing.T) {
	l := newLab(t, 1)
	ids := l.running(1)
	l.hosts[ids[0]].frozen = true
	_, before := l.mirror.Table("s")
	l.reign.services = map[string]*keeper{} // as the next reign begins
	l.do(1, (*keeper).share)
	_, after := l.mirror.Table("s")
	if h := l.hosts[ids[0]]; h.frozen || after <= before || h.thawed != after {
		t.Errorf("frozen %v, thawed by %d; the table was of %d and is of %d", h.frozen, h.thawed, before, after)
	}
}

func TestDeposedChangesNothing(t *testing.T) {
	l := newLab(t, 1)
	ids := l.running(1)
	old := l.keeper()
	if err := l.reign.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := old.change(t.Context(), ids[0], func(s *place.Server) { s.State = model.Draining })
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !deposed(err) {
		t.Errorf("a deposed manager writes: %v", err)
	}
	if state, _ := l.state(ids[0]); state != model.Up {
		t.Errorf("the server is %s", state)
	}
	l.reign = l.elect()
}
