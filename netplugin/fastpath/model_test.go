package fastpath

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
)

// model says what the kernel's path does with one frame that comes in at a node's NIC:
// VXLAN device, rules of package firewall, route, bridge. It is written from RFC 791, 7348,
// 6040, 8200 and from net/ipv4/{ip_input,ip_forward,udp}.c, net/ipv6/{ip6_input,
// ip6_output}.c and drivers/net/vxlan/vxlan_core.c of Linux, and is told nothing of flows.
type model struct {
	nic        mac
	node       netip.Addr
	port       uint16
	networks   map[uint32]network
	peers      []Peer
	containers []*container
	// trusting: the NIC has looked at the outer checksum, and found it right.
	trusting bool
}

type mac [6]byte

// network is what a network has on this node.
type network struct {
	vtep, bridge mac
	mtu          int // the VXLAN device's
}

type container struct {
	name      string
	vni       uint32
	mac       mac
	mtu       int
	addresses []netip.Addr
	link      uint32 // ifindex of the host's end
}

// outcome is what becomes of a frame.
type outcome struct {
	to    *container // who gets it; nil: nobody
	frame []byte     // as it gets it
	why   string     // why nobody does
	// open: the kernel's path does more than the model tells (it puts fragments together,
	// follows options, answers with ICMP), so nothing else may touch the packet.
	open bool
	// left: the kernel delivers it and the shortcut may leave that to it. The reason.
	left string
}

func drop(why string) outcome { return outcome{why: why} }
func open(why string) outcome { return outcome{why: why, open: true} }

const (
	protoTCP = 6
	protoUDP = 17

	wrongOutside = "checksum of the outer datagram"
	wrongInside  = "checksum of the inner datagram"
)

// datagram is an IP packet whose header is sound.
type datagram struct {
	v6                  bool
	header              int // bytes
	packet              []byte
	source, destination netip.Addr
	protocol, ttl, tos  byte
	fragment, options   bool
	trimmed             bool // there were bytes behind it
}

// readIP is ip_rcv_core and ip6_rcv_core. why is not empty if the packet is dropped there.
func readIP(kind uint16, b []byte) (d datagram, why string) {
	switch kind {
	case 0x0800:
		if len(b) < 20 || b[0]>>4 != 4 || b[0]&15 < 5 {
			return d, "no IPv4 header"
		}
		d.header = int(b[0]&15) * 4
		if len(b) < d.header || sum(b[:d.header]) != 0xffff {
			return d, "checksum of the IPv4 header"
		}
		total := int(binary.BigEndian.Uint16(b[2:]))
		if total < d.header || total > len(b) {
			return d, "length of the IPv4 packet"
		}
		d.packet, d.trimmed = b[:total], total < len(b)
		d.tos, d.ttl, d.protocol = b[1], b[8], b[9]
		d.source, d.destination = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		d.fragment = binary.BigEndian.Uint16(b[6:])&0x3fff != 0
		d.options = d.header > 20
	case 0x86dd:
		if len(b) < 40 || b[0]>>4 != 6 {
			return d, "no IPv6 header"
		}
		d.v6, d.header = true, 40
		d.protocol, d.ttl, d.tos = b[6], b[7], b[0]<<4|b[1]>>4
		d.source, d.destination = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		if d.source.IsMulticast() || d.source.IsLoopback() || d.destination.IsLoopback() || d.source.Is4In6() {
			return d, "an IPv6 source that can't be"
		}
		length := int(binary.BigEndian.Uint16(b[4:]))
		if length == 0 && d.protocol == 0 { // a jumbogram, RFC 2675
			d.options = true
			return d, ""
		}
		if 40+length > len(b) {
			return d, "length of the IPv6 packet"
		}
		d.packet, d.trimmed = b[:40+length], 40+length < len(b)
		d.fragment = d.protocol == 44
		d.options = slices.Contains([]byte{0, 43, 50, 51, 60, 135, 139, 140}, d.protocol)
	default:
		return d, "neither IPv4 nor IPv6"
	}
	return d, ""
}

// receive is the whole way.
func (m *model) receive(frame []byte) outcome {
	if len(frame) < 14 || mac(frame) != m.nic && frame[0]&1 == 0 {
		return drop("for another station")
	}
	if binary.BigEndian.Uint16(frame[12:]) == 0x8100 && len(frame) >= 18 && binary.BigEndian.Uint16(frame[14:])&0xfff == 0 {
		// Priority alone, IEEE 802.1Q: as if it weren't there (vlan_do_receive).
		out := m.receive(slices.Concat(frame[:12], frame[16:]))
		if out.to != nil {
			out.left = "in a VLAN"
		}
		return out
	}
	outer, why := readIP(binary.BigEndian.Uint16(frame[12:]), frame[14:])
	if why != "" {
		return drop(why)
	}
	if outer.destination != m.node {
		return drop("for another host")
	}
	if outer.fragment || outer.options {
		return open("fragments or options outside")
	}
	if outer.protocol != protoUDP {
		return drop("not UDP")
	}
	peer := slices.IndexFunc(m.peers, func(p Peer) bool { return p.Address == outer.source })
	if peer < 0 {
		return drop("from no node: set vteps of table inet falcon")
	}
	payload, why := m.readUDP(outer)
	if why != "" {
		return drop(why)
	}
	out := m.decapsulate(outer, payload, &m.peers[peer])
	if out.to == nil || out.left != "" {
		return out
	}
	switch {
	case frame[0]&1 != 0: // of a group; the kernel looks at that where it forwards only
		out.left = "for several stations"
	case outer.trimmed:
		out.left = "bytes behind the outer packet"
	case len(outer.packet) != outer.header+8+len(payload):
		out.left = "bytes behind the outer datagram"
	}
	return out
}

// readUDP is __udp4_lib_rcv and __udp6_lib_rcv, with a socket that wants a checksum over
// IPv6 and takes none over IPv4.
func (m *model) readUDP(d datagram) (payload []byte, why string) {
	b := d.packet[d.header:]
	if len(b) < 8 {
		return nil, "no UDP header"
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length > len(b) || length < 8 {
		return nil, "length of the datagram"
	}
	if binary.BigEndian.Uint16(b[2:]) != m.port {
		return nil, "for another port"
	}
	b = b[:length]
	switch none := b[6] == 0 && b[7] == 0; {
	case none && d.v6:
		return nil, "no checksum over IPv6"
	case !none && !m.trusting && sum(slices.Concat(pseudo(d.source, d.destination, protoUDP, length), b)) != 0xffff:
		return nil, wrongOutside
	}
	return b[8:], ""
}

// decapsulate is vxlan_rcv.
func (m *model) decapsulate(outer datagram, b []byte, peer *Peer) outcome {
	if len(b) < 8+14 {
		return drop("no VXLAN header")
	}
	// RFC 7348 section 5: flag I, all else is reserved. Linux drops what is not zero.
	if binary.BigEndian.Uint32(b) != 0x08000000 || b[7] != 0 {
		return drop("reserved bits of VXLAN")
	}
	vni := binary.BigEndian.Uint32(b[4:]) >> 8
	network, known := m.networks[vni]
	if !known {
		return drop("no such network")
	}
	frame := slices.Clone(b[8:])
	if mac(frame[6:]) == network.vtep {
		return drop("looped")
	}
	left := ""
	if kind := binary.BigEndian.Uint16(frame[12:]); kind == 0x0800 && len(frame) >= 34 || kind == 0x86dd && len(frame) >= 54 {
		switch congestion(outer.tos&3, frame, kind == 0x86dd) {
		case congested:
			return drop("congestion that the packet can't be told of")
		case rare:
			left = "ECT(1) outside, ECT(0) inside"
		}
	}
	if mac(frame) != network.vtep {
		return drop("for another station of the network")
	}
	inner, why := readIP(binary.BigEndian.Uint16(frame[12:]), frame[14:])
	if why != "" {
		return drop(why)
	}
	out := m.forward(vni, network, inner, peer)
	if out.to != nil && left != "" {
		out.left = left
	}
	return out
}

type ecn int

const (
	fine ecn = iota
	rare
	congested
)

// congestion is INET_ECN_decapsulate, RFC 6040 section 4.2: it changes the inner packet.
func congestion(outside byte, frame []byte, v6 bool) ecn {
	const notECT, ect1, ect0, ce = 0, 1, 2, 3
	at, shift := 15, 0
	if v6 {
		shift = 4
	}
	inside := frame[at] >> shift & 3
	after, result := inside, fine
	switch {
	case outside == ce && inside == notECT:
		return congested
	case outside == ce:
		after = ce
	case outside == ect1 && inside == ect0:
		after, result = ect1, rare
	}
	if after == inside {
		return result
	}
	frame[at] += (after - inside) << shift // may be less: modulo 256 it is right
	if !v6 {
		// RFC 1624, eqn. 3, as csum16_add does it: 0 comes from 0 only.
		check := uint32(binary.BigEndian.Uint16(frame[24:])) + uint32(0xffff-(int(after)-int(inside)))%0xffff
		binary.BigEndian.PutUint16(frame[24:], uint16(check+check>>16))
	}
	return result
}

// forward is the inner packet's way: rules, route, bridge.
func (m *model) forward(vni uint32, network network, d datagram, from *Peer) outcome {
	if d.packet == nil {
		return open("a jumbogram")
	}
	lives := func(p Peer) bool {
		return slices.ContainsFunc(p.Subnets[vni], func(s netip.Prefix) bool { return s.Contains(d.source) })
	}
	if !slices.ContainsFunc(m.peers, lives) {
		return drop("the source lives on no other node: rule spoofed-source")
	}
	i := slices.IndexFunc(m.containers, func(c *container) bool { return slices.Contains(c.addresses, d.destination) })
	if i < 0 {
		return drop("for no container")
	}
	to := m.containers[i]
	switch {
	case to.vni != vni:
		return drop("for another network: rule crossed")
	case d.fragment || d.options:
		return open("fragments or options inside")
	case d.ttl <= 1:
		return drop("TTL")
	case len(d.packet) > to.mtu:
		return open("too long: ICMP, or fragments")
	}
	out := outcome{to: to, frame: slices.Concat(to.mac[:], network.bridge[:], []byte{8, 0}, d.packet)}
	ip := out.frame[14:]
	if d.v6 {
		out.frame[12], out.frame[13] = 0x86, 0xdd
	}
	routed(ip, d.v6)
	transport := ip[d.header:]
	switch {
	case !lives(*from):
		out.left = "by another node than the source's"
	case d.trimmed:
		out.left = "bytes behind the inner packet"
	case d.protocol != protoUDP:
		out.left = "TCP has its place behind the VXLAN device, others have none"
	case len(transport) < 8:
		out.left = "no UDP header inside"
	case int(binary.BigEndian.Uint16(transport[4:])) != len(transport):
		out.left = "length of the inner datagram"
	case bytes.Equal(transport[6:8], []byte{0, 0}):
		out.left = "no checksum of its own"
	case sum(slices.Concat(pseudo(d.source, d.destination, protoUDP, len(transport)), transport)) != 0xffff:
		out.left = wrongInside
	}
	return out
}

// routed is what a router does to a header.
func routed(ip []byte, v6 bool) {
	if v6 {
		ip[7]--
		return
	}
	ip[8]--
	// ip_decrease_ttl: RFC 1141, which makes 0 of 0xffff.
	check := uint32(binary.BigEndian.Uint16(ip[10:])) + 0x100
	if check >= 0xffff {
		check++
	}
	binary.BigEndian.PutUint16(ip[10:], uint16(check))
}

// sum is the one's complement sum of RFC 1071.
func sum(b []byte) uint16 {
	var s uint32
	for i, v := range b {
		s += uint32(v) << (8 * (1 - i%2))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// pseudo is the header of RFC 768, section "Checksum", or of RFC 8200 section 8.1.
func pseudo(source, destination netip.Addr, protocol byte, length int) []byte {
	b := slices.Concat(source.AsSlice(), destination.AsSlice())
	if source.Is6() {
		return append(binary.BigEndian.AppendUint32(b, uint32(length)), 0, 0, 0, protocol)
	}
	return binary.BigEndian.AppendUint16(append(b, 0, protocol), uint16(length))
}
