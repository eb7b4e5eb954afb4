package overlay

import (
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
)

// MaxVNI is the largest VXLAN network identifier: it has 24 bits (RFC 7348, section 5).
const MaxVNI = 1<<24 - 1

// Protocol marks routes as this package's (rtm_protocol, rtnetlink(7)). The number is
// claimed by nobody in iproute2's etc/rt_protos; a line "250 falcon" in
// /etc/iproute2/rt_protos.d/falcon.conf makes ip-route(8) show a name for it.
const Protocol = 250

// unreachableMetric, plus the VNI, is the metric of a network's unreachable routes: worse
// than any that a route for packets has, and it tells whose they are.
const unreachableMetric = 0x7f00_0000

// defaultMetric6 is what the kernel gives IPv6 routes without a metric (IP6_RT_PRIO_USER).
const defaultMetric6 = 1024

// Bridge is the name of a network's bridge.
func Bridge(vni uint32) string { return "fb" + strconv.FormatUint(uint64(vni), 10) }

// Device is the name of a network's VXLAN device.
func Device(vni uint32) string { return "fx" + strconv.FormatUint(uint64(vni), 10) }

// VTEPMAC is the MAC of the VXLAN device of the node with the given underlay address:
// the first 6 bytes of SHA-256 over the words "falcon vtep", the address in 16 bytes
// (IPv4 as IPv4-mapped) and the VNI in 4, big endian; then the group bit is cleared and
// the local bit set. Every node computes every other's, so this never changes.
func VTEPMAC(addr netip.Addr, vni uint32) net.HardwareAddr {
	a := addr.As16()
	return derive("falcon vtep", a[:], vni).hardware()
}

// BridgeMAC is the MAC of the network's bridge, the same on every node: the bridges of
// two nodes never meet, and containers keep what they know when a node is renumbered.
// It is derived as VTEPMAC is, with the words "falcon bridge" and no address.
func BridgeMAC(vni uint32) net.HardwareAddr { return derive("falcon bridge", nil, vni).hardware() }

// mac is a hardware address that can be compared.
type mac [6]byte

func (m mac) hardware() net.HardwareAddr { return m[:] }
func (m mac) String() string             { return m.hardware().String() }

func derive(words string, addr []byte, vni uint32) mac {
	in := append([]byte(words), addr...)
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(in, vni))
	m := mac(sum[:6])
	m[0] = m[0]&^1 | 2
	return m
}

// linkLocal is the IPv6 link-local address of a MAC (RFC 4291, appendix A).
func linkLocal(m mac) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
	})
}

// nextHop is where routes to a subnet of the node with the given VTEP MAC lead; it
// exists as a neighbour on the VXLAN device only. IPv4: the subnet's network address.
// IPv6: the VTEP's link-local address, for the kernel refuses another one, onlink or
// not, when a route over another device covers it (ip6_route_check_nh_onlink in
// net/ipv6/route.c).
func nextHop(subnet netip.Prefix, vtep mac) netip.Addr {
	if subnet.Addr().Is4() {
		return subnet.Addr()
	}
	return linkLocal(vtep)
}
