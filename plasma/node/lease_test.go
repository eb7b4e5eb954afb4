package node

import (
	"testing"

	"github.com/peregrine-dev/peregrine/plasma/place"
)

// TestLeaseLost: a host that could lose its actors gets no lease when its node had none for a
// time, until it has registered again: by then it knows what others got meanwhile.
func TestLeaseLost(t *testing.T) {
	l := newLab(t)
	spec := "name = \"s\"\nimage = \"docker.io/library/s:1\"\nrelocate = true\n"
	if _, err := l.store.PutService(t.Context(), place.Service{Name: "s", Spec: spec}); err != nil {
		t.Fatal(err)
	}
	l.begin()
	l.server("s-1")
	l.registered("s-1", 1)
	l.own("s-1")
	c := l.client()
	l.add(c, "a", "2", "2")
	a, err := l.node.agentOf("s-1")
	if err != nil {
		t.Fatal(err)
	}
	if a.lease() <= 1 {
		t.Error("a host that has registered has no lease")
	}
	// As if the node had joined anew.
	a.mu.Lock()
	a.under--
	a.mu.Unlock()
	if a.lease() != 0 {
		t.Error("a host has a lease under another one of the node's")
	}
	l.registered("s-1", 2)
	l.until("it has a lease again", func() bool { return a.lease() > 1 })
	l.add(c, "a", "1", "3")
}
