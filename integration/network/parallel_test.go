package network

import (
	"fmt"
	"sync"
	"testing"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// A hundred at once, as when a node comes back.
func TestHundredAtOnce(t *testing.T) {
	n := oneNode(t)
	list := n.List("1.1.0", node.Network("falcon"))
	var containers []*node.Container
	for i := range 100 {
		containers = append(containers, n.Container(fmt.Sprintf("c%d", i)))
	}
	all := func(what string, do func(*node.Container) error) {
		t.Helper()
		var calls sync.WaitGroup
		for _, c := range containers {
			calls.Go(func() {
				if err := do(c); err != nil {
					t.Errorf("%s of %s: %v", what, c.ID, err)
				}
			})
		}
		calls.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	all("ADD", func(c *node.Container) error { return n.Add(t.Context(), list, c) })
	has := map[string]string{}
	for _, c := range containers {
		for i := range 2 {
			if other, twice := has[c.Address(i)]; twice {
				t.Errorf("%s and %s both have %s", other, c.ID, c.Address(i))
			}
			has[c.Address(i)] = c.ID
		}
	}
	n.MustHold(containers...)
	echo := containers[99].NS.Echo("udp", at(containers[99], 0, "0"))
	for _, c := range containers[:10] {
		if err := c.NS.Try("udp", echo, patience); err != nil {
			t.Errorf("%s: %v", c.ID, err)
		}
	}
	all("CHECK", func(c *node.Container) error { return n.Check(t.Context(), list, c) })
	all("DEL", func(c *node.Container) error { return n.Del(t.Context(), list, c) })
	n.MustHold()
}
