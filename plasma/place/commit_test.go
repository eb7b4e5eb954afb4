package place_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestCommit(t *testing.T) {
	c := start(t)
	s := c.servers(3)
	a := actor(1)
	first := c.move("m1", a, s[0], s[1], 2)
	for range 3 { // whoever asks again gets the same answer
		if refused := c.commit(s[0], first); refused[0] != "" {
			t.Fatal(refused)
		}
	}
	if o := c.owner(a); o != (placement.Owner{Server: s[1].Server, Epoch: 2}) {
		t.Fatalf("owner %v", o)
	}
	if refused := c.commit(s[1], c.move("m2", a, s[1], s[2], 3)); refused[0] != "" {
		t.Fatal(refused)
	}
	if refused := c.commit(s[0], first); refused[0] != "" {
		t.Errorf("asked again after the actor moved on: %v", refused)
	}
	if n := len(c.mirror().Moves("s")); n != 0 {
		t.Errorf("%d moves are left", n)
	}
}

func TestCommitIsRefused(t *testing.T) {
	c := start(t)
	s := c.servers(3)
	old := s[0]
	a := actor(1)
	forgotten := c.move("early", actor(2), s[0], s[1], 2)
	var err error
	s[0], err = c.node.Register(t.Context(), s[0])
	c.ok(err)
	if s[0].Instance != old.Instance+1 {
		t.Fatalf("instance %d after %d", s[0].Instance, old.Instance)
	}
	for i, test := range []struct {
		from   place.Instance
		change func(*api.Move)
		want   string
	}{
		{old, func(*api.Move) {}, "instance 2 of s-1 has registered after 1"},
		{place.Instance{Server: "s-1", Instance: 9}, func(*api.Move) {}, "never was an instance 9"},
		{s[2], func(*api.Move) {}, "is from s-1 to s-2 with epoch 2"},
		{s[0], func(m *api.Move) { m.To = s[2].Server }, "is from s-1 to s-2 with epoch 2"},
		{s[0], func(m *api.Move) { m.Epoch = 3 }, "is from s-1 to s-2 with epoch 2"},
		{s[0], func(m *api.Move) { m.Target = 7 }, "instance 7 of s-2 is not there"},
	} {
		id := fmt.Sprint("m", i)
		right := c.move(id, a, s[0], s[1], 2)
		wrong := asked(id, a, s[1], 2)
		test.change(wrong)
		if refused := c.commit(test.from, wrong); !strings.Contains(refused[0], test.want) {
			t.Errorf("%d: %q, want %q", i, refused, test.want)
		}
		// A refusal is for ever: an earlier request may still be under way.
		if refused := c.commit(s[0], right); !strings.Contains(refused[0], "there is no move "+id) {
			t.Errorf("%d: asked rightly afterwards: %q", i, refused)
		}
	}
	for _, test := range []struct {
		epoch uint64
		from  place.Instance
		want  string
	}{{1, s[0], "T/1 is of s-1 with epoch 1"}, {2, s[2], "T/1 is of s-1 with epoch 1"}} {
		if refused := c.commit(test.from, c.move(fmt.Sprint("e", test.epoch), a, test.from, s[1], test.epoch)); !strings.Contains(refused[0], test.want) {
			t.Errorf("%q, want %q", refused, test.want)
		}
	}
	if refused := c.commit(s[0], forgotten); !strings.Contains(refused[0], "there is no move early") {
		t.Errorf("a move of before the registration: %q", refused)
	}
	c.ok(c.node.Unregister(t.Context(), s[1]))
	if refused := c.commit(s[0], c.move("gone", a, s[0], s[1], 2)); !strings.Contains(refused[0], "instance 1 of s-2 is not there any more") {
		t.Errorf("to a target that has ended: %q", refused)
	}
	if o := c.owner(a); o.Server != s[0].Server {
		t.Errorf("owner %v", o)
	}
}

func TestCommitWhenTheSourceIsNotThere(t *testing.T) {
	c := start(t)
	s := c.servers(2)
	m := c.move("m", actor(1), s[0], s[1], 2)
	c.ok(c.node.Unregister(t.Context(), s[0]))
	if _, err := c.store.CommitMoves(t.Context(), "s", s[0].Server, s[0].Instance, []*api.Move{m}); !errdefs.IsUnavailable(err) {
		t.Errorf("%v, want unavailable: it may come back", err)
	}
	if _, err := c.store.CommitMoves(t.Context(), "s", s[0].Server, s[0].Instance, []*api.Move{m, m}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an actor twice: %v", err)
	}
}

// A batch with every outcome: what can move does.
func TestCommitMany(t *testing.T) {
	c := start(t)
	s := c.servers(3)
	var moves []*api.Move
	var start []place.Move
	for i := range 250 {
		to := s[1+i%2]
		start = append(start, place.Move{ID: fmt.Sprint("m", i), Actor: actor(i), From: s[0].Server, To: to.Server, Epoch: 2})
		m := asked(fmt.Sprint("m", i), actor(i), to, 2)
		if i%10 == 3 {
			m.Target = 99
		}
		moves = append(moves, m)
	}
	for range 2 { // the second time there is nothing left to do
		n, err := c.leader.StartMoves(t.Context(), "s", append(start, start...))
		c.ok(err)
		if n != 0 && n != 250 {
			t.Errorf("%d started", n)
		}
	}
	refused := c.commit(s[0], moves...)
	for i, r := range refused {
		if (r != "") != (i%10 == 3) {
			t.Fatalf("%d: %q", i, r)
		}
	}
	m := c.mirror()
	if n := m.ExceptionCount("s"); n != 225 || len(m.Moves("s")) != 0 {
		t.Errorf("%d exceptions, %d moves left", n, len(m.Moves("s")))
	}
}

// However a registration and commits of the instance before fall together: after it, none of
// those takes place, and all agree on what did.
func TestRegisterAgainstCommit(t *testing.T) {
	c := start(t)
	s := c.servers(2)
	taken := 0
	for round := range 8 {
		var moves []place.Move
		var ask []*api.Move
		for i := range 8 {
			a := actor(round*100 + i)
			id := a.Key
			moves = append(moves, place.Move{ID: id, Actor: a, From: s[0].Server, To: s[1].Server, Epoch: 2})
			ask = append(ask, asked(id, a, s[1], 2))
		}
		_, err := c.leader.StartMoves(t.Context(), "s", moves)
		c.ok(err)
		answers := make([]string, len(ask))
		var group sync.WaitGroup
		for i := range ask {
			group.Go(func() {
				for {
					refused, err := c.store.CommitMoves(t.Context(), "s", s[0].Server, s[0].Instance, ask[i:i+1])
					if errdefs.IsUnavailable(err) {
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					answers[i] = refused[0]
					return
				}
			})
		}
		next, err := c.node.Register(t.Context(), s[0])
		c.ok(err)
		// The placement of that moment is the last word.
		m := c.mirror()
		c.ok(m.Await(t.Context(), next.Revision))
		after := map[placement.Actor]placement.Owner{}
		for a, o := range m.Exceptions("s") {
			after[a] = o
		}
		group.Wait()
		for i := range ask {
			a := placement.Of(ask[i].GetActor())
			_, moved := after[a]
			if moved != (answers[i] == "") || c.owner(a).Server == s[1].Server != moved {
				t.Fatalf("round %d: %s moved: %v; answered %q", round, a, moved, answers[i])
			}
			if moved {
				taken++
			}
		}
		if left := m.Moves("s"); len(left) != 0 {
			t.Fatalf("%d moves are left", len(left))
		}
		s[0] = next
	}
	t.Logf("%d of %d were earlier than the registration", taken, 8*8)
}

func BenchmarkCommit(b *testing.B) {
	c := start(b)
	s := c.servers(2)
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		m := c.move(fmt.Sprint(n), actor(n), s[0], s[1], 2)
		b.StartTimer()
		if refused := c.commit(s[0], m); refused[0] != "" {
			b.Fatal(refused)
		}
	}
}

func BenchmarkCommitOf40(b *testing.B) {
	c := start(b)
	s := c.servers(2)
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		var moves []place.Move
		var ask []*api.Move
		for i := range 40 {
			a := actor(n*40 + i)
			moves = append(moves, place.Move{ID: a.Key, Actor: a, From: s[0].Server, To: s[1].Server, Epoch: 2})
			ask = append(ask, asked(a.Key, a, s[1], 2))
		}
		_, err := c.leader.StartMoves(b.Context(), "s", moves)
		c.ok(err)
		b.StartTimer()
		c.commit(s[0], ask...)
	}
}
