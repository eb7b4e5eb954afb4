package host_test

import (
	"testing"
)

// TestMoveOvertaken gives an actor to a third host while it is in doubt whether it has moved: as
// when it moved and moved on, or its node was lost for a time. What waits for it goes to that
// host; the one that had it doesn't serve it once more.
func TestMoveOvertaken(t *testing.T) {
	c := newCluster(t, "a1", "a2", "a3")
	a := c.on("a1", "turn", 0)
	c.must("a1", a, "inc", nil)
	c.agents["a1"].Unavailable.Store(true)
	moved := make(chan error)
	go func() {
		_, err := c.move(a, "a2")
		moved <- err
	}()
	eventually(t, "it is in doubt", func() bool {
		return c.agents["a1"].Commits.Load() > 0
	})
	called := make(chan string)
	go func() { called <- c.must("a1", a, "inc", nil) }()
	c.authority.Except(a, "a3")
	if err := <-moved; err == nil {
		t.Error("it has moved to the second host")
	}
	// It begins anew there, as a1's state was given up.
	if got := <-called; got != "1" {
		t.Errorf("the message that waited is answered %s, want 1", got)
	}
	c.agents["a1"].Unavailable.Store(false)
	for i, server := range []string{"a2", "a1", "a3"} {
		if got := c.must(server, a, "inc", nil); got != []string{"2", "3", "4"}[i] {
			t.Errorf("from %s: %s", server, got)
		}
	}
}
