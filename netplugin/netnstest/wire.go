package netnstest

import (
	"fmt"

	"github.com/peregrine-dev/peregrine/internal/netlab"
)

// End is a link's end: its name in a namespace.
type End struct {
	NS   *NS
	Link string
}

// Wire joins a and b by a veth pair with the given MTU, created where its ends belong,
// and sets both up. A veth's frames are not checksummed in software: the receiver
// trusts them, as with a NIC that offloads checksums.
func Wire(a, b End, mtu int) {
	a.NS.t.Helper()
	a.NS.must(netlab.Wire(netlab.End{NS: a.NS.lab, Link: a.Link}, netlab.End{NS: b.NS.lab, Link: b.Link}, mtu))
}

// Switch joins all ends by a bridge in a namespace of its own, which it returns; the
// port of ends[i] is p<i> and the bridge br0. It holds no addresses.
func Switch(mtu int, ends ...End) *NS {
	ends[0].NS.t.Helper()
	sw := New(ends[0].NS.t)
	sw.Bridge("br0", mtu)
	for i, end := range ends {
		port := fmt.Sprintf("p%d", i)
		Wire(End{sw, port}, end, mtu)
		sw.Port("br0", port)
	}
	return sw
}

// Bridge makes a bridge without ports and sets it up.
func (ns *NS) Bridge(name string, mtu int) { ns.t.Helper(); ns.must(ns.lab.Bridge(name, mtu)) }

// Port makes link a port of bridge.
func (ns *NS) Port(bridge, link string) { ns.t.Helper(); ns.must(ns.lab.Port(bridge, link)) }

// Up sets a link up.
func (ns *NS) Up(link string) { ns.t.Helper(); ns.must(ns.lab.Up(link)) }

// Down sets a link down.
func (ns *NS) Down(link string) { ns.t.Helper(); ns.must(ns.lab.Down(link)) }

// Address adds a prefix, such as 10.0.0.1/24 or fd00::1/64, to a link. IPv6 addresses
// are usable at once: no duplicate address detection.
func (ns *NS) Address(link, prefix string) { ns.t.Helper(); ns.must(ns.lab.Address(link, prefix)) }

// Unaddress takes a prefix from a link.
func (ns *NS) Unaddress(link, prefix string) { ns.t.Helper(); ns.must(ns.lab.Unaddress(link, prefix)) }

// Route adds a route to a prefix ("0.0.0.0/0" and "::/0" are the default) through a gateway.
func (ns *NS) Route(prefix, via string) { ns.t.Helper(); ns.must(ns.lab.Route(prefix, via)) }

// Sysctl reads the value at a path below /proc/sys, such as net/ipv4/ip_forward.
func (ns *NS) Sysctl(path string) string {
	ns.t.Helper()
	value, err := ns.lab.Sysctl(path)
	ns.must(err)
	return value
}

// SetSysctl writes the value at a path below /proc/sys.
func (ns *NS) SetSysctl(path, value string) {
	ns.t.Helper()
	ns.must(ns.lab.SetSysctl(path, value))
}
