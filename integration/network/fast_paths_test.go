package network

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// fastUnderlays runs f for each kind of underlay.
func fastUnderlays(t *testing.T, f func(t *testing.T, c *cluster)) {
	for _, kind := range []string{"IPv4", "IPv6", "on top"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, kind == "IPv6")
			for i, n := range c.nodes {
				n.Config.Networks[0].MTU = 1500 // more than fits
				if kind == "on top" {
					onTop(t, n, i+1)
				}
			}
			f(t, c.start())
		})
	}
}

// onTop moves node i's address to a link on top of its eth0, as a VLAN's would be.
func onTop(t *testing.T, n *node.Node, i int) {
	t.Helper()
	address := node.Underlay(i).String() + "/24"
	h := n.NS.Netlink()
	parent, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	n.NS.Unaddress("eth0", address)
	if err := h.LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "top0", ParentIndex: parent.Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Fatal(err)
	}
	n.NS.SetSysctl("net/ipv4/conf/all/arp_ignore", "1") // others send to top0, not to eth0
	n.NS.Up("top0")
	n.NS.Address("top0", address)
}

// Flows take the shortcut, and what arrives is what arrives without it.
func TestFastPaths(t *testing.T) {
	t.Parallel()
	fastUnderlays(t, func(t *testing.T, c *cluster) {
		a, beside, b := c.contain(1, "falcon", "a"), c.contain(1, "falcon", "beside"), c.contain(2, "falcon", "b")
		isOpen(t, c.nodes...)
		known := programs(t, c.nodes[0])
		for i := range 2 {
			far, near := number(t, a, b, i, 0), number(t, a, beside, i, 0)
			rising(t, c.nodes[0], 1000, "out")
			rising(t, c.nodes[1], 1000, "wire")
			rising(t, c.nodes[0], 1000, "local")
			far.becomes(c.nodes[0], known, "fast", "normal")
			far.end()
			near.end()

			before := []uint64{taken(t, c.nodes[0], "out"), taken(t, c.nodes[1], "tunnel"), taken(t, c.nodes[0], "local")}
			transfer(t, a.NS, b.NS, b.Address(i), 8<<20)
			transfer(t, b.NS, a.NS, a.Address(i), 4<<20)
			transfer(t, a.NS, beside.NS, beside.Address(i), 8<<20)
			for j, now := range []uint64{taken(t, c.nodes[0], "out"), taken(t, c.nodes[1], "tunnel"), taken(t, c.nodes[0], "local")} {
				if now < before[j]+20 {
					t.Errorf("IP version %d: %d packets of TCP took the shortcut at %s", []int{4, 6}[i], now-before[j], []string{"out", "tunnel", "local"}[j])
				}
			}
			for _, to := range []*member{b, beside} {
				exceptions(t, c, a, to, i)
			}
		}
		if r, err := c.nodes[0].Report(); err != nil || len(r.Drops) > 0 {
			t.Errorf("dropped %+v, %v", r.Drops, err)
		}
		leave(a, beside, b)
	})
}

// exceptions sends what the kernel has to handle on a flow that takes the shortcut.
func exceptions(t *testing.T, c *cluster, from, to *member, i int) {
	t.Helper()
	n := c.nodes[0]
	conn, err := from.NS.Dial("udp", to.echo[2*i+1], patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	warm := func() {
		t.Helper()
		before := taken(t, n)
		for end := time.Now().Add(patience); taken(t, n) < before+10; {
			if time.Now().After(end) {
				t.Fatalf("to %s: the flow does not take the shortcut", to.ID)
			}
			for range 20 {
				bounce(t, conn, 100)
			}
		}
	}
	warm()
	for _, size := range []int{1400, 3000, 20000, 100, 60000, 1000} { // fragments, and none
		bounce(t, conn, size)
	}
	conn.Close()
	if conn, err = from.NS.Dial("udp", to.echo[2*i+1], patience); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	warm()
	if to.n == from.n {
		return // of one link: no router between
	}
	hops := func(n int) {
		control(t, conn, func(fd int) error {
			if i == 0 {
				return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, n), unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1))
			}
			return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, n), unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1))
		})
	}
	// Each node is a router.
	for ttl := 1; ttl <= 2; ttl++ {
		hops(ttl)
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err := conn.Write([]byte("too far"))
		if err == nil {
			_, err = conn.Read(make([]byte, 100))
		}
		if !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("to %s, TTL %d: %v, want that it's exceeded", to.ID, ttl, err)
		}
	}
	hops(64)
	bounce(t, conn, 100)
	tooBig(t, conn, from, i)
}

// tooBig sends more than the tunnel takes, of a container that has a larger MTU.
func tooBig(t *testing.T, conn net.Conn, from *member, i int) {
	t.Helper()
	fits := 1500 - header4 - []int{20, 40}[i] - 8
	if from.n.Config.Address.Is6() {
		fits += header4 - header6
	}
	forbidFragments(t, conn)
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err := conn.Write(make([]byte, fits+1))
	if err == nil {
		_, err = conn.Read(make([]byte, 2000))
	}
	if !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("%d bytes, one more than fits: %v", fits+1, err)
	}
	bounce(t, conn, fits)
}

// bounce sends a datagram to an echo server; again, if nothing comes: to who is told what
// fits by the loss of the first.
func bounce(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	sent, got := make([]byte, size), make([]byte, 65536)
	_, _ = rand.Read(sent)
	var n int
	var err error
	_ = conn.SetDeadline(time.Time{})
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err = conn.Write(sent); err != nil && !errors.Is(err, unix.EMSGSIZE) {
			t.Fatalf("send %d bytes: %v", size, err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err = conn.Read(got); err == nil {
			break
		}
	}
	if err != nil || !bytes.Equal(got[:n], sent) {
		t.Fatalf("of %d bytes %d came back, or others: %v", size, n, err)
	}
}

// A flow that begins while others are fast, and one that pauses, lose nothing at the moment
// that they leave the kernel's path.
func TestFastSwitch(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	a, beside, b := c.contain(1, "falcon", "a"), c.contain(1, "falcon", "beside"), c.contain(2, "falcon", "b")
	isOpen(t, c.nodes...)
	for round := range 20 {
		to := []*member{b, beside}[round%2]
		s := number(t, a, to, round/2%2, 0)
		s.goOn(fmt.Sprintf("in round %d", round), 300)
		// All flows of both nodes go back, and leave again.
		for _, n := range c.nodes {
			elsewhere(n.NS)
		}
		s.goOn("after routes changed", 300)
		s.end()
	}
	if now := taken(t, c.nodes[0]); now == 0 {
		t.Error("nothing took the shortcut")
	}
	leave(a, beside, b)
}

// elsewhere changes a route that none of the test's packets goes by.
func elsewhere(ns *netnstest.NS) {
	ns.Address("lo", "198.51.100.1/32")
	ns.Unaddress("lo", "198.51.100.1/32")
}
