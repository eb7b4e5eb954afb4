package network

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// Flows that are fast don't notice that agents die and are replaced: none is lost, and the
// next agent goes on with the same maps.
func TestFastAgentsRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false)
	for _, n := range c.nodes {
		copyBinaries(t, n)
	}
	c.start()
	a, beside, b := c.contain(1, "falcon", "a"), c.contain(1, "falcon", "beside"), c.contain(2, "falcon", "b")
	isOpen(t, c.nodes...)
	var owned []string
	for _, n := range c.nodes {
		_, maps := attachedTo(t, n)
		owned = append(owned, fmt.Sprint(maps))
	}
	far, near := number(t, a, b, 0, 0), number(t, a, beside, 1, 0)
	streams := []*stream{flow(t, b, a, 0), flow(t, a, beside, 0)}
	fast := func(when string) {
		t.Helper()
		before := []uint64{taken(t, c.nodes[0], "out"), taken(t, c.nodes[0], "local"), taken(t, c.nodes[0], "tunnel"), taken(t, c.nodes[1], "wire")}
		c.nodes[0].Eventually(func() error {
			now := []uint64{taken(t, c.nodes[0], "out"), taken(t, c.nodes[0], "local"), taken(t, c.nodes[0], "tunnel"), taken(t, c.nodes[1], "wire")}
			for i := range now {
				if now[i] < before[i]+50 {
					return fmt.Errorf("%s, of flow %d: %d packets took the shortcut", when, i, now[i]-before[i])
				}
			}
			return nil
		})
	}
	fast("in peace")
	for round := range 3 {
		for _, n := range c.nodes {
			n.Kill()
		}
		far.goOn("with dead agents", 500)
		near.goOn("with dead agents", 500)
		for _, n := range c.nodes {
			if round == 2 {
				replaceBinary(t, n)
			}
			n.Start()
		}
		fast("with agents that were killed and started again")
	}
	for _, n := range c.nodes {
		n.Stop()
		replaceBinary(t, n)
		n.Start()
		fast("after an upgrade")
	}
	for i, n := range c.nodes {
		if _, maps := attachedTo(t, n); fmt.Sprint(maps) != owned[i] {
			t.Errorf("node %d has other maps: %v, before %v", i+1, maps, owned[i])
		}
	}
	for _, s := range streams {
		s.goOn("at the end")
		s.end()
	}
	far.end()
	near.end()
	leave(a, beside, b)
}

// Rules that were made while no agent heard of them are in force for fast flows when there
// is one again.
func TestFastUnheard(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	n := c.nodes[0]
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	run(t, n, "nft", "add table inet site; add chain inet site gate { type filter hook forward priority 0; }")
	isOpen(t, c.nodes...)
	known := programs(t, n)
	s := number(t, a, b, 0, 0)
	s.becomes(n, known, "fast", "")
	n.Kill()
	run(t, n, "nft", "add rule inet site gate ip daddr "+b.Address(0)+" drop")
	n.Start()
	s.stops("a rule that was made before the agent's start", time.Now())
	run(t, n, "nft", "delete table inet site")
	s.goOn("without the rule", 100)
	s.abort()
	leave(a, b)
}

// The programs of a dead agent stop when its lease ends, without a packet lost, and go on
// with the next agent.
func TestFastLease(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	n := c.nodes[0]
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	isOpen(t, c.nodes...)
	known := programs(t, n)
	s := number(t, a, b, 0, 0)
	s.becomes(n, known, "fast", "")
	n.Kill()
	count := func() uint64 {
		t.Helper()
		counts, err := known.Counts()
		if err != nil {
			t.Fatal(err)
		}
		return counts.Taken["out"]
	}
	before := count()
	s.goOn("with a dead agent", 200)
	if now := count(); now < before+100 {
		t.Errorf("with a dead agent %d packets took the shortcut", now-before)
	}
	leaseEnds(t, n)
	n.Eventually(func() error { // the programs' clock ticks slowly
		before = count()
		s.goOn("at the end of the lease", 50)
		if now := count(); now != before {
			return fmt.Errorf("%d packets still took the shortcut", now-before)
		}
		return nil
	})
	s.goOn("after the lease", 500)
	if now := count(); now != before {
		t.Errorf("after the lease %d packets took the shortcut", now-before)
	}
	n.Start()
	isOpen(t, n)
	s.becomes(n, known, "fast", "")
	s.goOn("with the next agent", 500)
	s.end()
	leave(a, b)
}

// An agent whose configuration says off takes away what those before it attached.
func TestFastOff(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	isOpen(t, c.nodes...)
	s := number(t, a, b, 0, 0)
	rising(t, c.nodes[0], 100, "out")
	for _, n := range c.nodes {
		n.Stop()
		n.Config.Shortcut.Mode, n.Config.Priority.Mode, n.Config.Pipeline.Mode = "off", "off", "off"
		n.Start()
		if names, _ := attachedTo(t, n); len(names) > 0 {
			t.Errorf("%s has %v", n.Config.Node, names)
		}
		if off := shortcutOf(t, n).Off; !strings.Contains(off, "configuration") {
			t.Errorf("the shortcut is off because of %q", off)
		}
	}
	s.goOn("without", 500)
	// The shortcut alone may be off.
	for _, n := range c.nodes {
		n.Stop()
		n.Config.Priority.Mode = "sync"
		n.Start()
	}
	still(t, c.nodes[0], s, 500)
	for _, n := range c.nodes {
		n.Stop()
		n.Config.Shortcut.Mode = "auto"
		n.Start()
	}
	isOpen(t, c.nodes...)
	rising(t, c.nodes[0], 100, "out")
	rising(t, c.nodes[1], 100, "wire")
	s.end()
	leave(a, b)
}

// What is attached for a network goes with it.
func TestFastNetworkRemoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false)
	n := c.nodes[0]
	n.Config.Networks = append(n.Config.Networks, node.NewNetwork("green", 2, 1))
	c.nodes[1].Config.Networks = append(c.nodes[1].Config.Networks, node.NewNetwork("green", 2, 2))
	c.start()
	a, b := c.contain(1, "green", "a"), c.contain(2, "green", "b")
	isOpen(t, c.nodes...)
	s := number(t, a, b, 0, 0)
	rising(t, n, 100, "out")
	s.end()
	leave(a, b)
	n.Stop()
	n.Config.Networks = n.Config.Networks[:1]
	n.Start()
	n.Eventually(func() error {
		names, _ := attachedTo(t, n)
		for _, name := range names {
			if !strings.HasPrefix(name, "eth0 ") && !strings.HasPrefix(name, "fx1 ") {
				return fmt.Errorf("there are %v", names)
			}
		}
		if len(names) != 3 { // wire, tunnel, sent
			return fmt.Errorf("there are %v", names)
		}
		return nil
	})
}
