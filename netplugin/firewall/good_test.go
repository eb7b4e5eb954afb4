package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

const patience = time.Minute

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// everywhere runs a test with bridge-nf-call-iptables off and on.
func everywhere(t *testing.T, f func(*testing.T, *lab)) {
	for _, nf := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridge-nf=%v", nf), func(t *testing.T) { f(t, newLab(t, false, nf)) })
	}
}

// noDrops fails the test if anything was dropped, save by the container that isn't allowed.
func (l *lab) noDrops(t *testing.T) {
	t.Helper()
	drops, err := l.f.Drops()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range drops {
		if d.Reason != UnknownLink { // d's kernel sends for itself
			t.Errorf("dropped: %+v", d)
		}
	}
}

func TestGoodTrafficPasses(t *testing.T) {
	everywhere(t, func(t *testing.T, l *lab) {
		for _, network := range []string{"udp", "tcp"} {
			for name, to := range map[string]string{
				"neighbour":               l.b.Echo(network, at(l.b.v4, 0)),
				"neighbour, IPv6":         l.b.Echo(network, at(l.b.v6, 0)),
				"neighbour, VXLAN's port": l.b.Echo(network, at(l.b.v4, port)),
				"gateway":                 l.Echo(network, "10.1.1.1:0"),
				"gateway, IPv6":           l.Echo(network, "[fd01:0:0:1::1]:0"),
				"node":                    l.Echo(network, "192.0.2.1:0"),
				"node, IPv6":              l.Echo(network, "[2001:db8::1]:0"),
				"tunnel":                  l.other.Echo(network, "10.1.2.2:0"),
				"tunnel, IPv6":            l.other.Echo(network, "[fd01:0:0:2::2]:0"),
				// They have no route to containers: only masqueraded they answer.
				"outside":       l.other.Echo(network, at(l.stranger, 0)),
				"outside, IPv6": l.other.Echo(network, "[2001:db8::3]:0"),
			} {
				if err := l.a.Try(network, to, patience); err != nil {
					t.Errorf("%s, %s: %v", name, network, err)
				}
			}
			for name, to := range map[string]string{
				"from the tunnel": l.a.Echo(network, at(l.a.v4, 0)), "from the tunnel, IPv6": l.a.Echo(network, at(l.a.v6, 0)),
			} {
				if err := l.other.Try(network, to, patience); err != nil {
					t.Errorf("%s, %s: %v", name, network, err)
				}
			}
		}
		l.noDrops(t)
	})
}

// Frames that a container's kernel sends for itself, or may.
func TestGoodFramesPass(t *testing.T) {
	everywhere(t, func(t *testing.T, l *lab) {
		a, b := l.a, l.b
		local := linkLocal(a.mac)
		send := func(name string, to net.HardwareAddr, kind uint16, packet, marker []byte) {
			t.Helper()
			a.tap.send(t, ether(to, a.mac, kind, packet))
			if !b.tap.saw(t, marker, patience) {
				t.Errorf("%s: doesn't arrive", name)
			}
		}
		send6 := func(name string, src, dst netip.Addr, next byte, payload, marker []byte) {
			t.Helper()
			to := b.mac
			if dst.IsMulticast() {
				to = multicastMAC(dst)
			}
			kind, packet := ip(src, dst, next, payload)
			send(name, to, kind, packet, marker)
		}
		for op, name := range map[uint16]string{1: "ARP request", 2: "ARP reply"} {
			body := arp(op, a.mac, a.v4, b.v4)
			send(name, everyone, 0x0806, body, body)
		}
		body := arp(1, a.mac, netip.IPv4Unspecified(), a.v4)
		send("ARP probe", everyone, 0x0806, body, body)
		for _, target := range []netip.Addr{a.v6, local} {
			body = neighbour(135, unspecified, allNodes, target)
			send6("detection of duplicates", unspecified, allNodes, 58, body, body)
			body = neighbour(136, local, allNodes, target)
			send6("ND advertisement", local, allNodes, 58, body, body)
			body = neighbour(135, target, allNodes, b.v6)
			send6("ND solicitation", target, allNodes, 58, body, body)
		}
		body = icmp6(local, allNodes, 133, make([]byte, 4))
		send6("router solicitation", local, allNodes, 58, body, body)
		body = icmp6(local, b.v6, 128, marker())
		send6("ping", local, b.v6, 58, body, body)
		if l.Sysctl("net/bridge/bridge-nf-call-ip6tables") == "0" { // it would wait for the rest
			rest := append([]byte{134}, marker()...) // it looks like a router advertisement
			send6("a later fragment", a.v6, b.v6, 44, append([]byte{58, 0, 0, 8, 1, 2, 3, 4}, rest...), rest)
		}
		for _, src := range []netip.Addr{local, unspecified} {
			group := addr("ff02::1:5")
			report := icmp6(src, allNodes, 143, slices.Concat([]byte{0, 0, 0, 1, 4, 0, 0, 0}, group.AsSlice()))
			send6("multicast report", src, allNodes, 58, report, report)
		}
		for _, group := range []netip.Addr{addr("239.1.2.3"), addr("ff02::fb")} {
			src := family(group, a.v4, a.v6)
			m := marker()
			kind, packet := udp(src, group, 5353, m)
			send("multicast "+group.String(), multicastMAC(group), kind, packet, m)
		}
		m := marker()
		kind, packet := udp(a.v4, addr("10.1.1.255"), 9, m)
		send("broadcast", everyone, kind, packet, m)
		l.noDrops(t)
	})
}

// Datagrams that need fragments, on the bridge, by the tunnel and masqueraded.
func TestFragmentsPass(t *testing.T) {
	everywhere(t, func(t *testing.T, l *lab) {
		big := bytes.Repeat([]byte("0123456789"), 400)
		for _, to := range []string{
			l.b.Echo("udp", at(l.b.v4, 0)), l.b.Echo("udp", at(l.b.v6, 0)),
			l.other.Echo("udp", "10.1.2.2:0"), l.other.Echo("udp", "[fd01:0:0:2::2]:0"),
			l.other.Echo("udp", at(l.stranger, 0)), l.other.Echo("udp", "[2001:db8::3]:0"),
		} {
			c, err := l.a.Dial("udp", to, patience)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(big))
			for try := 0; ; try++ {
				if _, err := c.Write(big); err != nil {
					t.Fatal(err)
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				_, err := c.Read(got)
				if err == nil && bytes.Equal(got, big) {
					break
				}
				if try == 10 {
					t.Errorf("%s: %v", to, err)
					break
				}
			}
		}
		l.noDrops(t)
	})
}

// What a datagram's receiver takes for its source tells whether it was masqueraded.
func TestMasqueradeOutsideOnly(t *testing.T) {
	everywhere(t, func(t *testing.T, l *lab) {
		source := func(listen, to string) netip.Addr {
			t.Helper()
			c := l.other.ListenPacket("udp", listen)
			_, p, _ := net.SplitHostPort(c.LocalAddr().String())
			d, err := l.a.Dial("udp", net.JoinHostPort(to, p), patience)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if _, err := d.Write([]byte("?")); err != nil {
				t.Fatal(err)
			}
			_, from, err := c.ReadFrom(make([]byte, 9))
			if err != nil {
				t.Fatalf("%s: %v", to, err)
			}
			return from.(*net.UDPAddr).AddrPort().Addr().Unmap()
		}
		l.other.Route("10.1.1.0/30", "192.0.2.1") // so that the network's own addresses are no dead end
		for to, want := range map[string]netip.Addr{
			"192.0.2.3": addr("192.0.2.1"), "2001:db8::3": addr("2001:db8::1"),
			"10.1.2.2": l.a.v4, "fd01:0:0:2::2": l.a.v6,
		} {
			if got := source(net.JoinHostPort(to, "0"), to); got != want {
				t.Errorf("to %s: from %s, want %s", to, got, want)
			}
		}

		// A destination in the cluster keeps the source even if it is reached outside.
		l.other.Address("eth0", "10.1.200.1/32")
		l.Route("10.1.200.0/24", "192.0.2.2")
		if got := source("10.1.200.1:0", "10.1.200.1"); got != l.a.v4 {
			t.Errorf("inside the cluster: from %s", got)
		}

		l.state.Networks[0].Masquerade = false
		l.replace(t)
		l.other.Route("10.1.1.2/32", "192.0.2.1")
		if got := source("192.0.2.3:0", "192.0.2.3"); got != l.a.v4 {
			t.Errorf("without masquerade: from %s", got)
		}
		l.noDrops(t)
	})
}

func TestGatewayOfAnotherNetwork(t *testing.T) {
	everywhere(t, func(t *testing.T, l *lab) {
		for _, to := range []string{l.Echo("udp", "10.2.1.1:0"), l.Echo("udp", "[fd02:0:0:1::1]:0")} {
			if err := l.c.Try("udp", to, patience); err != nil {
				t.Errorf("own gateway %s: %v", to, err)
			}
			before := l.dropped(t, Crossed, "fb1")
			if err := l.a.Try("udp", to, 50*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("another's gateway %s: %v", to, err)
			}
			if l.waitDropped(t, Crossed, "fb1", before) == before {
				t.Errorf("another's gateway %s: not counted", to)
			}
		}
		if l.dropped(t, Crossed, "fb2") != 0 {
			t.Error("the gateway's own network was taken for another")
		}
	})
}

// A bridge learns the source of a frame to a reserved group, by which another's packets
// could be drawn to the sender.
func TestReservedGroupTeachesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, l *lab) {
		forged := net.HardwareAddr{2, 9, 9, 9, 9, 9}
		send := func(group byte) {
			t.Helper()
			l.a.tap.send(t, ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, group}, forged, 0x888e, make([]byte, 46)))
		}
		learned := func() bool {
			t.Helper()
			all, err := l.Netlink().NeighList(0, unix.AF_BRIDGE)
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(all, func(n netlink.Neigh) bool { return bytes.Equal(n.HardwareAddr, forged) })
		}
		// Frames of LLDP, 14, come to no hook. A later one shows that they went by.
		noLinkLocalLearning(t, l.NS, "fb1")
		send(14)
		send(3)
		if l.waitDropped(t, ReservedGroup, l.a.link, 0) != 1 {
			t.Error("not counted")
		}
		if learned() {
			t.Error("the bridge learned a forged source")
		}
	})
}

// noLinkLocalLearning sets BR_BOOLOPT_NO_LL_LEARN, as the doc of the package asks for.
func noLinkLocalLearning(t *testing.T, ns *netnstest.NS, bridge string) {
	t.Helper()
	link, err := ns.Netlink().LinkByName(bridge)
	if err != nil {
		t.Fatal(err)
	}
	const multiBoolopt = 46 // IFLA_BR_MULTI_BOOLOPT: the values' bits, then which are meant
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(multiBoolopt, slices.Concat(nl.Uint32Attr(1), nl.Uint32Attr(1)))
	req.AddData(info)
	ns.Do(func() { _, err = req.Execute(unix.NETLINK_ROUTE, 0) })
	if err != nil {
		t.Fatal(err)
	}
}

// Our accept is no other table's, and source NAT of the usual priority comes before ours.
func TestOperatorsRulesHold(t *testing.T) {
	everywhere(t, func(t *testing.T, l *lab) {
		to := l.other.Echo("udp", at(l.stranger, 0))
		if err := l.a.Try("udp", to, patience); err != nil {
			t.Fatal(err)
		}
		l.Address("eth0", "192.0.2.77/24")
		c := l.other.ListenPacket("udp", "192.0.2.3:0")
		operator := func(f func(*nftables.Conn, *nftables.Table)) {
			t.Helper()
			conn, err := nftables.New(nftables.WithNetNSFd(int(l.File().Fd())))
			if err != nil {
				t.Fatal(err)
			}
			f(conn, conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "operator"}))
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		operator(func(conn *nftables.Conn, table *nftables.Table) {
			chain := conn.AddChain(&nftables.Chain{
				Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
				Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
			})
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Immediate{Register: 1, Data: []byte{192, 0, 2, 77}},
				&expr.NAT{Type: expr.NATTypeSourceNAT, Family: 2, RegAddrMin: 1},
			}})
		})
		l.replace(t) // whichever was there first
		d, err := l.a.Dial("udp", c.LocalAddr().String(), patience)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, from, err := c.ReadFrom(make([]byte, 9))
		if err != nil || !from.(*net.UDPAddr).IP.Equal(net.IPv4(192, 0, 2, 77)) {
			t.Errorf("the operator's source NAT: from %v, %v", from, err)
		}
		operator(func(conn *nftables.Conn, table *nftables.Table) {
			drop := nftables.ChainPolicyDrop
			conn.AddChain(&nftables.Chain{
				Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Policy: &drop,
				Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPrioritySecurity,
			})
		})
		if err := l.a.Try("udp", to, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the operator's drop: %v", err)
		}
		l.noDrops(t)
	})
}

// A connection that is masqueraded doesn't notice 50 replacements.
func TestReplaceKeepsConnections(t *testing.T) {
	everywhere(t, func(t *testing.T, l *lab) {
		c, err := l.a.Dial("tcp", l.other.Echo("tcp", at(l.stranger, 0)), patience)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(2 * patience))
		const size = 32 << 10
		var rounds atomic.Int64
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			out, in := bytes.Repeat([]byte{1, 2, 3, 4}, size/4), make([]byte, size)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write(out); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(c, in); err != nil || !bytes.Equal(in, out) {
					t.Errorf("differs, or %v", err)
					return
				}
				rounds.Add(1)
			}
		}()
		for i := range 50 {
			l.state.VTEPs = append(l.state.VTEPs, netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
			l.replace(t)
		}
		// However slow the machine is, data flows while the rules are replaced.
		for end := time.Now().Add(patience); rounds.Load() < 50 && time.Now().Before(end); {
			l.replace(t)
		}
		close(stop)
		<-ended
		if n := rounds.Load(); n < 50 {
			t.Errorf("only %d rounds of %d bytes: the connection stood still", n, size)
		}
		l.noDrops(t)
	})
}

// Without masquerading another node sees a container's own address, answers by the tunnel
// and has its underlay address there.
func TestNodeAnswersByTheTunnel(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("underlay6=%v", v6), func(t *testing.T) {
			l := newLab(t, v6, false)
			l.state.Networks[0].Masquerade = false
			l.replace(t)
			if err := l.a.Try("udp", l.other.Echo("udp", at(l.state.VTEPs[0], 0)), patience); err != nil {
				t.Error(err)
			}
			l.noDrops(t)
		})
	}
}
