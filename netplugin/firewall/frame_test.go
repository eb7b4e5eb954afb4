package firewall

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

// Frames are built by hand: a kernel would not send most of them.

var (
	everyone    = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes    = netip.MustParseAddr("ff02::1")
	unspecified = netip.IPv6Unspecified()
)

func ether(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	return slices.Concat(dst, src, be16(kind), payload)
}

// tagged puts a VLAN tag behind the addresses of a frame.
func tagged(frame []byte, kind, id uint16) []byte {
	return slices.Concat(frame[:12], be16(kind), be16(id), frame[12:])
}

// multicastMAC is the group's Ethernet address (RFC 1112, RFC 2464).
func multicastMAC(group netip.Addr) net.HardwareAddr {
	b := group.AsSlice()
	if group.Is4() {
		return net.HardwareAddr{1, 0, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	return append(net.HardwareAddr{0x33, 0x33}, b[12:]...)
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// arp is RFC 826's packet with an empty target hardware address.
func arp(operation uint16, senderMAC net.HardwareAddr, sender, target netip.Addr) []byte {
	return slices.Concat(
		[]byte{0, 1, 8, 0, 6, 4}, be16(operation),
		senderMAC, sender.AsSlice(), make([]byte, 6), target.AsSlice(),
	)
}

// ip is a packet of the addresses' family and its ethertype. The checksum is right where
// the protocol's is in want.
func ip(src, dst netip.Addr, protocol byte, payload []byte) (uint16, []byte) {
	if src.Is4() {
		h := slices.Concat(
			[]byte{0x45, 0}, be16(uint16(20+len(payload))), []byte{0, 0, 0x40, 0, 64, protocol, 0, 0},
			src.AsSlice(), dst.AsSlice(),
		)
		binary.BigEndian.PutUint16(h[10:], ^sum(h))
		return 0x0800, append(h, payload...)
	}
	return 0x86dd, slices.Concat(
		[]byte{0x60, 0, 0, 0}, be16(uint16(len(payload))), []byte{protocol, 255},
		src.AsSlice(), dst.AsSlice(), payload,
	)
}

func udp(src, dst netip.Addr, port uint16, payload []byte) (uint16, []byte) {
	u := slices.Concat(be16(40000), be16(port), be16(uint16(8+len(payload))), []byte{0, 0}, payload)
	binary.BigEndian.PutUint16(u[6:], transportSum(src, dst, 17, u))
	return ip(src, dst, 17, u)
}

func icmp6(src, dst netip.Addr, kind byte, body []byte) []byte {
	m := slices.Concat([]byte{kind, 0, 0, 0}, body)
	binary.BigEndian.PutUint16(m[2:], transportSum(src, dst, 58, m))
	return m
}

// neighbour is a solicitation (135) or an advertisement (136) with the override flag.
func neighbour(kind byte, src, dst, target netip.Addr) []byte {
	return icmp6(src, dst, kind, slices.Concat([]byte{0x20, 0, 0, 0}, target.AsSlice()))
}

// vxlan is RFC 7348's header and a frame.
func vxlan(vni uint32, frame []byte) []byte {
	return slices.Concat([]byte{8, 0, 0, 0}, binary.BigEndian.AppendUint32(nil, vni<<8), frame)
}

func transportSum(src, dst netip.Addr, protocol byte, segment []byte) uint16 {
	pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, protocol}, be16(uint16(len(segment))))
	if s := ^sum(append(pseudo, segment...)); s != 0 {
		return s
	}
	return 0xffff
}

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
