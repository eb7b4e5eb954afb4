package agent

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/netconf"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// network is what attaching needs to know of a network of this node.
type network struct {
	name    string
	vni     uint32
	subnets []netip.Prefix
	mtu     int
}

// plan decides how a container is attached that got the addresses of leased, and
// completes leased to the result that the runtime is told.
func plan(n network, link, ifname, sandbox string, c *netconf.Conf, leased *types100.Result) (attach.Spec, *types100.Result, error) {
	spec := attach.Spec{
		Link: link, Bridge: overlay.Bridge(n.vni), Name: ifname, MTU: n.mtu, MAC: net.HardwareAddr(c.RuntimeConfig.MAC),
	}
	if len(leased.IPs) == 0 {
		return spec, nil, types.NewError(types.ErrInvalidNetworkConfig, "the IPAM plugin gave no address", "")
	}
	const inside = 2 // of Interfaces below
	for _, ip := range leased.IPs {
		address, err := addressOf(n, ip)
		if err != nil {
			return spec, nil, err
		}
		spec.Addresses = append(spec.Addresses, address)
		gateway := gatewayOf(n, address.Addr())
		if !slices.Contains(spec.Gateways, gateway) {
			spec.Gateways = append(spec.Gateways, gateway)
		}
		// With the subnet that the container sees, whatever the plugin takes it for.
		ip.Address.IP, ip.Address.Mask = address.Addr().AsSlice(), net.CIDRMask(address.Bits(), address.Addr().BitLen())
		ip.Gateway, ip.Interface = gateway.AsSlice(), types100.Int(inside)
	}
	if spec.MAC == nil {
		spec.MAC = macOf(spec.Addresses[0].Addr())
	}
	if err := addRoutes(&spec, leased); err != nil {
		return spec, nil, err
	}
	result := *leased
	result.CNIVersion = types100.ImplementedSpecVersion
	result.Interfaces = []*types100.Interface{
		{Name: spec.Bridge, Mtu: n.mtu},
		{Name: link, Mtu: n.mtu},
		{Name: ifname, Mac: spec.MAC.String(), Mtu: n.mtu, Sandbox: sandbox},
	}
	if !c.DNS.IsEmpty() {
		result.DNS = c.DNS
	}
	return spec, &result, nil
}

// addressOf is an address of a lease, with the length of its subnet. One that this node
// doesn't route would never be answered.
func addressOf(n network, ip *types100.IPConfig) (netip.Prefix, error) {
	if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
		a = a.Unmap()
		for _, s := range n.subnets {
			if !s.Contains(a) {
				continue
			}
			if a == s.Addr() || a == gatewayOf(n, a) || isBroadcast(a, s) {
				return netip.Prefix{}, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("the address %s from the IPAM plugin is none of a container: it is the gateway's, or the subnet's own", a), "")
			}
			return netip.PrefixFrom(a, s.Bits()), nil
		}
	}
	return netip.Prefix{}, types.NewError(types.ErrInvalidNetworkConfig,
		fmt.Sprintf("the address %s from the IPAM plugin is in none of this node's subnets of network %s", ip.Address.IP, n.name),
		fmt.Sprintf("the subnets are %s; let the plugin take addresses from them", n.subnets))
}

// isBroadcast tells whether a is the last address of its IPv4 subnet.
func isBroadcast(a netip.Addr, s netip.Prefix) bool {
	return a.Is4() && s.Bits() < 31 && !s.Contains(a.Next())
}

// gatewayOf is the node's address in the subnet of a container's.
func gatewayOf(n network, a netip.Addr) netip.Addr {
	for i, s := range n.subnets {
		if s.Contains(a) {
			return overlay.Gateways(n.subnets)[i]
		}
	}
	return netip.Addr{}
}

// addRoutes takes the routes of a lease, or makes the gateways the default ones.
func addRoutes(spec *attach.Spec, leased *types100.Result) error {
	if len(leased.Routes) == 0 {
		for _, g := range spec.Gateways {
			leased.Routes = append(leased.Routes, &types.Route{Dst: everything(g), GW: g.AsSlice()})
		}
		return nil
	}
	for _, r := range leased.Routes {
		if r.MTU != 0 || r.AdvMSS != 0 || r.Priority != 0 || r.Table != nil || r.Scope != nil {
			return types.NewError(types.ErrUnsupportedField, fmt.Sprintf("the route to %s from the IPAM plugin has more than a destination and a gateway", r.Dst.String()), "")
		}
		destination, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if !ok || r.Dst.Mask == nil {
			return types.NewError(types.ErrInvalidNetworkConfig, "the IPAM plugin gave a route without a destination", "")
		}
		via, _ := netip.AddrFromSlice(r.GW)
		spec.Routes = append(spec.Routes, attach.Route{Destination: netip.PrefixFrom(destination.Unmap(), bits), Via: via.Unmap()})
	}
	return nil
}

func everything(family netip.Addr) net.IPNet {
	size := family.BitLen()
	return net.IPNet{IP: make(net.IP, size/8), Mask: net.CIDRMask(0, size)}
}

// macOf is the MAC address of who has an IP address: who gets that address next gets the
// same, and nobody's neighbour table is wrong. It is locally administered.
func macOf(a netip.Addr) net.HardwareAddr {
	if a.Is4() {
		return append(net.HardwareAddr{0x0a, 0x58}, a.AsSlice()...)
	}
	sum := sha256.Sum256(a.AsSlice())
	return append(net.HardwareAddr{0x0e, 0x58}, sum[:4]...)
}
