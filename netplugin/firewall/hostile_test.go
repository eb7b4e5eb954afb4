package firewall

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// attack is one frame that must not arrive.
type attack struct {
	name   string
	from   *tap
	frame  []byte
	at     *tap   // where it would be seen
	marker []byte // by what it would be known
	reason string
	link   string
}

const fragmented = "router advertisement in fragments"

func marker() []byte {
	m := make([]byte, 16)
	_, _ = rand.Read(m)
	return m
}

// frames are attacks on the container b by a.
func (l *lab) frameAttacks() []attack {
	a, b := l.a, l.b
	var all []attack
	add := func(name, reason string, from *box, frame, marker []byte) {
		link := from.link
		if reason == UnknownLink {
			link = ""
		}
		all = append(all, attack{name, from.tap, frame, b.tap, marker, reason, link})
	}
	datagram := func(src, dst netip.Addr) (uint16, []byte, []byte) {
		m := marker()
		kind, packet := udp(src, dst, 9, m)
		return kind, packet, m
	}
	anyMAC := net.HardwareAddr{2, 9, 9, 9, 9, 9}
	localA := linkLocal(a.mac)
	v6 := func(src, dst netip.Addr, next byte, payload []byte) []byte {
		kind, packet := ip(src, dst, next, payload)
		to := b.mac
		if dst.IsMulticast() {
			to = multicastMAC(dst)
		}
		return ether(to, a.mac, kind, packet)
	}

	kind, packet, m := datagram(a.v4, b.v4)
	add("spoofed MAC, IPv4", SpoofedMAC, a, ether(b.mac, anyMAC, kind, packet), m)
	kind, packet, m = datagram(a.v6, b.v6)
	add("spoofed MAC, IPv6", SpoofedMAC, a, ether(b.mac, anyMAC, kind, packet), m)
	kind, packet, m = datagram(addr("10.1.1.77"), b.v4)
	add("spoofed IPv4, nobody's", SpoofedIPv4, a, ether(b.mac, a.mac, kind, packet), m)
	kind, packet, m = datagram(b.v4, b.v4)
	add("spoofed IPv4, another's", SpoofedIPv4, a, ether(b.mac, a.mac, kind, packet), m)
	kind, packet, m = datagram(addr("0.0.0.0"), addr("255.255.255.255"))
	add("no IPv4 source", SpoofedIPv4, a, ether(everyone, a.mac, kind, packet), m)
	kind, packet, m = datagram(b.v6, b.v6)
	add("spoofed IPv6, another's", SpoofedIPv6, a, ether(b.mac, a.mac, kind, packet), m)
	kind, packet, m = datagram(linkLocal(b.mac), allNodes)
	add("spoofed IPv6, another's link-local", SpoofedIPv6, a, ether(multicastMAC(allNodes), a.mac, kind, packet), m)
	kind, packet, m = datagram(unspecified, allNodes)
	add("no IPv6 source", SpoofedIPv6, a, ether(multicastMAC(allNodes), a.mac, kind, packet), m)

	for op, name := range map[uint16]string{1: "request", 2: "reply"} {
		body := arp(op, a.mac, l.c.v4, b.v4)
		add("ARP "+name+", another's address", SpoofedARP, a, ether(everyone, a.mac, 0x0806, body), body)
		body = arp(op, anyMAC, a.v4, b.v4)
		add("ARP "+name+", another's MAC", SpoofedARP, a, ether(everyone, a.mac, 0x0806, body), body)
	}
	body := arp(2, a.mac, addr("0.0.0.0"), b.v4)
	add("ARP reply without address", SpoofedARP, a, ether(everyone, a.mac, 0x0806, body), body)
	body = slices.Concat([]byte{0, 6}, arp(1, a.mac, a.v4, b.v4)[2:])
	add("ARP of another hardware", SpoofedARP, a, ether(everyone, a.mac, 0x0806, body), body)
	body = arp(2, a.mac, a.v4, b.v4)[:13]
	add("ARP cut short", SpoofedARP, a, ether(everyone, a.mac, 0x0806, body), body)

	body = neighbour(136, a.v6, allNodes, l.c.v6)
	add("ND advertisement for another", SpoofedND, a, v6(a.v6, allNodes, 58, body), body)
	body = neighbour(136, localA, b.v6, addr("fd01:0:0:1::1"))
	add("ND advertisement for the gateway", SpoofedND, a, v6(localA, b.v6, 58, body), body)
	body = neighbour(136, localA, b.v6, a.v6)[:20]
	add("ND advertisement cut short", SpoofedND, a, v6(localA, b.v6, 58, body), body)
	body = neighbour(135, unspecified, allNodes, b.v6)
	add("detection of another's address", SpoofedND, a, v6(unspecified, allNodes, 58, body), body)
	body = neighbour(136, unspecified, allNodes, a.v6)
	add("ND advertisement without source", SpoofedIPv6, a, v6(unspecified, allNodes, 58, body), body)
	body = neighbour(135, linkLocal(b.mac), allNodes, b.v6)
	add("ND solicitation as another", SpoofedIPv6, a, v6(linkLocal(b.mac), allNodes, 58, body), body)

	advert := icmp6(localA, allNodes, 134, slices.Concat([]byte{64, 0, 7, 8}, marker()))
	add("router advertisement", ForgedRouter, a, v6(localA, allNodes, 58, advert), advert)
	options := []byte{58, 0, 1, 4, 0, 0, 0, 0} // PadN
	add("router advertisement behind options", ForgedRouter, a,
		v6(localA, allNodes, 60, append(options, advert...)), advert)
	fragment := []byte{58, 0, 0, 1, 1, 2, 3, 4} // the first of more
	add(fragmented, ForgedRouter, a,
		v6(localA, allNodes, 44, append(fragment, advert...)), advert)
	body = icmp6(localA, b.v6, 137, slices.Concat(make([]byte, 4), a.v6.AsSlice(), b.v6.AsSlice()))
	add("redirect", ForgedRouter, a, v6(localA, b.v6, 58, body), body)
	add("ICMPv6 without a type", Malformed, a, v6(localA, addr("ff02::1:1234"), 60, []byte{58, 0, 1, 4, 0, 0, 0, 0}), addr("ff02::1:1234").AsSlice())
	add("IPv6 header cut short", Malformed, a, v6(a.v6, addr("ff02::1:1235"), 60, []byte{58, 40}), addr("ff02::1:1235").AsSlice())

	kind, packet, m = datagram(a.v4, b.v4)
	add("VLAN", EtherType, a, tagged(ether(b.mac, a.mac, kind, packet), 0x8100, 5), m)
	kind, packet, m = datagram(b.v4, b.v4)
	add("VLAN 0 with a spoofed source", EtherType, a, tagged(ether(b.mac, a.mac, kind, packet), 0x8100, 0), m)
	kind, packet, m = datagram(a.v4, b.v4)
	add("service VLAN", EtherType, a, tagged(tagged(ether(b.mac, a.mac, kind, packet), 0x8100, 5), 0x88a8, 6), m)
	m = marker()
	add("LLC", EtherType, a, ether(b.mac, a.mac, uint16(3+len(m)), append([]byte{0x42, 0x42, 3}, m...)), m)
	m = marker()
	add("spanning tree", EtherType, a, ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, a.mac, uint16(3+len(m)), append([]byte{0x42, 0x42, 3}, m...)), m)
	m = marker()
	add("another ethertype", EtherType, a, ether(b.mac, a.mac, 0x88b5, m), m)

	kind, packet, m = datagram(l.d.v4, b.v4)
	add("a link not allowed", UnknownLink, l.d, ether(b.mac, l.d.mac, kind, packet), m)
	return all
}

// packetAttacks cross the node: between networks and by the tunnel.
func (l *lab) packetAttacks(t *testing.T) []attack {
	a, b, c := l.a, l.b, l.c
	toA, fx1 := [6]byte{2, 0, 0, 0, 0, 0x0a}, net.HardwareAddr{2, 0, 0, 0, 0, 0x0b}
	var all []attack
	route := func(name, reason string, src, dst netip.Addr, dport uint16, payload []byte, at *tap, m []byte) {
		kind, packet := udp(src, dst, dport, payload)
		all = append(all, attack{name, a.tap, ether(l.gatewayRed, a.mac, kind, packet), at, m, reason, "fb1"})
	}
	// inner is a frame for this node's device of network 1.
	inner := func(src, dst netip.Addr) (frame, m []byte) {
		m = marker()
		kind, packet := udp(src, dst, 9, m)
		return ether(toA[:], fx1, kind, packet), m
	}
	wire := func(name, reason, link string, outer netip.Addr, src, dst netip.Addr, at *tap) {
		frame, m := inner(src, dst)
		kind, packet := udp(outer, l.self, port, vxlan(1, frame))
		all = append(all, attack{name, l.other.tap, ether(macOfHost(l), l.other.mac, kind, packet), at, m, reason, link})
	}
	vtep := l.state.VTEPs[0]
	own, gateway, target, foreign := a.v4, addr("10.1.1.1"), l.other.v4, c.v4
	remote, local := addr("10.1.2.2"), b.v4
	if l.self.Is6() {
		own, gateway, target, foreign = a.v6, addr("fd01:0:0:1::1"), l.other.v6, c.v6
		remote, local = addr("fd01:0:0:2::2"), b.v6
	}
	m := marker()
	route("to another network", Crossed, own, foreign, 9, m, c.tap, m)
	frame, m := inner(remote, local)
	route("VXLAN from a container to the gateway", ForgedVXLAN, own, gateway, port, vxlan(1, frame), b.tap, m)
	frame, m = inner(remote, local)
	route("VXLAN from a container to the node", ForgedVXLAN, own, l.self, port, vxlan(1, frame), b.tap, m)
	m = marker()
	route("VXLAN from a container to another node", ForgedVXLAN, own, target, port, m, l.other.tap, m)
	for _, src := range []netip.Addr{l.loose.v4, l.loose.v6, l.b.v4, l.stranger} {
		to := b.v4
		if src.Is6() {
			to = b.v6
		}
		m = marker()
		kind, packet := udp(src, to, 9, m)
		all = append(all, attack{
			"a container's link in no bridge, as " + src.String(), l.loose.tap,
			ether(macOf(t, l.NS, l.loose.link), l.loose.mac, kind, packet), b.tap, m, UnknownLink, l.loose.link,
		})
	}
	for _, src := range []netip.Addr{l.stranger, foreign, vtep} {
		m = marker()
		kind, packet := udp(src, local, 9, m)
		all = append(all, attack{
			"a foreign port of the bridge, as " + src.String(), l.foreign.tap,
			ether(l.gatewayRed, l.foreign.mac, kind, packet), b.tap, m, SpoofedSource, "fb1",
		})
	}
	wire("VXLAN from a stranger", UnknownVTEP, "eth0", l.stranger, remote, local, b.tap)
	wire("tunnel, a source of this node", SpoofedSource, "fx1", vtep, own, local, b.tap)
	wire("tunnel, a source from anywhere", SpoofedSource, "fx1", vtep, l.stranger, local, b.tap)
	wire("tunnel, to another network", Crossed, "fx1", vtep, remote, foreign, c.tap)

	// A forged packet inside a good one.
	forged, m := inner(remote, local)
	kind, packet := udp(remote, gateway, port, vxlan(1, forged))
	kind, packet = udp(vtep, l.self, port, vxlan(1, ether(toA[:], fx1, kind, packet)))
	all = append(all, attack{
		"VXLAN in VXLAN", l.other.tap, ether(macOfHost(l), l.other.mac, kind, packet),
		b.tap, m, ForgedVXLAN, "fx1",
	})
	return all
}

func macOfHost(l *lab) net.HardwareAddr {
	link, err := l.Netlink().LinkByName("eth0")
	if err != nil {
		panic(err)
	}
	return link.Attrs().HardwareAddr
}

// Each attack works without the rules, so the test can tell, and with them it arrives
// nowhere and is counted once, where it belongs.
func TestAttacks(t *testing.T) {
	for _, nf := range []bool{false, true} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("bridge-nf=%v,underlay6=%v", nf, v6), func(t *testing.T) {
				l := newLab(t, v6, nf)
				all := l.packetAttacks(t)
				if !v6 {
					all = append(all, l.frameAttacks()...)
				}
				if err := l.f.Remove(); err != nil {
					t.Fatal(err)
				}
				for _, a := range all {
					if nf && a.name == fragmented {
						continue // reassembly would wait for the rest
					}
					a.from.send(t, a.frame)
					if !a.at.saw(t, a.marker, patience) {
						t.Errorf("%s: doesn't arrive without rules either", a.name)
					}
				}
				l.replace(t)
				for _, a := range all {
					before := l.dropped(t, a.reason, a.link)
					a.from.send(t, a.frame)
					after := l.waitDropped(t, a.reason, a.link, before)
					if after != before+1 && a.reason != UnknownLink { // d's own kernel is dropped too
						t.Errorf("%s: counted %d times under %s of %s", a.name, after-before, a.reason, a.link)
					}
					if a.at.saw(t, a.marker, 0) {
						t.Errorf("%s: arrived", a.name)
					}
				}
				if t.Failed() {
					drops, _ := l.f.Drops()
					t.Log(drops)
				}
			})
		}
	}
}
