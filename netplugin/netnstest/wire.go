package netnstest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	h := a.NS.Netlink()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.Link, mtu
	veth := &netlink.Veth{
		LinkAttrs:     attrs,
		PeerName:      b.Link,
		PeerMTU:       uint32(mtu),
		PeerNamespace: netlink.NsFd(b.NS.file.Fd()),
	}
	if err := h.LinkAdd(veth); err != nil {
		a.NS.t.Fatalf("wire %s to %s: %v", a.Link, b.Link, err)
	}
	a.NS.Up(a.Link)
	b.NS.Up(b.Link)
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
func (ns *NS) Bridge(name string, mtu int) {
	ns.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if err := ns.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		ns.t.Fatalf("add the bridge %s: %v", name, err)
	}
	ns.Up(name)
}

// Port makes link a port of bridge.
func (ns *NS) Port(bridge, link string) {
	ns.t.Helper()
	h := ns.Netlink()
	if err := h.LinkSetMasterByIndex(ns.link(h, link), ns.link(h, bridge).Attrs().Index); err != nil {
		ns.t.Fatalf("make %s a port of %s: %v", link, bridge, err)
	}
}

// Up sets a link up.
func (ns *NS) Up(link string) { ns.t.Helper(); ns.set(link, (*netlink.Handle).LinkSetUp) }

// Down sets a link down.
func (ns *NS) Down(link string) { ns.t.Helper(); ns.set(link, (*netlink.Handle).LinkSetDown) }

func (ns *NS) set(link string, f func(*netlink.Handle, netlink.Link) error) {
	ns.t.Helper()
	h := ns.Netlink()
	if err := f(h, ns.link(h, link)); err != nil {
		ns.t.Fatalf("set %s up or down: %v", link, err)
	}
}

// Address adds a prefix, such as 10.0.0.1/24 or fd00::1/64, to a link. IPv6 addresses
// are usable at once: no duplicate address detection.
func (ns *NS) Address(link, prefix string) {
	ns.t.Helper()
	h := ns.Netlink()
	a, err := netlink.ParseAddr(prefix)
	if err == nil {
		a.Flags = unix.IFA_F_NODAD
		err = h.AddrAdd(ns.link(h, link), a)
	}
	if err != nil {
		ns.t.Fatalf("add %s to %s: %v", prefix, link, err)
	}
}

// Unaddress takes a prefix from a link.
func (ns *NS) Unaddress(link, prefix string) {
	ns.t.Helper()
	h := ns.Netlink()
	a, err := netlink.ParseAddr(prefix)
	if err == nil {
		err = h.AddrDel(ns.link(h, link), a)
	}
	if err != nil {
		ns.t.Fatalf("take %s from %s: %v", prefix, link, err)
	}
}

// Route adds a route to a prefix ("0.0.0.0/0" and "::/0" are the default) through a gateway.
func (ns *NS) Route(prefix, via string) {
	ns.t.Helper()
	dst, err := netlink.ParseIPNet(prefix)
	if err == nil {
		gw := netip.MustParseAddr(via)
		err = ns.Netlink().RouteAdd(&netlink.Route{Dst: dst, Gw: gw.AsSlice()})
	}
	if err != nil {
		ns.t.Fatalf("route %s via %s: %v", prefix, via, err)
	}
}

// Sysctl reads the value at a path below /proc/sys, such as net/ipv4/ip_forward.
func (ns *NS) Sysctl(path string) string {
	ns.t.Helper()
	var value []byte
	var err error
	ns.Do(func() { value, err = os.ReadFile(filepath.Join("/proc/sys", path)) })
	if err != nil {
		ns.t.Fatal(err)
	}
	return strings.TrimSpace(string(value))
}

// SetSysctl writes the value at a path below /proc/sys.
func (ns *NS) SetSysctl(path, value string) {
	ns.t.Helper()
	var err error
	ns.Do(func() { err = os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0) })
	if err != nil {
		ns.t.Fatal(err)
	}
}

func (ns *NS) link(h *netlink.Handle, name string) netlink.Link {
	ns.t.Helper()
	l, err := h.LinkByName(name)
	if err != nil {
		ns.t.Fatalf("link %s: %v", name, err)
	}
	return l
}
