package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const errReadOnly = unix.EROFS

// apply carries changes out. It goes on after one that failed, so that one bad route
// doesn't cut off other nodes, except where the rest needs the link.
func apply(changes []change) error {
	var errs []error
	for _, c := range changes {
		err := c.apply()
		if err == nil {
			continue
		}
		errs = append(errs, fmt.Errorf("%v: %w", c, err))
		switch c.(type) {
		case deleteLink, addBridge, addTunnel, setUp:
			return errors.Join(errs...)
		}
	}
	return errors.Join(errs...)
}

// on calls f with the link of a name.
func on(name string, f func(netlink.Link) error) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return f(l)
}

// indexOf is the index of a link, by ioctl (netdevice(7)): there are thousands of routes
// and neighbours, and netlink would describe the whole link for each.
func indexOf(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req)
	}
	if err != nil {
		return 0, fmt.Errorf("the index of %s: %w", name, err)
	}
	return int(req.Uint32()), nil
}

// gone turns the errors of a deletion that something else has done already into none.
func gone(err error) error {
	for _, absent := range []error{unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.EADDRNOTAVAIL} {
		if errors.Is(err, absent) {
			return nil
		}
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	return err
}

func (c deleteLink) apply() error { return gone(on(c.name, netlink.LinkDel)) }

// A MAC given at creation is one "set by user": the bridge doesn't take one of its
// ports', and udev's MACAddressPolicy leaves it alone.
func attributes(l link) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = l.name, l.mac.hardware(), l.mtu
	return attrs
}

func (c addBridge) apply() error {
	attrs := attributes(c.link)
	// Only an MTU that is changed later counts as the operator's and doesn't follow the
	// ports' (BROPT_MTU_SET_BY_USER in net/bridge/br_device.c). The plan sets it next.
	attrs.MTU++
	return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
}

func (c addTunnel) apply() error {
	t := c.link.tunnel
	err := netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attributes(c.link),
		VxlanId:   t.vni, Port: t.port, SrcAddr: t.local.AsSlice(), Group: t.group.AsSlice(), VtepDevIndex: t.lower,
		Learning: t.learning, FlowBased: t.collect,
		UDPCSum: t.checksum, UDP6ZeroCSumTx: t.zero6, UDP6ZeroCSumRx: t.accept,
	})
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("another VXLAN device has the VNI and the port: %w: %w", errdefs.ErrAlreadyExists, err)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("another program or VXLAN device has the UDP port %d; set another on all nodes: %w: %w", t.port, errdefs.ErrFailedPrecondition, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the kernel has no VXLAN (modprobe vxlan): %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	return err
}

func (c setMAC) apply() error {
	return on(c.link.name, func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, c.link.mac.hardware()) })
}

func (c setMTU) apply() error {
	return on(c.link.name, func(l netlink.Link) error { return netlink.LinkSetMTU(l, c.link.mtu) })
}

func (c release) apply() error { return on(c.name, netlink.LinkSetNoMaster) }
func (c setUp) apply() error   { return on(c.name, netlink.LinkSetUp) }

func (c addAddress) apply() error {
	return on(c.address.link, func(l netlink.Link) error {
		err := netlink.AddrAdd(l, c.netlink())
		if errors.Is(err, unix.EEXIST) { // it failed duplicate address detection
			if err = gone(netlink.AddrDel(l, c.netlink())); err == nil {
				err = netlink.AddrAdd(l, c.netlink())
			}
		}
		return err
	})
}

func (c addAddress) netlink() *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(c.address.prefix)}
	if c.address.prefix.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if c.address.prefix.Addr().IsLinkLocalUnicast() {
		a.Scope = unix.RT_SCOPE_LINK
	}
	return a
}

func (c deleteAddress) apply() error {
	return gone(on(c.address.link, func(l netlink.Link) error {
		return netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(c.address.prefix)})
	}))
}

func (c addRoute) apply() error {
	err := c.route.to(netlink.RouteAdd)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("another program's route has the destination and the metric %d; delete it: %w: %w", c.route.metric, errdefs.ErrAlreadyExists, err)
	}
	return err
}

func (c replaceRoute) apply() error { return c.route.to(netlink.RouteReplace) }
func (c deleteRoute) apply() error  { return gone(c.route.to(netlink.RouteDel)) }

// to calls f with the route as netlink has it.
func (r deviceRoute) to(f func(*netlink.Route) error) error {
	out := &netlink.Route{Dst: ipNet(r.destination), Priority: r.metric, Protocol: Protocol}
	if !r.via.IsValid() {
		out.Type = unix.RTN_UNREACHABLE
		return f(out)
	}
	index, err := indexOf(r.device)
	if err != nil {
		return err
	}
	out.Type, out.LinkIndex, out.Flags = unix.RTN_UNICAST, index, int(netlink.FLAG_ONLINK)
	out.Gw, out.Src = r.via.AsSlice(), r.source.AsSlice()
	return f(out)
}

func (c putNeighbour) apply() error    { return c.neighbour.to(netlink.NeighSet) }
func (c deleteNeighbour) apply() error { return gone(c.neighbour.to(netlink.NeighDel)) }

func (n deviceNeighbour) to(f func(*netlink.Neigh) error) error {
	index, err := indexOf(n.device)
	if err != nil {
		return err
	}
	return f(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: n.ip.AsSlice(), HardwareAddr: n.mac.hardware()})
}

// Replacing, not appending: a unicast MAC has one node, and the kernel ignores what is
// appended to one (vxlan_fdb_update_existing in drivers/net/vxlan/vxlan_core.c).
func (c putFDB) apply() error    { return c.entry.to(netlink.NeighSet) }
func (c deleteFDB) apply() error { return gone(c.entry.to(netlink.NeighDel)) }

func (e deviceFDB) to(f func(*netlink.Neigh) error) error {
	index, err := indexOf(e.device)
	if err != nil {
		return err
	}
	return f(&netlink.Neigh{
		LinkIndex: index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
		IP: e.node.AsSlice(), HardwareAddr: e.mac.hardware(),
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
