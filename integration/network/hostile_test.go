package network

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// forger sends frames from a container as root inside it can.
type forger struct {
	t    *testing.T
	fd   int
	link int
}

func newForger(t *testing.T, c *node.Container) *forger {
	t.Helper()
	l, err := c.NS.Netlink().LinkByName(c.IfName)
	if err != nil {
		t.Fatal(err)
	}
	f := &forger{t: t, link: l.Attrs().Index}
	c.NS.Do(func() { f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(f.fd) })
	return f
}

func (f *forger) send(frame []byte) error {
	return unix.Sendto(f.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: f.link})
}

func macOf(t *testing.T, ns *netnstest.NS, link string) net.HardwareAddr {
	t.Helper()
	l, err := ns.Netlink().LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().HardwareAddr
}

func ether(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	return slices.Concat(dst, src, be16(kind), payload)
}

// datagram is a UDP packet in a frame.
func datagram(dst, src net.HardwareAddr, from, to, text string) []byte {
	a, b := netip.MustParseAddr(from), netip.MustParseAddr(to)
	u := slices.Concat(be16(9), be16(9), be16(uint16(8+len(text))), []byte{0, 0}, []byte(text))
	binary.BigEndian.PutUint16(u[6:], ^transportSum(a, b, unix.IPPROTO_UDP, u))
	if a.Is6() {
		return ether(dst, src, unix.ETH_P_IPV6, slices.Concat([]byte{0x60, 0, 0, 0}, be16(uint16(len(u))), []byte{unix.IPPROTO_UDP, 64}, a.AsSlice(), b.AsSlice(), u))
	}
	h := slices.Concat([]byte{0x45, 0}, be16(uint16(20+len(u))), []byte{0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0}, a.AsSlice(), b.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^sum(h))
	return ether(dst, src, unix.ETH_P_IP, append(h, u...))
}

// arpReply says that address is at mac.
func arpReply(dst, mac net.HardwareAddr, address, to string) []byte {
	return ether(dst, mac, unix.ETH_P_ARP, slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 2},
		mac, netip.MustParseAddr(address).AsSlice(), dst, netip.MustParseAddr(to).AsSlice()))
}

// icmp6 is a message with the hop limit that neighbour discovery wants.
func icmp6(dst, src net.HardwareAddr, from, to string, kind byte, body []byte) []byte {
	a, b := netip.MustParseAddr(from), netip.MustParseAddr(to)
	m := slices.Concat([]byte{kind, 0, 0, 0}, body)
	binary.BigEndian.PutUint16(m[2:], ^transportSum(a, b, unix.IPPROTO_ICMPV6, m))
	return ether(dst, src, unix.ETH_P_IPV6, slices.Concat([]byte{0x60, 0, 0, 0}, be16(uint16(len(m))), []byte{unix.IPPROTO_ICMPV6, 255}, a.AsSlice(), b.AsSlice(), m))
}

// What a container sends as another is dropped before anybody sees it, and counted with
// reason and container, in the status and for Prometheus.
func TestHostileContainer(t *testing.T) {
	t.Parallel()
	n := node.New(t, 1)
	outside := n.Outside()
	n.Config.Metrics.Address = "127.0.0.1:9402"
	n.Start()
	list := n.List("1.1.0", node.Network("falcon"))
	a, b, c := n.Container("attacker"), n.Container("victim"), n.Container("other")
	n.MustAdd(list, a)
	n.MustAdd(list, b)
	n.MustAdd(list, c)
	forge, link := newForger(t, a), attach.LinkName("attacker", "eth0")
	macA, macB, macC, macBridge := macOf(t, a.NS, "eth0"), macOf(t, b.NS, "eth0"), macOf(t, c.NS, "eth0"), macOf(t, n.NS, "fb1")
	localA := netip.AddrFrom16([16]byte{0xfe, 0x80, 8: macA[0] ^ 2, macA[1], macA[2], 0xff, 0xfe, macA[3], macA[4], macA[5]}).String()
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	advertisement := slices.Concat([]byte{0x20, 0, 0, 0}, netip.MustParseAddr("fd00:88:0:1::1").AsSlice(), []byte{2, 1}, macA)

	victim := capture(t, b.NS, "eth0")
	attacks := []struct {
		name, reason string
		frame        []byte
	}{
		{"another's MAC", firewall.SpoofedMAC, datagram(macB, macC, a.Address(0), b.Address(0), "forged")},
		{"the bridge's MAC", firewall.SpoofedMAC, datagram(macB, macBridge, a.Address(0), b.Address(0), "forged")},
		{"another's IPv4", firewall.SpoofedIPv4, datagram(macB, macA, c.Address(0), b.Address(0), "forged")},
		{"the gateway's IPv4", firewall.SpoofedIPv4, datagram(macB, macA, "10.88.1.1", b.Address(0), "forged")},
		{"an outsider's IPv4, routed", firewall.SpoofedIPv4, datagram(macBridge, macA, "192.0.2.254", b.Address(0), "forged")},
		{"another's IPv6", firewall.SpoofedIPv6, datagram(macB, macA, c.Address(1), b.Address(1), "forged")},
		{"an outsider's IPv6, routed", firewall.SpoofedIPv6, datagram(macBridge, macA, "fd00:2::fe", b.Address(1), "forged")},
		{"ARP as the gateway", firewall.SpoofedARP, arpReply(macB, macA, "10.88.1.1", b.Address(0))},
		{"ARP as another, to all", firewall.SpoofedARP, arpReply(all, macA, c.Address(0), c.Address(0))},
		{"ND as the gateway", firewall.SpoofedND, icmp6(macB, macA, a.Address(1), b.Address(1), 136, advertisement)},
		{"a router's advertisement", firewall.ForgedRouter, icmp6(allNodes, macA, localA, "ff02::1", 134, make([]byte, 12))},
		{"a redirect", firewall.ForgedRouter, icmp6(macB, macA, localA, b.Address(1), 137, make([]byte, 36))},
		{"a VLAN", firewall.EtherType, ether(macB, macA, unix.ETH_P_8021Q, slices.Concat(be16(7), be16(unix.ETH_P_IP), []byte("forged")))},
		{"no protocol of ours", firewall.EtherType, ether(macB, macA, 0x88b5, []byte("forged"))},
		{"to the bridges' own group", firewall.ReservedGroup, ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 3}, macA, 0x888e, []byte("forged"))},
	}
	for _, k := range attacks {
		before := dropped(t, n, k.reason, link)
		if err := forge.send(k.frame); err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
		n.Eventually(func() error {
			if got := dropped(t, n, k.reason, link); got != before+1 {
				return fmt.Errorf("%s: %d packets were dropped as %s, want %d", k.name, got, k.reason, before+1)
			}
			return nil
		})
	}
	for _, to := range []string{"192.0.2.1:4789", "10.88.1.1:4789", "[fd00:88:0:1::1]:4789", "192.0.2.254:4789"} {
		before := dropped(t, n, firewall.ForgedVXLAN, "fb1")
		cast(t, a.NS, to, slices.Concat([]byte{8, 0, 0, 0, 0, 0, 1, 0}, datagram(macB, macC, c.Address(0), b.Address(0), "forged")))
		rises(t, n, firewall.ForgedVXLAN, "fb1", before)
	}
	// What is honest comes through, behind all that.
	if err := forge.send(datagram(macB, macA, a.Address(0), b.Address(0), "honest")); err != nil {
		t.Fatal(err)
	}
	victim.find([]byte("honest"), false)
	for _, seen := range victim.seen {
		for _, k := range attacks {
			if bytes.Equal(seen, k.frame) {
				t.Errorf("the victim saw %s", k.name)
			}
		}
		if bytes.Contains(seen, []byte("forged")) {
			t.Errorf("the victim saw %x", seen)
		}
	}
	works(t, n, outside, b, c)

	// Both ways to look at it tell the same.
	text, err := n.Falcond("status", "--json")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := n.Falcond("status")
	if err != nil {
		t.Fatal(err)
	}
	metrics := scrape(t, n)
	for _, reason := range []string{firewall.SpoofedMAC, firewall.SpoofedIPv4, firewall.SpoofedIPv6, firewall.SpoofedARP, firewall.SpoofedND, firewall.ForgedRouter, firewall.EtherType, firewall.ReservedGroup} {
		count := dropped(t, n, reason, link)
		if want := fmt.Sprintf(`"Reason":%q,"Link":%q,"Packets":%d,`, reason, link, count); !strings.Contains(text, want) {
			t.Errorf("status --json lacks %s: %s", want, text)
		}
		if want := fmt.Sprintf("peregrine_falcon_dropped_packets_total{link=%q,reason=%q} %d\n", link, reason, count); !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
		if !strings.Contains(plain, reason) {
			t.Errorf("status does not tell %s:\n%s", reason, plain)
		}
	}
	n.MustDel(list, a, b, c)
	n.MustHold()
}

// A container that sends as fast as it can takes nobody's connection away.
func TestFlood(t *testing.T) {
	t.Parallel()
	n := node.New(t, 1)
	outside := n.Outside()
	n.Start()
	list := n.List("1.1.0", node.Network("falcon"))
	a, b, c := n.Container("attacker"), n.Container("b"), n.Container("c")
	n.MustAdd(list, a)
	n.MustAdd(list, b)
	n.MustAdd(list, c)
	forge := newForger(t, a)
	macA, macB := macOf(t, a.NS, "eth0"), macOf(t, b.NS, "eth0")
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	honest := datagram(macB, macA, a.Address(0), b.Address(0), strings.Repeat("x", 1000))
	broadcast := arpReply(all, macA, a.Address(0), a.Address(0))
	forged := datagram(macB, macA, c.Address(0), b.Address(0), "forged")

	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			frames := [][]byte{honest, broadcast, forged}
			// As many senders' MACs as there are to learn.
			other := slices.Clone(forged)
			binary.BigEndian.PutUint32(other[8:], uint32(i))
			for _, f := range append(frames, other) {
				_ = forge.send(f) // a full queue is no failure of this test
			}
		}
	})
	end := time.Now().Add(2 * time.Second)
	for time.Now().Before(end) {
		works(t, n, outside, c, b)
		d := n.Container("during")
		n.MustAdd(list, d)
		works(t, n, outside, d, c)
		n.MustDel(list, d)
	}
	close(stop)
	flood.Wait()
	for _, reason := range []string{firewall.SpoofedIPv4, firewall.SpoofedMAC} {
		if dropped(t, n, reason, attach.LinkName("attacker", "eth0")) == 0 {
			t.Errorf("nothing was dropped as %s", reason)
		}
	}
	n.MustDel(list, a, b, c)
	n.MustHold()
}
