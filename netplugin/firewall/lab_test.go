package firewall

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

const port = 4789

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

// box is a container, or a node of the underlay.
type box struct {
	*netnstest.NS
	link   string // the host's end
	mac    net.HardwareAddr
	v4, v6 netip.Addr
	tap    *tap
}

func (b *box) endpoint() Endpoint {
	return Endpoint{Link: b.link, MAC: b.mac, Addresses: []netip.Addr{b.v4, b.v6}}
}

// lab is a node with two networks, three containers and one more whose link is not
// allowed, and a node beside it that is at once a stranger by a second address.
//
//	red:  a, b, d (not allowed), and 10.1.2.0/24 on the other node
//	blue: c
type lab struct {
	*netnstest.NS
	f                       *Firewall
	state                   State
	a, b, c, d              *box
	loose                   *box // like a of red, its link is allowed and in no bridge
	foreign                 *box // in red's bridge by a link that isn't a container's
	other                   *box // the other node
	self, stranger          netip.Addr
	gatewayRed, gatewayBlue net.HardwareAddr
}

// newLab has the rules in force when it returns. The underlay is IPv6 if v6 says so; the
// bridge's packets pass the inet table if nf says so.
func newLab(t testing.TB, v6, nf bool) *lab {
	t.Helper()
	l := &lab{NS: netnstest.New(t)}
	value := map[bool]string{false: "0", true: "1"}[nf]
	l.SetSysctl("net/bridge/bridge-nf-call-iptables", value)
	l.SetSysctl("net/bridge/bridge-nf-call-ip6tables", value)
	l.SetSysctl("net/ipv4/ip_forward", "1")
	l.SetSysctl("net/ipv6/conf/all/forwarding", "1")

	l.other = &box{NS: netnstest.New(t), v4: addr("192.0.2.2"), v6: addr("2001:db8::2")}
	netnstest.Wire(netnstest.End{NS: l.NS, Link: "eth0"}, netnstest.End{NS: l.other.NS, Link: "eth0"}, 1500)
	l.Address("eth0", "192.0.2.1/24")
	l.Address("eth0", "2001:db8::1/64")
	for _, n := range []string{"2", "3"} {
		l.other.Address("eth0", "192.0.2."+n+"/24")
		l.other.Address("eth0", "2001:db8::"+n+"/64")
	}
	self, vtep := addr("192.0.2.1"), l.other.v4
	l.stranger = addr("192.0.2.3")
	if v6 {
		self, vtep, l.stranger = addr("2001:db8::1"), l.other.v6, addr("2001:db8::3")
	}
	l.self = self
	l.state = State{Port: port, VTEPs: []netip.Addr{vtep}, Networks: []Network{
		{
			Bridge: "fb1", Device: "fx1", Masquerade: true,
			Subnets: []netip.Prefix{prefix("10.1.1.0/24"), prefix("fd01:0:0:1::/64")},
			Cluster: []netip.Prefix{prefix("10.1.0.0/16"), prefix("10.1.1.0/24"), prefix("fd01::/48")},
		},
		{
			Bridge: "fb2", Device: "fx2", Masquerade: true,
			Subnets: []netip.Prefix{prefix("10.2.1.0/24"), prefix("fd02:0:0:1::/64")},
			Cluster: []netip.Prefix{prefix("10.2.0.0/16"), prefix("fd02::/48")},
		},
	}}
	for i, gateways := range [][]string{{"10.1.1.1/24", "fd01:0:0:1::1/64"}, {"10.2.1.1/24", "fd02:0:0:1::1/64"}} {
		n := l.state.Networks[i]
		l.Bridge(n.Bridge, 1430)
		for _, g := range gateways {
			l.Address(n.Bridge, g)
		}
	}
	// Both nodes' tunnels; the other's containers of red are addresses of its device.
	tunnel(t, l.NS, "fx1", 1, self, vtep, 0x0a, 0x0b, "10.1.2.0/24", "fd01:0:0:2::/64")
	tunnel(t, l.NS, "fx2", 2, self, vtep, 0x1a, 0x1b, "10.2.2.0/24", "fd02:0:0:2::/64")
	tunnel(t, l.other.NS, "fx1", 1, vtep, self, 0x0b, 0x0a, "10.1.1.0/24", "fd01:0:0:1::/64")
	l.other.Address("fx1", "10.1.2.2/32")
	l.other.Address("fx1", "fd01:0:0:2::2/128")

	l.Do(func() {
		var err error
		if l.f, err = Open(); err != nil {
			t.Fatal(err)
		}
	})
	f := l.f
	t.Cleanup(func() { f.Close() })
	l.a = l.container(t, "fva", "fb1", "10.1.1.2", "fd01:0:0:1::2", "10.1.1.1", "fd01:0:0:1::1")
	l.b = l.container(t, "fvb", "fb1", "10.1.1.3", "fd01:0:0:1::3", "10.1.1.1", "fd01:0:0:1::1")
	l.c = l.container(t, "fvc", "fb2", "10.2.1.2", "fd02:0:0:1::2", "10.2.1.1", "fd02:0:0:1::1")
	l.d = l.container(t, "fvd", "fb1", "10.1.1.4", "fd01:0:0:1::4", "10.1.1.1", "fd01:0:0:1::1")
	l.loose = l.container(t, "fve", "fb1", "10.1.1.5", "fd01:0:0:1::5", "10.1.1.1", "fd01:0:0:1::1")
	l.foreign = l.container(t, "eth1", "fb1", "10.1.1.6", "fd01:0:0:1::6", "10.1.1.1", "fd01:0:0:1::1")
	if link, err := l.Netlink().LinkByName(l.loose.link); err != nil {
		t.Fatal(err)
	} else if err := l.Netlink().LinkSetNoMaster(link); err != nil {
		t.Fatal(err)
	}
	for _, box := range []*box{l.a, l.b, l.c, l.loose} {
		l.state.Endpoints = append(l.state.Endpoints, box.endpoint())
	}
	l.other.mac, l.other.tap = macOf(t, l.other.NS, "eth0"), newTap(t, l.other.NS, "eth0")
	l.gatewayRed, l.gatewayBlue = macOf(t, l.NS, "fb1"), macOf(t, l.NS, "fb2")
	l.replace(t)
	return l
}

func (l *lab) replace(t testing.TB) {
	t.Helper()
	if err := l.f.Replace(l.state); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) container(t testing.TB, link, bridge, v4, v6, gateway4, gateway6 string) *box {
	t.Helper()
	b := &box{NS: netnstest.New(t), link: link, v4: addr(v4), v6: addr(v6)}
	netnstest.Wire(netnstest.End{NS: l.NS, Link: link}, netnstest.End{NS: b.NS, Link: "eth0"}, 1430)
	l.Port(bridge, link)
	b.Address("eth0", v4+"/24")
	b.Address("eth0", v6+"/64")
	b.Route("0.0.0.0/0", gateway4)
	b.Route("::/0", gateway6)
	b.mac, b.tap = macOf(t, b.NS, "eth0"), newTap(t, b.NS, "eth0")
	return b
}

// tunnel makes a VXLAN device and the routes to the other node's subnets, as package
// overlay does.
func tunnel(t testing.TB, ns *netnstest.NS, name string, vni int, local, remote netip.Addr, ownMAC, otherMAC byte, subnets ...string) {
	t.Helper()
	h := ns.Netlink()
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dev := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1430, HardwareAddr: mac(ownMAC)},
		VxlanId:   vni, SrcAddr: local.AsSlice(), Port: port,
	}
	must(h.LinkAdd(dev))
	ns.Up(name)
	link, err := h.LinkByName(name)
	must(err)
	index := link.Attrs().Index
	must(h.NeighAppend(&netlink.Neigh{
		LinkIndex: index, Family: unix.AF_BRIDGE, State: unix.NUD_PERMANENT, Flags: unix.NTF_SELF,
		IP: remote.AsSlice(), HardwareAddr: mac(otherMAC),
	}))
	for _, s := range subnets {
		p := prefix(s)
		must(h.NeighSet(&netlink.Neigh{
			LinkIndex: index, State: unix.NUD_PERMANENT, IP: p.Addr().AsSlice(), HardwareAddr: mac(otherMAC),
		}))
		must(h.RouteAdd(&netlink.Route{
			LinkIndex: index, Gw: p.Addr().AsSlice(), Flags: unix.RTNH_F_ONLINK,
			Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		}))
	}
}

func macOf(t testing.TB, ns *netnstest.NS, name string) net.HardwareAddr {
	t.Helper()
	l, err := ns.Netlink().LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().HardwareAddr
}

// tap sends and receives whole frames on a link.
type tap struct {
	fd  int
	buf []byte
}

func newTap(t testing.TB, ns *netnstest.NS, name string) *tap {
	t.Helper()
	p := &tap{fd: -1, buf: make([]byte, 65536)}
	index := func() int {
		l, err := ns.Netlink().LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().Index
	}()
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	var err error
	ns.Do(func() {
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err == nil {
			t.Cleanup(func() { unix.Close(p.fd) })
			err = unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *tap) send(t testing.TB, frame []byte) {
	t.Helper()
	if _, err := unix.Write(p.fd, frame); err != nil {
		t.Fatal(err)
	}
}

// saw reads until a frame that came in has the marker, or for so long.
func (p *tap) saw(t testing.TB, marker []byte, patience time.Duration) bool {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		n, from, err := unix.Recvfrom(p.fd, p.buf, 0)
		switch {
		case err == nil:
			sa := from.(*unix.SockaddrLinklayer)
			if sa.Pkttype != unix.PACKET_OUTGOING && bytes.Contains(p.buf[:n], marker) {
				return true
			}
		case errors.Is(err, unix.EAGAIN):
			left := time.Until(end)
			if left <= 0 {
				return false
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		case !errors.Is(err, unix.EINTR):
			t.Fatal(err)
		}
	}
}

// dropped counts drops of a reason and a link.
func (l *lab) dropped(t testing.TB, reason, link string) uint64 {
	t.Helper()
	drops, err := l.f.Drops()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range drops {
		if d.Reason == reason && d.Link == link {
			return d.Packets
		}
	}
	return 0
}

// waitDropped waits until a counter is above before, and returns it.
func (l *lab) waitDropped(t testing.TB, reason, link string, before uint64) uint64 {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		if now := l.dropped(t, reason, link); now > before || time.Now().After(end) {
			return now
		}
		_, _ = unix.Poll(nil, 2)
	}
}
