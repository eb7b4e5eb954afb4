package network

import (
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// containAs is contain with a class, and rules of flows that have others.
func (c *cluster) containAs(i int, id, class string, rules ...map[string]any) *member {
	c.t.Helper()
	n := c.nodes[i-1]
	plugin := node.Network("falcon")
	plugin["priority"] = map[string]any{"default": class, "rules": append([]map[string]any{}, rules...)}
	m := &member{Container: n.Container(id), n: n, list: n.NamedList("falcon", "1.1.0", plugin)}
	n.MustAdd(m.list, m.Container)
	for j := range m.echo {
		m.echo[j] = m.NS.Echo([]string{"tcp", "udp"}[j%2], net.JoinHostPort(m.Address(j/2), "0"))
	}
	return m
}

// Flows have the classes that their containers' configuration gives them, at both ends.
func TestFastClasses(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	const port = 11211
	a, b := c.containAs(1, "a", "high"), c.contain(2, "falcon", "b")
	d := c.containAs(2, "d", "low", map[string]any{"proto": "udp", "port": port, "cidr": "10.88.1.0/24", "class": "high"})
	isOpen(t, c.nodes...)
	known1, known2 := programs(t, c.nodes[0]), programs(t, c.nodes[1])

	byDefault := number(t, a, b, 0, 0)
	byDefault.becomes(c.nodes[0], known1, "fast", "high")
	byDefault.becomes(c.nodes[1], known2, "fast", "normal") // b's
	back := number(t, b, a, 1, 0)
	back.becomes(c.nodes[0], known1, "fast", "high")
	byRule := number(t, a, d, 0, port)
	byRule.becomes(c.nodes[1], known2, "fast", "high")
	otherPort := number(t, a, d, 0, 0)
	otherPort.becomes(c.nodes[1], known2, "fast", "low")
	otherFamily := number(t, a, d, 1, port)
	otherFamily.becomes(c.nodes[1], known2, "fast", "low")
	for _, n := range c.nodes { // both have somebody who is to go first
		n.Eventually(func() error {
			if steered := shortcutOf(t, n).Steered; steered["promoted"] < 100 {
				return fmt.Errorf("steered were %v", steered)
			}
			return nil
		})
	}
	c.nodes[1].Eventually(func() error {
		if steered := shortcutOf(t, c.nodes[1]).Steered; steered["deferred"] < 100 {
			return fmt.Errorf("steered were %v", steered)
		}
		return nil
	})
	for _, s := range []*sequence{byDefault, back, byRule, otherPort, otherFamily} {
		s.endsWith(0) // a flow's first packets have its container's class, and may be overtaken
	}
	leave(a, b, d)
}

// Without anybody who asked for class high, nothing is attached that would sort packets.
func TestFastClassesUnused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	a, b := c.containAs(1, "a", "low"), c.contain(2, "falcon", "b")
	isOpen(t, c.nodes...)
	s := number(t, b, a, 0, 0)
	rising(t, c.nodes[0], 100, "wire")
	names, _ := attachedTo(t, c.nodes[0])
	want := 2 + 2 + 1 // of the container, of fx1, of eth0
	if len(names) != want {
		t.Errorf("attached are %v, want %d", names, want)
	}
	high := c.containAs(1, "high", "high")
	isOpen(t, c.nodes[0])
	if names, _ := attachedTo(t, c.nodes[0]); len(names) != want+2+1 {
		t.Errorf("with somebody who asks for class high, attached are %v, want %d", names, want+2+1)
	}
	high.n.MustDel(high.list, high.Container)
	if names, _ := attachedTo(t, c.nodes[0]); len(names) != want {
		t.Errorf("after that, attached are %v, want %d", names, want)
	}
	s.endsWith(0) // those that waited when sorting began or ended may be overtaken
	leave(a, b)
}

// A reservation holds for the packets of flows that there are from when it is answered on.
func TestFastReserve(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false)
	n := c.nodes[1]
	c.start()
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	other := c.containAs(2, "other", "high") // from now on packets are sorted
	isOpen(t, c.nodes...)
	known := programs(t, n)
	s := number(t, a, b, 0, 0)
	s.becomes(n, known, "fast", "normal")
	promoted := func() uint64 {
		t.Helper()
		counts, err := known.Counts()
		if err != nil {
			t.Fatal(err)
		}
		return counts.Steered["promoted"]
	}
	reserve := agent.Reservation{ContainerID: "b", Class: priority.High, Owner: "test"}
	for round := range 5 {
		before, begin := promoted(), time.Now()
		if _, err := agent.Reserve(t.Context(), n.Root(), reserve, 0); err != nil {
			t.Fatal(err)
		}
		answered := time.Now()
		for promoted() == before {
			if time.Since(answered) > soon {
				t.Fatalf("%s after a reservation no packet is of its class", soon)
			}
		}
		t.Logf("round %d: answered after %s, the first packet %s later", round, answered.Sub(begin), time.Since(answered))
		s.becomes(n, known, "fast", "high")
		if ended, err := agent.Release(t.Context(), n.Root(), "b", "test"); err != nil || len(ended) != 1 {
			t.Fatalf("released %v, %v", ended, err)
		}
		s.becomes(n, known, "fast", "normal")
		s.goOn("after the release", 50)
		before = promoted()
		s.goOn("after the release", 100)
		if now := promoted(); now != before {
			t.Errorf("after the release %d packets were of class high", now-before)
		}
	}
	// By the command, and over a restart of the agent.
	if out, err := n.Falcond("reserve", "--class", "high", "b"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.becomes(n, known, "fast", "high")
	n.Kill()
	n.Start()
	isOpen(t, n)
	s.becomes(n, known, "fast", "high")
	if out, err := n.Falcond("release", "b"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.becomes(n, known, "fast", "normal")
	s.endsWith(0)
	t.Logf("%d datagrams were overtaken by those of a higher class", s.late.Load())
	leave(a, b, other)
}

// Packets have the class of their DSCP where that is trusted, and only there.
func TestFastDSCP(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false)
	c.nodes[1].Config.Priority.TrustDSCP = true
	c.start()
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	fixed := c.containAs(2, "fixed", "normal", map[string]any{"proto": "udp", "class": "low"})
	isOpen(t, c.nodes...)
	known1, known2 := programs(t, c.nodes[0]), programs(t, c.nodes[1])
	for i := range 2 {
		for _, to := range []*member{b, fixed} {
			s := sequenceBetween(t, a, to, i, 0)
			control(t, s.from.(net.Conn), func(fd int) error {
				if i == 0 {
					return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, 46<<2)
				}
				return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 46<<2)
			})
			s.begin()
			s.becomes(c.nodes[0], known1, "fast", "normal")
			s.becomes(c.nodes[1], known2, "fast", map[*member]string{b: "high", fixed: "low"}[to])
			s.endsWith(0) // its first packets have the container's class, and may be overtaken
		}
	}
	leave(a, b, fixed)
}
