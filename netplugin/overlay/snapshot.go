package overlay

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

func readLinks() ([]netlink.Link, []netlink.Addr, error) {
	links, err := dump.All(netlink.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("list links: %w", err)
	}
	addresses, err := dump.All(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	return links, addresses, nil
}

// read takes the snapshot of a network, all but the sysctls.
func (o *Overlay) read(vni uint32) (snapshot, error) {
	links, addresses, err := readLinks()
	if err != nil {
		return snapshot{}, err
	}
	have := snapshot{host: host{ipv6: hasIPv6()}}
	if have.mtu, err = o.underlayMTU(links, addresses); err != nil {
		return snapshot{}, err
	}
	indexes := have.addLinks(vni, links)
	if have.bridge.kind == "bridge" {
		if have.bridge.options, err = readOptions(indexes[have.bridge.name]); err != nil {
			return snapshot{}, err
		}
	}
	have.rival = rival(vni, o.underlay.Port, links)
	have.addAddresses(indexes, addresses)
	device := indexes[Device(vni)]
	if have.routes, err = readRoutes(vni, device); err != nil {
		return snapshot{}, err
	}
	if device != 0 {
		err = have.readNeighbours(device)
	}
	return have, err
}

// underlayMTU is the MTU of the interface with the node's address, 0 for a loopback one.
func (o *Overlay) underlayMTU(links []netlink.Link, addresses []netlink.Addr) (int, error) {
	for _, a := range addresses {
		if prefix(a.IPNet).Addr() != o.underlay.Address {
			continue
		}
		for _, l := range links {
			switch attrs := l.Attrs(); {
			case attrs.Index != a.LinkIndex:
			case attrs.Flags&net.FlagLoopback != 0:
				return 0, nil
			default:
				return attrs.MTU, nil
			}
		}
	}
	return 0, fmt.Errorf("no interface has the node's address %v; set the one that other nodes reach this node by: %w", o.underlay.Address, errdefs.ErrFailedPrecondition)
}

// addLinks puts the network's devices into s and returns their indexes by name.
func (s *state) addLinks(vni uint32, links []netlink.Link) map[string]int {
	s.bridge.name, s.device.name = Bridge(vni), Device(vni)
	indexes := make(map[string]int)
	for _, l := range links {
		attrs := l.Attrs()
		read := link{name: attrs.Name, kind: l.Type(), mtu: attrs.MTU, up: attrs.Flags&net.FlagUp != 0, master: attrs.MasterIndex != 0}
		if len(attrs.HardwareAddr) == len(read.mac) {
			read.mac = mac(attrs.HardwareAddr)
		}
		switch attrs.Name {
		case s.bridge.name:
			s.bridge = read
		case s.device.name:
			if v, ok := l.(*netlink.Vxlan); ok {
				read.tunnel = readTunnel(v)
			}
			s.device = read
		default:
			continue
		}
		indexes[attrs.Name] = attrs.Index
	}
	return indexes
}

func readTunnel(v *netlink.Vxlan) tunnel {
	return tunnel{
		vni: v.VxlanId, port: v.Port, local: addr(v.SrcAddr), group: addr(v.Group), lower: v.VtepDevIndex,
		learning: v.Learning, collect: v.FlowBased,
		checksum: v.UDPCSum, zero6: v.UDP6ZeroCSumTx, accept: v.UDP6ZeroCSumRx,
	}
}

// rival is another VXLAN device for which the kernel would refuse ours.
func rival(vni uint32, port int, links []netlink.Link) string {
	for _, l := range links {
		v, ok := l.(*netlink.Vxlan)
		if ok && v.Name != Device(vni) && v.VxlanId == int(vni) && v.Port == port && !v.FlowBased {
			return v.Name
		}
	}
	return ""
}

func (s *state) addAddresses(indexes map[string]int, addresses []netlink.Addr) {
	s.addresses = set[address]{}
	for _, a := range addresses {
		for name, index := range indexes {
			if a.LinkIndex == index && a.Flags&unix.IFA_F_DADFAILED == 0 {
				s.addresses[address{name, prefix(a.IPNet)}] = struct{}{}
			}
		}
	}
}

// readRoutes lists a network's routes in the main table that carry Protocol.
func readRoutes(vni uint32, device int) (map[routeKey]route, error) {
	routes := make(map[routeKey]route)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := dump.All(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range all {
			key := routeKey{prefix(r.Dst), r.Priority}
			if r.Dst == nil { // a default route
				key.destination = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
				if family == netlink.FAMILY_V6 {
					key.destination = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
				}
			}
			switch {
			case r.Type == unix.RTN_UNREACHABLE && r.Priority == unreachableMetric+int(vni):
				routes[key] = route{}
			case r.Type == unix.RTN_UNICAST && device != 0 && r.LinkIndex == device:
				routes[key] = route{via: addr(r.Gw), source: addr(r.Src)}
			}
		}
	}
	return routes, nil
}

func (s *state) readNeighbours(device int) error {
	s.neighbours, s.fdb = make(map[netip.Addr]mac), set[fdbEntry]{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6, unix.AF_BRIDGE} {
		all, err := dump.All(func() ([]netlink.Neigh, error) { return netlink.NeighList(device, family) })
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		for _, n := range all {
			if n.State&netlink.NUD_PERMANENT == 0 || len(n.HardwareAddr) != len(mac{}) {
				continue
			}
			if family == unix.AF_BRIDGE {
				s.fdb[fdbEntry{mac(n.HardwareAddr), addr(n.IP)}] = struct{}{}
			} else {
				s.neighbours[addr(n.IP)] = mac(n.HardwareAddr)
			}
		}
	}
	return nil
}

// addr converts; none becomes the zero Addr.
func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr(n.IP), bits)
}
