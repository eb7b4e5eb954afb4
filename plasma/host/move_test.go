package host_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestMove(t *testing.T) {
	c := newCluster(t, "a1", "a2", "b1")
	for _, kind := range []string{"turn", "periodic", "none"} {
		a := c.on("a1", kind, 0)
		for n, to := range []string{"a2", "b1", "a1", "b1"} {
			if got := c.must("a2", a, "inc", nil); got != strconv.Itoa(n+1) {
				t.Fatalf("%s before move %d: got %s", kind, n+1, got)
			}
			if _, err := c.move(a, to); err != nil {
				t.Fatal(err)
			}
			if got := c.authority.Owner(a).Server; got != to {
				t.Fatalf("%s has it, want %s", got, to)
			}
		}
		if kind != "turn" {
			continue
		}
		// The copies that were left are gone, and what is stored is where the actor is.
		for _, s := range []string{"a1", "a2", "b1"} {
			c.restart(s)
		}
		if got := c.must("a1", a, "inc", nil); got != "5" {
			t.Fatalf("after restarts: got %s, want 5", got)
		}
	}
}

func TestMoveRefused(t *testing.T) {
	c := newCluster(t, "a1", "a2")
	a := c.on("a1", "turn", 0)
	c.must("a1", a, "inc", nil)
	move := func(epoch uint64, to string) error {
		_, err := c.authority.MoveAt(t.Context(), c.dirs("a1").Control, a, to, newMove(), epoch)
		return err
	}
	for what, err := range map[string]error{
		"does not follow": move(9, "a2"),
		"a move from":     move(1, "a1"),
		"not there":       move(1, "b7"),
	} {
		if err == nil || !strings.Contains(err.Error(), what) && what != "not there" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := c.must("a2", a, "inc", nil); got != "2" {
		t.Fatalf("it stays: got %s, want 2", got)
	}
	// What the target was given for nothing is no obstacle.
	if _, err := c.move(a, "a2"); err != nil {
		t.Fatal(err)
	}
	if got := c.must("a1", a, "inc", nil); got != "3" {
		t.Fatalf("it has moved: got %s, want 3", got)
	}
}

// TestMoveInDoubt has plasmad not answer, or its answer get lost: the actor stands still.
func TestMoveInDoubt(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			c := newCluster(t, "a1", "a2")
			a := c.on("a1", "turn", 0)
			c.must("a1", a, "inc", nil)
			g := c.agents["a1"]
			if lost {
				g.Pause() // also the placement, by which the host would learn of it
				g.LoseAnswer.Store(true)
			} else {
				g.Unavailable.Store(true)
			}
			moved := make(chan error)
			go func() {
				_, err := c.move(a, "a2")
				moved <- err
			}()
			called := make(chan string)
			go func() { called <- c.must("a1", a, "inc", nil) }()
			select {
			case err := <-moved:
				t.Fatal("it moves without an answer:", err)
			case <-time.After(50 * time.Millisecond):
			}
			if lost {
				g.Resume()
			} else {
				g.Kill()
				g.Unavailable.Store(false)
				if err := g.Start(); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-moved; err != nil {
				t.Fatal(err)
			}
			if got := <-called; got != "2" {
				t.Fatalf("got %s, want 2", got)
			}
		})
	}
}

// TestMoveOfCallers moves actors that call each other at once.
func TestMoveOfCallers(t *testing.T) {
	c := newCluster(t, "a1", "a2")
	x, y := c.on("a1", "turn", 0), c.on("a1", "turn", 1)
	var wg sync.WaitGroup
	stop, cancel := context.WithCancel(t.Context())
	for range 4 {
		wg.Go(func() {
			for stop.Err() == nil {
				c.must("a2", x, "call", encode(forward{y, "inc", nil}))
			}
		})
	}
	for round := range 6 {
		to := []string{"a2", "a1"}[round%2]
		var moves sync.WaitGroup
		for _, a := range []placement.Actor{x, y} {
			moves.Go(func() {
				if _, err := c.move(a, to); err != nil {
					t.Error(err)
				}
			})
		}
		moves.Wait()
	}
	cancel()
	wg.Wait()
}

// TestOrder has clients and actors send numbers to actors that move all the time, and some hosts
// stop and start: each number arrives once and in order.
func TestOrder(t *testing.T) {
	servers := []string{"a1", "a2", "b1"}
	c := newCluster(t, servers...)
	targets := []placement.Actor{c.on("a1", "turn", 0), c.on("a2", "turn", 1), c.on("b1", "turn", 2)}
	relays := []placement.Actor{c.on("a1", "turn", 3), c.on("b1", "turn", 4)}
	const each = 60
	var senders, movers sync.WaitGroup
	stop, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i, s := range servers {
		senders.Go(func() {
			for n := range each {
				to := targets[i]
				if _, err := c.call(s, to, "add", encode(entry{s, n})); err != nil {
					t.Errorf("%s: %v", s, err)
				}
			}
		})
	}
	for i, r := range relays {
		senders.Go(func() {
			for range each {
				if _, err := c.call(servers[i], r, "relay", encode(targets[i])); err != nil {
					t.Error(err)
				}
			}
		})
	}
	movers.Go(func() {
		all := append(append([]placement.Actor{}, targets...), relays...)
		for stop.Err() == nil {
			a, to := all[rand.IntN(len(all))], servers[rand.IntN(len(servers))]
			if c.authority.Owner(a).Server == to {
				continue
			}
			if _, err := c.move(a, to); err != nil {
				t.Errorf("%s to %s: %v", a, to, err)
				return
			}
		}
	})
	senders.Wait()
	cancel()
	movers.Wait()
	if t.Failed() {
		return
	}
	for i, to := range targets {
		want := each
		if i < len(relays) {
			want += each
		}
		eventually(t, "all messages", func() bool { return c.ledger("a1", to).Count >= want })
		l := c.ledger("a1", to)
		if l.Count != want {
			t.Errorf("%s has %d messages, want %d", to, l.Count, want)
		}
		checkOrder(t, l)
	}
	epochs := map[placement.Actor]uint64{}
	for _, ch := range c.authority.History() {
		if ch.Owner.Epoch <= epochs[ch.Actor] {
			t.Errorf("%s: epoch %d after %d", ch.Actor, ch.Owner.Epoch, epochs[ch.Actor])
		}
		epochs[ch.Actor] = ch.Owner.Epoch
	}
}

func checkOrder(t *testing.T, l ledger) {
	t.Helper()
	for sender, seen := range l.Seen {
		for i := 1; i < len(seen); i++ {
			if seen[i] != seen[i-1]+1 {
				t.Errorf("%s: %d after %d", sender, seen[i], seen[i-1])
			}
		}
	}
}

func TestFreeze(t *testing.T) {
	c := newCluster(t, "a1", "a2")
	old, fresh := c.on("a1", "turn", 0), c.on("a1", "turn", 1)
	c.must("a1", old, "inc", nil)
	c.restart("a1") // it is stored, and not in memory
	actors, err := c.authority.Freeze(t.Context(), c.dirs("a1").Control, true)
	if err != nil || len(actors) != 1 || actors[0] != old {
		t.Fatal(actors, err)
	}
	if got := c.must("a2", old, "inc", nil); got != "2" {
		t.Fatal(got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := c.hosts["a2"].Call(ctx, fresh, "inc", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("an actor is made:", err)
	}
	done := make(chan string)
	go func() { done <- c.must("a2", fresh, "inc", nil) }()
	c.authority.Except(old, "a1")
	c.authority.Assign("a2")
	if got := <-done; got != "1" || c.authority.Owner(fresh).Server != "a2" {
		t.Fatal(got)
	}
	if _, err := c.authority.Freeze(t.Context(), c.dirs("a1").Control, false); err != nil {
		t.Fatal(err)
	}
	if got := c.must("a2", old, "inc", nil); got != "3" {
		t.Fatal(got)
	}
	if _, err := c.move(old, "a2"); err != nil {
		t.Fatal(err)
	}
	if got := c.must("a1", old, "inc", nil); got != "4" {
		t.Fatal(got)
	}
}

// TestDiskFull has nothing be stored for a while: what was not is not seen.
func TestDiskFull(t *testing.T) {
	c := newCluster(t, "a1", "a2")
	a, b := c.on("a1", "turn", 0), c.on("a2", "turn", 0)
	c.must("a1", a, "inc", nil)
	full := errors.New("no space left on device")
	c.hosts["a1"].FailStore(full)
	for _, from := range []string{"a1", "a2"} {
		for _, f := range []string{"inc", "relay"} {
			if got, err := c.call(from, a, f, encode(b)); err == nil || !strings.Contains(err.Error(), full.Error()) {
				t.Fatal(got, err)
			}
		}
	}
	if _, err := c.move(a, "a2"); err != nil { // the source stores nothing for it
		t.Fatal(err)
	}
	if _, err := c.move(a, "a1"); err == nil {
		t.Fatal("an actor comes though it can't be stored")
	}
	c.hosts["a1"].FailStore(nil)
	if got := c.must("a1", a, "inc", nil); got != "2" {
		t.Fatalf("got %s, want 2", got)
	}
	if _, err := c.move(a, "a1"); err != nil {
		t.Fatal(err)
	}
	c.must("a1", a, "relay", encode(b))
	eventually(t, "the message", func() bool { return c.ledger("a1", b).Count == 1 })
	if l := c.ledger("a1", b); l.Seen[a.Key][0] != 3 {
		t.Fatal(l)
	}
}

func TestLease(t *testing.T) {
	t.Parallel()
	c := prepare(t, func(*host.Options) {}, "a1")
	c.authority.Lease(int64(1500 * time.Millisecond))
	h, err := host.Start(t.Context(), c.options("a1"))
	if err != nil {
		t.Fatal(err)
	}
	c.hosts["a1"] = h
	a := c.on("a1", "none", 0)
	c.must("a1", a, "inc", nil)
	c.agents["a1"].Unavailable.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	eventually(t, "the lease lapses", func() bool {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := h.Call(ctx, a, "get", nil)
		return err != nil && strings.Contains(err.Error(), "lease")
	})
	c.agents["a1"].Unavailable.Store(false)
	if got := c.must("a1", a, "inc", nil); got != "2" {
		t.Fatalf("got %s, want 2", got)
	}
}

// TestAgentDies serves on without plasmad, and reports to the next.
func TestAgentDies(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a1", "a2")
	a, b := c.on("a1", "turn", 0), c.on("a2", "turn", 0)
	for _, g := range c.agents {
		g.Kill()
	}
	if got := c.must("a2", a, "call", encode(forward{b, "inc", nil})); got != "1" {
		t.Fatal(got)
	}
	for _, g := range c.agents {
		if err := g.Start(); err != nil {
			t.Fatal(err)
		}
	}
	reports := c.agents["a1"].Reports.Load()
	eventually(t, "a report", func() bool { return c.agents["a1"].Reports.Load() > reports })
	if _, err := c.move(a, "a2"); err != nil {
		t.Fatal(err)
	}
	if got := c.must("a1", a, "call", encode(forward{b, "inc", nil})); got != "2" {
		t.Fatal(got)
	}
}
