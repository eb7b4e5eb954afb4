package host_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestCall(t *testing.T) {
	c := newCluster(t, "a1", "a2", "b1") // a1 and a2 share a node
	for _, kind := range []string{"turn", "periodic", "none"} {
		for _, at := range []string{"a1", "a2", "b1"} {
			to := c.on(at, kind, 0)
			for n, from := range []string{"a1", "a2", "b1", "a1"} {
				if got := c.must(from, to, "inc", nil); got != string(rune('1'+n)) {
					t.Fatalf("%s at %s from %s: got %s, want %d", kind, at, from, got, n+1)
				}
			}
		}
	}
}

func TestErrors(t *testing.T) {
	c := newCluster(t, "a1", "a2")
	for _, from := range []string{"a1", "a2"} {
		to := c.on("a1", "turn", 0)
		before := c.ledger(from, to).Count
		var app *host.Error
		if _, err := c.call(from, to, "fail", nil); !errors.As(err, &app) || app.Text != "as asked" {
			t.Fatal(err)
		}
		if _, err := c.call(from, to, "panic", nil); !errors.As(err, &app) || !strings.Contains(app.Text, "panics") {
			t.Fatal(err)
		}
		if got := c.ledger(from, to).Count; got != before+1 {
			t.Fatalf("after an error and a panic: got %d, want %d", got, before+1)
		}
		if _, err := c.call(from, placement.Actor{Type: "what", Key: "1"}, "x", nil); !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		if _, err := c.call(from, c.on("a1", "short", 0), "x", nil); !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		if _, err := c.call(from, c.on("a1", "short", 0), "wait", nil); !errors.As(err, &app) || !strings.Contains(app.Text, "deadline") {
			t.Fatal(err)
		}
		if _, err := c.call(from, placement.Actor{}, "x", nil); !errdefs.IsInvalidArgument(err) {
			t.Fatal(err)
		}
		// A call that comes back, over one more.
		other := c.on("a2", "turn", 0)
		round := encode(forward{other, "call", encode(forward{to, "inc", nil})})
		if _, err := c.call(from, to, "call", round); !errors.As(err, &app) || !strings.Contains(app.Text, "comes back") {
			t.Fatal(err)
		}
	}
}

func TestRestart(t *testing.T) {
	c := newCluster(t, "a1", "a2")
	for kind, want := range map[string]string{"turn": "2", "periodic": "2", "none": "1"} {
		far, near := c.on("a1", kind, 0), c.on("a1", kind, 1)
		c.must("a2", far, "inc", nil)
		c.must("a1", near, "inc", nil)
		c.restart("a1")
		for _, to := range []placement.Actor{far, near} {
			if got := c.must("a2", to, "inc", nil); got != want {
				t.Errorf("%s: got %s, want %s", to, got, want)
			}
		}
	}
}

func TestSend(t *testing.T) {
	c := newCluster(t, "a1", "a2", "b1")
	for _, kind := range []string{"turn", "periodic", "none"} {
		from, to := c.on("a1", kind, 0), c.on("b1", kind, 1)
		for range 50 {
			c.must("a2", from, "relay", encode(to))
		}
		eventually(t, kind+": 50 messages", func() bool { return c.ledger("a1", to).Count == 50 })
		for i, n := range c.ledger("a1", to).Seen[from.Key] {
			if n != i+1 {
				t.Fatalf("%s: message %d is %d", kind, i+1, n)
			}
		}
	}
}

// TestCutShort: a turn that the host's end cuts short is done again, with what was sent to it.
func TestCutShort(t *testing.T) {
	c := newCluster(t, "a1", "a2")
	from, to := c.on("a2", "turn", 0), c.on("a1", "turn", 1)
	lingering.Store(true)
	c.must("a2", from, "send", encode(forward{To: to, Function: "linger"}))
	eventually(t, "the turn has begun", func() bool { return !lingering.Load() })
	c.restart("a1")
	eventually(t, "it is done again", func() bool { return c.ledger("a2", to).Count == 1 })
}

func TestTimers(t *testing.T) {
	c := newCluster(t, "a1", "a2")
	for _, kind := range []string{"turn", "periodic", "none"} {
		once, every := c.on("a1", kind, 0), c.on("a1", kind, 1)
		c.must("a1", once, "timer", nil)
		c.must("a1", every, "every", nil)
		eventually(t, "a timer", func() bool { return c.ledger("a1", once).Count == 1 })
		eventually(t, "timers", func() bool { return c.ledger("a1", every).Count > 3 })
		if _, err := c.move(every, "a2"); err != nil {
			t.Fatal(err)
		}
		n := c.ledger("a1", every).Count
		eventually(t, "timers elsewhere", func() bool { return c.ledger("a1", every).Count > n+2 })
		if kind == "turn" {
			c.restart("a2")
			n := c.ledger("a1", every).Count
			eventually(t, "timers after a restart", func() bool { return c.ledger("a1", every).Count > n+2 })
		}
		c.must("a1", every, "clear", nil)
		if got := c.ledger("a1", once).Count; got != 1 {
			t.Fatalf("a timer that was set once came %d times", got)
		}
	}
}

func TestDelete(t *testing.T) {
	c := newCluster(t, "a1")
	for _, kind := range []string{"turn", "periodic", "none"} {
		to := c.on("a1", kind, 0)
		c.must("a1", to, "inc", nil)
		c.must("a1", to, "delete", nil)
		if got := c.must("a1", to, "inc", nil); got != "1" {
			t.Errorf("%s: got %s after it was deleted, want 1", kind, got)
		}
	}
}

func TestMailbox(t *testing.T) {
	c := newClusterWith(t, func(o *host.Options) { o.Limits.Mailbox, o.Types[0].Timeout = 2, 300*time.Millisecond }, "a1")
	to := c.on("a1", "turn", 0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := make(chan error, 1)
	call := func() error {
		_, err := c.hosts["a1"].Call(ctx, to, "wait", nil)
		return err
	}
	go func() { first <- call() }()
	done := make(chan error)
	for range 8 {
		go func() { done <- call() }()
	}
	for range 5 { // of nine calls one has its turn and two wait; the first may be refused too
		if err := <-done; !errdefs.IsResourceExhausted(err) {
			t.Fatal(err)
		}
	}
	cancel()
	for range 3 {
		<-done
	}
	if err := <-first; !errors.Is(err, context.Canceled) && !errdefs.IsResourceExhausted(err) {
		t.Fatal(err)
	}
}

func TestPassivation(t *testing.T) {
	c := newClusterWith(t, func(o *host.Options) { o.Limits.Actors = 4 }, "a1")
	for round := range 3 {
		for i := range 40 {
			to := c.on("a1", "turn", i)
			eventually(t, "room in memory", func() bool {
				got, err := c.call("a1", to, "inc", nil)
				if err == nil && got != string(rune('1'+round)) {
					t.Fatalf("round %d: got %s", round, got)
				}
				return err == nil
			})
		}
	}
}

func TestClient(t *testing.T) {
	c := newClusterWith(t, func(o *host.Options) { o.Types[0].Timeout = 300 * time.Millisecond }, "a1", "b1")
	d := c.dirs("a-client")
	g, err := c.authority.Serve("", "a", d.Agent, c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	client, err := host.Dial(t.Context(), d.Agent, d.Peers)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, at := range []string{"a1", "b1"} {
		to := c.on(at, "turn", 0)
		for _, want := range []string{"1", "2"} {
			got, err := client.Call(t.Context(), to, "inc", nil)
			if err != nil || string(got) != want {
				t.Fatal(string(got), err)
			}
		}
		if err := client.Send(t.Context(), to, "fail", nil); err != nil {
			t.Fatal(err)
		}
	}
	// An answer that never comes ends with the caller's patience.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := client.Call(ctx, c.on("b1", "turn", 1), "wait", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}
