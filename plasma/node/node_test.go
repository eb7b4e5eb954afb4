package node

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestServerLives(t *testing.T) {
	l := newLab(t)
	l.apply()
	stop := l.begin()
	l.server("s-1")
	first := l.registered("s-1", 1)
	l.own("s-1")
	c := l.client()
	l.add(c, "a", "2", "2")

	// Its process ends: it starts again, and has what it had.
	l.crash("s-1")
	second := l.registered("s-1", first.Instance+1)
	l.add(c, "a", "3", "5")

	// plasmad ends and starts again: the host serves on, and is known.
	stop()
	l.add(c, "a", "1", "6")
	l.node = New(l.node.Options)
	l.begin()
	l.until("the server's socket is back", func() bool {
		_, err := os.Stat(l.node.ClientSocket("s"))
		return err == nil
	})
	l.add(c, "a", "1", "7")
	if n := l.starts["s-1"]; n != 2 {
		t.Errorf("it was started %d times", n)
	}
	if second.Instance != 2 {
		t.Errorf("its instance is %d", second.Instance)
	}

	// It is to use more, and of another class.
	l.change("s-1", func(s *place.Server) { s.Limit, s.Class = model.Resources{CPU: 2}, "high" })
	l.until("it has its limit and class", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.limits["s-1"].CPU == 2 && l.classes["s-1"] == "high"
	})

	// It is to end.
	l.change("s-1", func(s *place.Server) { s.Stopping = true })
	l.until("it is gone", func() bool { return len(l.mirror.Servers("s")) == 0 })
	if _, err := os.Stat(l.root + "/s-1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what it has stored stays: %v", err)
	}
}

func TestMoves(t *testing.T) {
	l := newLab(t)
	l.apply()
	l.begin()
	l.server("s-1")
	l.registered("s-1", 1)
	l.own("s-1")
	l.server("s-2")
	l.registered("s-2", 1)
	c := l.client()
	l.add(c, "a", "2", "2")
	a := placement.Actor{Type: "Counter", Key: "a"}
	move := func(id, from, to string, epoch uint64) {
		t.Helper()
		n, err := l.leader.StartMoves(t.Context(), "s", []place.Move{{ID: id, Service: "s", Actor: a, From: from, To: to, Epoch: epoch, At: time.Now()}})
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		// What is written later is seen later.
		if _, err := l.store.PutService(t.Context(), place.Service{Name: id, Deleting: true}); err != nil {
			t.Fatal(err)
		}
		l.until("the move is seen", func() bool { _, ok := l.mirror.Service(id); return ok })
		l.until("the move ends", func() bool { return len(l.mirror.Moves("s")) == 0 })
	}
	owner, _ := l.mirror.Owner("s", a)
	move("m1", "s-1", "s-2", owner.Epoch+1)
	if got, _ := l.mirror.Owner("s", a); got != (placement.Owner{Server: "s-2", Epoch: owner.Epoch + 1}) {
		t.Fatalf("it is at %v", got)
	}
	l.add(c, "a", "1", "3")
	// A move of an epoch that has been doesn't take place.
	move("m2", "s-2", "s-1", owner.Epoch)
	if got, _ := l.mirror.Owner("s", a); got.Server != "s-2" {
		t.Errorf("it is at %v", got)
	}
	l.add(c, "a", "1", "4")
}

// TestFailingStartIsTriedAgain: and said meanwhile.
func TestFailingStartIsTriedAgain(t *testing.T) {
	l := newLab(t)
	l.fail = errors.New("no such image")
	l.apply()
	l.begin()
	l.server("s-1")
	l.until("it says so", func() bool { return l.node.Trouble()["s-1"] == "no such image" })
	l.mu.Lock()
	l.fail = nil
	l.mu.Unlock()
	l.registered("s-1", 1)
	l.until("all is well", func() bool { return len(l.node.Trouble()) == 0 })
}

func TestClientsOwnNothing(t *testing.T) {
	l := newLab(t)
	l.apply()
	a := &agent{Node: l.node, service: "s"}
	if _, err := a.Commit(t.Context(), &api.CommitRequest{}); err == nil {
		t.Error("a client commits")
	}
	if _, err := a.Report(t.Context(), &api.ReportRequest{}); err == nil {
		t.Error("a client reports")
	}
	if _, err := a.Register(t.Context(), &api.RegisterRequest{Version: 99}); err == nil {
		t.Error("another version is taken")
	}
	if _, err := l.node.Freeze(t.Context(), &api.NodeFreezeRequest{Service: "s", Server: "s-9"}); !errdefs.IsNotFound(err) {
		t.Errorf("a server that is not here: %v", err)
	}
}
