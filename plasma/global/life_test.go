package global

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// TestStopLooksForItself: what a plan takes for empty ends only if nothing says otherwise.
func TestStopLooksForItself(t *testing.T) {
	l := newLab(t, 2)
	ids := l.running(2)
	stop := func() {
		l.do(1, func(k *keeper, ctx context.Context) error { return k.stop(ctx, ids[0]) })
	}
	expect := func(stopping bool, why string) {
		t.Helper()
		if _, s := l.state(ids[0]); s != stopping {
			t.Errorf("stopping is %v, want %v", s, stopping)
		}
		if got := l.keeper().blocked[ids[0]]; !strings.Contains(got, why) || (why == "") != (got == "") {
			t.Errorf("it says %q, want %q", got, why)
		}
	}
	stop()
	expect(false, "shards")
	l.do(1, func(k *keeper, ctx context.Context) error {
		return k.change(ctx, ids[0], func(s *place.Server) { s.State = model.Draining })
	})
	l.do(2, (*keeper).share)

	a := placement.Actor{Type: "T", Key: "1"}
	l.hosts[ids[0]].actors = []placement.Actor{a}
	stop()
	expect(false, "it still has T/1")
	l.hosts[ids[0]].away = true
	stop()
	expect(false, "doesn't say")
	l.hosts[ids[0]].away, l.hosts[ids[0]].actors = false, nil
	stop()
	expect(true, "")
}

// TestRenewOneByOne: a new generation takes over from the old, one server at a time.
func TestRenewOneByOne(t *testing.T) {
	l := newLab(t, 1)
	old := l.running(2)
	l.apply("[servers]\nmin = 2\nmax = 8\n", "", 2)
	for range 40 {
		l.do(1, (*keeper).raiseUp)
		l.do(1, (*keeper).share)
		l.do(1, (*keeper).renew)
		l.host()
		up := 0
		for _, s := range l.mirror.Servers("s") {
			if s.State == model.Up {
				up++
			}
			// As the planner has it, once it is empty, and as its node does then.
			if s.State == model.Draining && l.counts()[s.ID] == 0 {
				if err := l.reign.DeleteServer(t.Context(), "s", s.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		if up < 2 {
			t.Fatalf("only %d servers are up", up)
		}
		l.settle()
	}
	all := l.mirror.Servers("s")
	if len(all) != 2 {
		t.Errorf("there are %d servers: %+v", len(all), all)
	}
	for _, s := range all {
		if s.Generation != 2 || s.State != model.Up {
			t.Errorf("%+v", s)
		}
		if s.ID == old[0] || s.ID == old[1] {
			t.Errorf("%s is still there", s.ID)
		}
	}
}

// TestRelocate: what a lost node has goes to others, if the service says so.
func TestRelocate(t *testing.T) {
	for _, relocate := range []bool{false, true} {
		l := newLab(t, 2)
		ids := l.running(2)
		a := placement.Actor{Type: "T", Key: "1"}
		if err := l.reign.AddExceptions(t.Context(), "s", map[placement.Actor]placement.Owner{a: {Server: ids[1], Epoch: 3}}); err != nil {
			t.Fatal(err)
		}
		if relocate {
			l.apply("relocate = true\n[servers]\nmin = 2\nmax = 8\n", "", 1)
		}
		if err := l.members["n2"].Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.settle()
		l.do(1, (*keeper).relocate)
		want := placement.Owner{Server: ids[1], Epoch: 3}
		if relocate {
			want = placement.Owner{Server: ids[0], Epoch: 5}
		}
		if got, _ := l.mirror.Owner("s", a); got != want {
			t.Errorf("relocate %v: %v, want %v", relocate, got, want)
		}
		if _, stopping := l.state(ids[1]); stopping != relocate {
			t.Errorf("relocate %v: the lost server is stopping: %v", relocate, stopping)
		}
		if n := l.counts()[ids[1]]; (n == 0) != relocate {
			t.Errorf("relocate %v: the lost server has %d shards", relocate, n)
		}
	}
}

// TestLostServersAreReplacedLater: a host that is away for a moment is waited for.
func TestLostServersAreReplacedLater(t *testing.T) {
	l := newLab(t, 2)
	ids := l.running(2)
	k := l.keeper()
	if err := l.members["n2"].Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.settle()
	state := func() model.State {
		s := k.look()
		for i := range s.Servers {
			if s.Servers[i].ID == ids[1] {
				return s.Servers[i].State
			}
		}
		return ""
	}
	if got := state(); got != model.Starting {
		t.Errorf("it is %s", got)
	}
	k.missing[ids[1]] = time.Now().Add(-2 * returns)
	if got := state(); got != model.Down {
		t.Errorf("later it is %s", got)
	}
}

// TestPlans starts a service from nothing, drains a server, and ends the service.
func TestPlans(t *testing.T) {
	l := newLab(t, 1)
	l.apply("", "limits { servers 2..4; }", 1)
	look := func() {
		t.Helper()
		l.keeper().planned = time.Time{}
		if err := l.reign.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.settle()
	}
	look()
	l.host()
	look()
	look()
	all := l.mirror.Servers("s")
	if len(all) != 2 || all[0].State != model.Up {
		t.Fatalf("there are %+v", all)
	}
	now, _ := l.manager.Status()
	if len(now.Services) != 1 || len(now.Services[0].Servers) != 2 {
		t.Errorf("the status is %+v", now)
	}
	if err := l.store.DeleteService(t.Context(), "s", true); err != nil {
		t.Fatal(err)
	}
	l.settle()
	look()
	for _, s := range l.mirror.Servers("s") {
		if !s.Stopping {
			t.Errorf("%s stays", s.ID)
		}
		if err := l.members["n1"].RemoveServer(t.Context(), "s", s.ID); err != nil {
			t.Fatal(err)
		}
	}
	l.settle()
	if err := l.reign.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.settle()
	if _, there := l.mirror.Service("s"); there {
		t.Error("the service is still there")
	}
}
