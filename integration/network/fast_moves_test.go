package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// returns attaches a container to node i with the addresses that another had.
func (c *cluster) returns(i int, id string, with *member) *member {
	c.t.Helper()
	n := c.nodes[i-1]
	m := &member{Container: n.Container(id), n: n, list: n.NamedList("falcon", "1.1.0", node.Network("falcon"))}
	var ips []string
	for _, ip := range with.Result.IPs {
		ips = append(ips, ip.Address.String())
	}
	m.Capabilities = map[string]any{"ips": ips}
	n.MustAdd(m.list, m.Container)
	for j := range 2 {
		if m.Address(j) != with.Address(j) {
			c.t.Fatalf("%s has %s, want %s", id, m.Address(j), with.Address(j))
		}
	}
	return m
}

// A container goes, and its addresses come back elsewhere: flows reach who has them, and
// nobody's link is sent to in between.
func TestFastEndpointMoves(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, false)
	node1, node2, node3 := c.nodes[0], c.nodes[1], c.nodes[2]
	// Node 3 has nothing until it gets what node 2 has.
	file := filepath.Join(node1.Dir, "peers.toml")
	tell := func(nodes ...*node.Node) {
		t.Helper()
		var text strings.Builder
		for _, n := range nodes {
			writeNode(&text, n.Config)
		}
		if err := os.WriteFile(file+".new", []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	tell(node1, node2)
	for _, n := range c.nodes {
		n.Config.Peers.File = file
	}
	node1.Start()
	node2.Start()
	c.know(2)
	a, beside, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "beside"), c.contain(2, "falcon", "b")
	isOpen(t, node1, node2)
	const port = 7007
	far, near := number(t, a, b, 0, port), number(t, beside, b, 1, port)
	rising(t, node2, 100, "wire")
	rising(t, node2, 100, "local")

	// Of the old one its namespace stays, and what it still hears of is counted.
	node2.MustDel(b.list, b.Container)
	atEnd := []uint64{far.arrived.Load(), near.arrived.Load()}
	before, sent := taken(t, node2, "wire", "local"), far.sent.Load()
	for end := time.Now().Add(patience); far.sent.Load() < sent+500; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the sender stands")
		}
	}
	if now := taken(t, node2, "wire", "local"); now != before {
		t.Errorf("%d packets were sent to a link that is gone", now-before)
	}
	next := c.returns(2, "next", b)
	reached(t, next, port, far, near)
	rising(t, node2, 100, "wire")
	rising(t, node2, 100, "local")
	near.abort()

	// The subnets move to another node.
	node2.MustDel(next.list, next.Container)
	node2.MustDel(beside.list, beside.Container)
	node3.Config.Networks[0].Subnets = node2.Config.Networks[0].Subnets
	node3.Start()
	tell(node1, node3)
	last := c.returns(3, "last", b)
	before2 := taken(t, node2)
	reached(t, last, port, far)
	isOpen(t, node3)
	rising(t, node1, 100, "out")
	rising(t, node3, 100, "wire")
	if now := taken(t, node2); now != before2 {
		t.Errorf("%d packets took the shortcut at the node that has no container any more", now-before2)
	}
	for i, s := range []*sequence{far, near} {
		if now := s.arrived.Load(); now > atEnd[i] {
			t.Errorf("%d packets arrived where the address was before", now-atEnd[i])
		}
	}
	far.abort()
	leave(a, last)
}

// reached waits until packets of sequences arrive at a container.
func reached(t *testing.T, m *member, port int, all ...*sequence) {
	t.Helper()
	for i, s := range all {
		inbox := m.NS.ListenPacket("udp", net.JoinHostPort(m.Address(i), fmt.Sprint(port)))
		_ = inbox.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 2*datagramSize)
		for range 200 {
			n, from, err := inbox.ReadFrom(buf)
			if err != nil {
				t.Fatalf("%s: %v", m.ID, err)
			}
			if from.String() != s.from.LocalAddr().String() || n != datagramSize {
				t.Errorf("%s got %d bytes from %s", m.ID, n, from)
			}
		}
	}
}

// udpFrame is a datagram of a flow in a frame, as datagram's of other ports.
func udpFrame(dst, src net.HardwareAddr, from, to netip.AddrPort, body []byte) []byte {
	frame := datagram(dst, src, from.Addr().String(), to.Addr().String(), string(body))
	begin := len(frame) - len(body) - 8
	u := frame[begin:]
	binary.BigEndian.PutUint16(u, from.Port())
	binary.BigEndian.PutUint16(u[2:], to.Port())
	u[6], u[7] = 0, 0
	binary.BigEndian.PutUint16(u[6:], ^transportSum(from.Addr(), to.Addr(), unix.IPPROTO_UDP, u))
	return frame
}

// Nobody gets into another's flow by its being fast: what is forged is dropped and counted.
func TestFastHostile(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, false)
	stranger := netnstest.New(t)
	c.plug(stranger, 200)
	c.start()
	node1, node2, node3 := c.nodes[0], c.nodes[1], c.nodes[2]
	a, beside, evil, b := c.contain(1, "falcon", "a"), c.contain(1, "falcon", "beside"), c.contain(1, "falcon", "evil"), c.contain(2, "falcon", "b")
	isOpen(t, c.nodes...)
	known, atB := programs(t, node1), programs(t, node2)
	forge, link := newForger(t, evil.Container), attach.LinkName("evil", "eth0")
	macA, macEvil, bridge := macOf(t, a.NS, "eth0"), macOf(t, evil.NS, "eth0"), macOf(t, node1.NS, "fb1")
	forged := make([]byte, datagramSize)
	for i := range 2 {
		for _, to := range []*member{b, beside} {
			s := number(t, a, to, i, 0)
			s.becomes(node1, known, "fast", "")
			from, target := addrPort(s.from.LocalAddr()), addrPort(s.target)
			dst := bridge
			if to == beside {
				dst = macOf(t, beside.NS, "eth0")
			}
			for _, attack := range []struct {
				reason string
				frame  []byte
			}{
				{[]string{firewall.SpoofedIPv4, firewall.SpoofedIPv6}[i], udpFrame(dst, macEvil, from, target, forged)},
				{firewall.SpoofedMAC, udpFrame(dst, macA, from, target, forged)},
				{[]string{firewall.SpoofedIPv4, firewall.SpoofedIPv6}[i], udpFrame(dst, macEvil, target, from, forged)}, // the way back
			} {
				before := dropped(t, node1, attack.reason, link)
				for range 10 {
					if err := forge.send(attack.frame); err != nil {
						t.Fatal(err)
					}
				}
				node1.Eventually(func() error {
					if now := dropped(t, node1, attack.reason, link); now != before+10 {
						return fmt.Errorf("dropped %d as %s, want 10", now-before, attack.reason)
					}
					return nil
				})
			}
			if flow, _ := s.flow(known); flow.State != "fast" {
				t.Errorf("the flow is not fast any more: %+v", flow)
			}
			if to == b {
				// By VXLAN, from who is no node, and from a node that the sender isn't on.
				s.becomes(node2, atB, "fast", "")
				packet := slices.Concat([]byte{8, 0, 0, 0, 0, 0, 1, 0}, udpFrame(overlay.VTEPMAC(node2.Config.Address, 1), []byte{2, 0, 0, 0, 0, 1}, from, target, text(0)))
				before := dropped(t, node2, firewall.UnknownVTEP, "eth0")
				cast(t, stranger, "192.0.2.2:4789", packet)
				rises(t, node2, firewall.UnknownVTEP, "eth0", before)
				left := shortcutOf(t, node2).Left["peer"]
				cast(t, node3.NS, "192.0.2.2:4789", packet)
				node2.Eventually(func() error {
					if now := shortcutOf(t, node2).Left["peer"]; now != left+1 {
						return fmt.Errorf("of another node %d packets were left to the kernel, want 1", now-left)
					}
					return nil
				})
				s.endsWith(1) // the other node's, which nodes trust
				continue
			}
			s.end()
		}
	}
	leave(a, beside, evil, b)
}
