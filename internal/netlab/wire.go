package netlab

import (
	"errors"
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
func Wire(a, b End, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.Link, mtu
	err := a.NS.with(func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs:     attrs,
			PeerName:      b.Link,
			PeerMTU:       uint32(mtu),
			PeerNamespace: netlink.NsFd(b.NS.file.Fd()),
		})
	})
	if err != nil {
		return fmt.Errorf("wire %s to %s: %w", a.Link, b.Link, err)
	}
	return errors.Join(a.NS.Up(a.Link), b.NS.Up(b.Link))
}

// Bridge makes a bridge without ports and sets it up.
func (ns *NS) Bridge(name string, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	err := ns.with(func(h *netlink.Handle) error { return h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}) })
	if err != nil {
		return fmt.Errorf("add the bridge %s: %w", name, err)
	}
	return ns.Up(name)
}

// Port makes link a port of bridge.
func (ns *NS) Port(bridge, link string) error {
	return ns.link("make a port", link, func(h *netlink.Handle, l netlink.Link) error {
		master, err := h.LinkByName(bridge)
		if err != nil {
			return err
		}
		return h.LinkSetMasterByIndex(l, master.Attrs().Index)
	})
}

// Up sets a link up.
func (ns *NS) Up(link string) error { return ns.link("set up", link, (*netlink.Handle).LinkSetUp) }

// Down sets a link down.
func (ns *NS) Down(link string) error {
	return ns.link("set down", link, (*netlink.Handle).LinkSetDown)
}

// Delete deletes a link, with its other end if it has one.
func (ns *NS) Delete(link string) error { return ns.link("delete", link, (*netlink.Handle).LinkDel) }

// Address adds a prefix, such as 10.0.0.1/24 or fd00::1/64, to a link. IPv6 addresses
// are usable at once: no duplicate address detection.
func (ns *NS) Address(link, prefix string) error {
	return ns.address("add", (*netlink.Handle).AddrAdd, link, prefix)
}

// Unaddress takes a prefix from a link.
func (ns *NS) Unaddress(link, prefix string) error {
	return ns.address("remove", (*netlink.Handle).AddrDel, link, prefix)
}

func (ns *NS) address(verb string, do func(*netlink.Handle, netlink.Link, *netlink.Addr) error, link, prefix string) error {
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return fmt.Errorf("address %s: %w", prefix, err)
	}
	a.Flags = unix.IFA_F_NODAD
	return ns.link(verb+" the address "+prefix+" of", link, func(h *netlink.Handle, l netlink.Link) error { return do(h, l, a) })
}

// Route adds a route to a prefix ("0.0.0.0/0" and "::/0" are the default) through a gateway.
func (ns *NS) Route(prefix, via string) error {
	gateway, err := netip.ParseAddr(via)
	if err != nil {
		return err
	}
	dst, err := netlink.ParseIPNet(prefix)
	if err == nil {
		err = ns.with(func(h *netlink.Handle) error {
			return h.RouteAdd(&netlink.Route{Dst: dst, Gw: gateway.AsSlice()})
		})
	}
	if err != nil {
		return fmt.Errorf("route %s via %s: %w", prefix, via, err)
	}
	return nil
}

// Sysctl reads the value at a path below /proc/sys, such as net/ipv4/ip_forward.
func (ns *NS) Sysctl(path string) (value string, err error) {
	err = ns.Do(func() error {
		text, err := os.ReadFile(filepath.Join("/proc/sys", path))
		value = strings.TrimSpace(string(text))
		return err
	})
	return value, err
}

// SetSysctl writes the value at a path below /proc/sys.
func (ns *NS) SetSysctl(path, value string) error {
	return ns.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0) })
}

// link does something to a link of the namespace.
func (ns *NS) link(what, name string, do func(*netlink.Handle, netlink.Link) error) error {
	err := ns.with(func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return do(h, l)
	})
	if err != nil {
		return fmt.Errorf("%s link %s: %w", what, name, err)
	}
	return nil
}
