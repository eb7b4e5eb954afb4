package network

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// forgery is a packet of VXLAN, VNI 1, for a node's address, with a datagram for one of its
// containers in it, as from another container of the cluster.
func forgery(to *member, i int, from string, port uint16, text string) []byte {
	v := to.n.Config
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to.Address(i))
	u := slices.Concat(be16(9), be16(port), be16(uint16(8+len(text))), []byte{0, 0}, []byte(text))
	if s := ^transportSum(src, dst, 17, u); s != 0 {
		binary.BigEndian.PutUint16(u[6:], s)
	} else {
		u[6], u[7] = 0xff, 0xff // 0 would be none
	}
	var kind uint16
	var packet []byte
	if src.Is4() {
		kind = 0x0800
		h := slices.Concat([]byte{0x45, 0}, be16(uint16(20+len(u))), []byte{0, 0, 0x40, 0, 64, 17, 0, 0}, src.AsSlice(), dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], ^sum(h))
		packet = append(h, u...)
	} else {
		kind = 0x86dd
		packet = slices.Concat([]byte{0x60, 0, 0, 0}, be16(uint16(len(u))), []byte{17, 64}, src.AsSlice(), dst.AsSlice(), u)
	}
	mac := overlay.VTEPMAC(v.Address, 1)
	return slices.Concat([]byte{8, 0, 0, 0, 0, 0, 1, 0}, mac, []byte{2, 0, 0, 0, 0, 1}, be16(kind), packet)
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// cast sends a datagram from a namespace.
func cast(t *testing.T, from *netnstest.NS, to string, payload []byte) {
	t.Helper()
	c, err := from.Dial("udp", to, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(payload); err != nil {
		t.Errorf("send to %s: %v", to, err)
	}
}

// Packets of VXLAN from whoever is no node are dropped and counted; a node's are not, which
// shows that it isn't for another fault.
func TestClusterForgedPackets(t *testing.T) {
	t.Parallel()
	underlays(t, func(t *testing.T, v6 bool) {
		c := newCluster(t, 2, v6)
		stranger := netnstest.New(t)
		c.plug(stranger, 200)
		c.start()
		a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
		node1, node2 := c.nodes[0], c.nodes[1]
		underlay := func(n *node.Node) string { return net.JoinHostPort(n.Config.Address.String(), "4789") }
		for i := range 2 {
			inbox := a.NS.ListenPacket("udp", net.JoinHostPort(a.Address(i), "0"))
			port := uint16(inbox.LocalAddr().(*net.UDPAddr).Port)
			cast(t, node2.NS, underlay(node1), forgery(a, i, b.Address(i), port, "node"))
			gets(t, inbox, "node")

			before := dropped(t, node1, firewall.UnknownVTEP, "eth0")
			cast(t, stranger, underlay(node1), forgery(a, i, b.Address(i), port, "stranger"))
			rises(t, node1, firewall.UnknownVTEP, "eth0", before)

			// The container's own node would be the sender for the other one, by
			// masquerading, and inside the tunnel it is the container.
			inbox2 := b.NS.ListenPacket("udp", net.JoinHostPort(b.Address(i), "0"))
			port2 := uint16(inbox2.LocalAddr().(*net.UDPAddr).Port)
			packet := forgery(b, i, a.Address(i), port2, "container")
			for _, forged := range []struct {
				to      string
				counted *node.Node
				link    string
			}{
				{node.Underlay(2).String(), node1, "fb1"},
				{underlay6(2).String(), node1, "fb1"},
				{"10.88.2.1", node2, "fx1"},
				{"fd00:88:0:2::1", node2, "fx1"},
				{node.Underlay(1).String(), node1, "fb1"},
				{underlay6(1).String(), node1, "fb1"},
				{"10.88.1.1", node1, "fb1"},
				{"fd00:88:0:1::1", node1, "fb1"},
			} {
				before := dropped(t, forged.counted, firewall.ForgedVXLAN, forged.link)
				cast(t, a.NS, net.JoinHostPort(forged.to, "4789"), packet)
				rises(t, forged.counted, firewall.ForgedVXLAN, forged.link, before)
			}

			// What is sent last is what arrives first.
			cast(t, node2.NS, underlay(node1), forgery(a, i, b.Address(i), port, "last"))
			gets(t, inbox, "last")
			cast(t, node1.NS, underlay(node2), forgery(b, i, a.Address(i), port2, "last"))
			gets(t, inbox2, "last")
		}
		reach(t, "a", a.NS, b)
		leave(a, b)
	})
}

// gets fails the test unless the next datagram has a text.
func gets(t *testing.T, inbox net.PacketConn, want string) {
	t.Helper()
	buf := make([]byte, 100)
	_ = inbox.SetReadDeadline(time.Now().Add(patience))
	if n, _, err := inbox.ReadFrom(buf); err != nil || !bytes.Equal(buf[:n], []byte(want)) {
		t.Errorf("got %q, %v; want %q", buf[:n], err, want)
	}
}

// rises waits until a node has counted a packet that was dropped.
func rises(t *testing.T, n *node.Node, reason, link string, before uint64) {
	t.Helper()
	end := time.Now().Add(patience)
	for dropped(t, n, reason, link) != before+1 {
		if time.Now().After(end) {
			t.Errorf("%s has dropped %d packets as %s from %s, want %d", n.Config.Node, dropped(t, n, reason, link), reason, link, before+1)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Networks don't see each other, on one node and across nodes.
func TestClusterNetworksAreIsolated(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false)
	for i, n := range c.nodes {
		n.Config.Networks = append(n.Config.Networks, node.NewNetwork("green", 2, i+1))
	}
	c.start()
	blue1, blue2 := c.contain(1, "falcon", "blue1"), c.contain(2, "falcon", "blue2")
	green1, green2 := c.contain(1, "green", "green1"), c.contain(2, "green", "green2")
	reach(t, "blue1", blue1.NS, blue2)
	reach(t, "green1", green1.NS, green2)
	for _, from := range []*member{blue1, green1} {
		to := []*member{green1, green2}
		if from == green1 {
			to = []*member{blue1, blue2}
		}
		for _, m := range to {
			deaf(t, from.ID, from.NS, m)
		}
	}
	for _, bridge := range []string{"fb1", "fb2"} {
		c.nodes[0].Eventually(func() error {
			if dropped(t, c.nodes[0], firewall.Crossed, bridge) == 0 {
				return fmt.Errorf("nothing that came by %s was counted", bridge)
			}
			return nil
		})
	}
	// Nor to the gateways of the other: they are the node, not the network.
	for _, gateway := range []string{"10.89.1.1", "10.89.2.1", "fd00:89:0:1::1", "fd00:89:0:2::1"} {
		l := []*netnstest.NS{c.nodes[0].NS, c.nodes[1].NS}[map[string]int{"10.89.2.1": 1, "fd00:89:0:2::1": 1}[gateway]]
		echo := l.Echo("udp", net.JoinHostPort(gateway, "0"))
		if err := blue1.NS.Try("udp", echo, 150*time.Millisecond); err == nil {
			t.Errorf("blue1 reaches the gateway %s of green", gateway)
		}
		if err := green1.NS.Try("udp", echo, patience); err != nil {
			t.Errorf("green1 to its gateway %s: %v", gateway, err)
		}
	}
	leave(blue1, blue2, green1, green2)
}
