package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
)

// Underlay is how this node reaches the others.
type Underlay struct {
	Address netip.Addr // this node's VTEP: an address of one of its interfaces
	Port    int        // UDP port of VXLAN, the same on all nodes
}

// Network is one network as this node has it.
type Network struct {
	VNI     uint32         // 1 to MaxVNI
	Subnets []netip.Prefix // this node's: at most /30 and /126
	Cluster []netip.Prefix // all nodes' together; none: not known
	MTU     int            // of the containers in bytes; 0: what fits the underlay
}

// Remote is another node that takes part in a network.
type Remote struct {
	Address netip.Addr     // its VTEP
	Subnets []netip.Prefix // its subnets of the network
}

// The headers of a tunnelled packet in bytes: outer IP, UDP, VXLAN, inner Ethernet.
const (
	header4 = 20 + 8 + 8 + 14
	header6 = 40 + 8 + 8 + 14
)

// minMTU6 is the smallest MTU with which the kernel runs IPv6 on a link (RFC 8200, section 5).
const minMTU6 = 1280

// Gateways are the addresses that a node's bridge holds: the first usable one of each
// subnet, the one after the network address. A subnet too small for a gateway and a
// container beside it has none: [Network.Validate] refuses it.
func Gateways(subnets []netip.Prefix) []netip.Addr {
	var gateways []netip.Addr
	for _, s := range subnets {
		if roomy(s) {
			gateways = append(gateways, s.Masked().Addr().Next())
		}
	}
	return gateways
}

// roomy says whether a subnet has a gateway and a container's address beside the network
// address and, with IPv4, the broadcast address. /31 (RFC 3021) and /127 (RFC 6164) hold
// two, but the usual IPAM plugins refuse them too.
func roomy(s netip.Prefix) bool { return s.IsValid() && s.Addr().BitLen()-s.Bits() >= 2 }

// Validate says what is wrong with an underlay: errdefs.ErrInvalidArgument.
func (u Underlay) Validate() error {
	switch {
	case !reachable(u.Address):
		return fmt.Errorf("the node's address %v is not one that other nodes can reach; set another: %w", u.Address, errdefs.ErrInvalidArgument)
	case u.Port < 1 || u.Port > 65535:
		return fmt.Errorf("the VXLAN port %d is not in 1 to 65535: %w", u.Port, errdefs.ErrInvalidArgument)
	}
	return nil
}

// reachable admits addresses that mean the same to every node.
func reachable(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.Is4In6() && a.Zone() == ""
}

// Validate says what is wrong with a network: errdefs.ErrInvalidArgument.
func (n Network) Validate() error {
	if n.VNI < 1 || n.VNI > MaxVNI {
		return fmt.Errorf("the VNI %d is not in 1 to %d: %w", n.VNI, MaxVNI, errdefs.ErrInvalidArgument)
	}
	if n.MTU < 0 || n.MTU > 65535-header6 {
		return fmt.Errorf("the MTU %d of network %d is not in 0 to %d: %w", n.MTU, n.VNI, 65535-header6, errdefs.ErrInvalidArgument)
	}
	for i, s := range n.Subnets {
		if err := checkSubnet(s); err != nil {
			return fmt.Errorf("network %d: %w", n.VNI, err)
		}
		if j := slices.IndexFunc(n.Subnets[:i], s.Overlaps); j >= 0 {
			return fmt.Errorf("network %d: its subnets %v and %v overlap: %w", n.VNI, n.Subnets[j], s, errdefs.ErrInvalidArgument)
		}
		if !n.covers(s) {
			return fmt.Errorf("network %d: its subnet %v is in none of its cluster prefixes %v: %w", n.VNI, s, n.Cluster, errdefs.ErrInvalidArgument)
		}
	}
	for _, c := range n.Cluster {
		if !c.IsValid() || c != c.Masked() || c.Addr().Is4In6() {
			return fmt.Errorf("network %d: the cluster prefix %v is no prefix without host bits: %w", n.VNI, c, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func checkSubnet(s netip.Prefix) error {
	switch {
	case !s.IsValid() || s != s.Masked() || !reachable(s.Addr()):
		return fmt.Errorf("the subnet %v is no prefix of unicast addresses without host bits: %w", s, errdefs.ErrInvalidArgument)
	case !roomy(s):
		return fmt.Errorf("the subnet %v is too small for a gateway and a container: take /30 or larger, with IPv6 /126: %w", s, errdefs.ErrInvalidArgument)
	}
	return nil
}

// covers says whether a subnet may be part of the network.
func (n Network) covers(s netip.Prefix) bool {
	return len(n.Cluster) == 0 || slices.ContainsFunc(n.Cluster, func(c netip.Prefix) bool {
		return c.Bits() <= s.Bits() && c.Overlaps(s)
	})
}

// has says whether the node has subnets of IPv4 or IPv6.
func (n Network) has(v6 bool) bool {
	return slices.ContainsFunc(n.Subnets, func(s netip.Prefix) bool { return s.Addr().Is6() == v6 })
}

// header is what the tunnel adds to a packet, in bytes.
func (u Underlay) header() int {
	if u.Address.Is6() {
		return header6
	}
	return header4
}

// mtus are the MTUs of a network's bridge and VXLAN device. underlay is that of the
// interface with the node's address, 0 if it tells nothing. The bridge's may be the
// larger: then containers are told by ICMP what fits the tunnel.
func (u Underlay) mtus(n Network, underlay int) (bridge, device int, err error) {
	device = underlay - u.header()
	switch {
	case underlay == 0 && n.MTU == 0:
		return 0, 0, fmt.Errorf("the node's address %v is on a loopback interface, which doesn't tell the MTU between nodes; set the MTU of network %d: %w",
			u.Address, n.VNI, errdefs.ErrFailedPrecondition)
	case n.MTU == 0:
		bridge = device
	case underlay == 0:
		bridge, device = n.MTU, n.MTU
	default:
		bridge, device = n.MTU, min(n.MTU, device)
	}
	if least := 68; device < least {
		return 0, 0, fmt.Errorf("the MTU %d of network %d's tunnel is below %d: %w", device, n.VNI, least, errdefs.ErrFailedPrecondition)
	}
	if n.has(true) && device < minMTU6 {
		return 0, 0, fmt.Errorf("the MTU %d of network %d's tunnel is below IPv6's least of %d; raise it and the underlay's, or take the IPv6 subnets away: %w",
			device, n.VNI, minMTU6, errdefs.ErrFailedPrecondition)
	}
	return bridge, device, nil
}

// peer is a remote node that can be set up.
type peer struct {
	address netip.Addr
	mac     mac
	subnets []netip.Prefix // of the families that this node has too
}

// peers sorts out the remotes whose word would break this network, and says which:
// errdefs.ErrInvalidArgument. The others are right whatever the error.
func (u Underlay) peers(n Network, remotes []Remote) ([]peer, error) {
	type claim struct {
		subnet netip.Prefix
		node   netip.Addr
	}
	var claims []claim
	var errs []error
	for _, r := range remotes {
		if err := u.checkRemote(n, r); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, s := range r.Subnets {
			if n.has(s.Addr().Is6()) {
				claims = append(claims, claim{s, r.Address})
			}
		}
	}
	// Sorted, a prefix stands right before those it contains.
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(a.subnet.Addr().Compare(b.subnet.Addr()), a.subnet.Bits()-b.subnet.Bits(), a.node.Compare(b.node))
	})
	subnets := make(map[netip.Addr][]netip.Prefix)
	var last claim
	for _, c := range claims {
		if last.subnet.IsValid() && last.subnet.Overlaps(c.subnet) {
			if last != c {
				errs = append(errs, fmt.Errorf("network %d: node %v has the subnet %v, which overlaps %v of node %v and is left out: %w",
					n.VNI, c.node, c.subnet, last.subnet, last.node, errdefs.ErrInvalidArgument))
			}
			continue
		}
		last = c
		subnets[c.node] = append(subnets[c.node], c.subnet)
	}
	peers := make([]peer, 0, len(subnets))
	for node, s := range subnets {
		peers = append(peers, peer{node, mac(VTEPMAC(node, n.VNI)), s})
	}
	slices.SortFunc(peers, func(a, b peer) int { return a.address.Compare(b.address) })
	return peers, errors.Join(errs...)
}

func (u Underlay) checkRemote(n Network, r Remote) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("network %d: node %v is left out: %s: %w", n.VNI, r.Address, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	switch {
	case !reachable(r.Address):
		return bad("its address is not one that other nodes can reach")
	case r.Address.Is4() != u.Address.Is4():
		return bad("its address is not of the same family as this node's, %v", u.Address)
	case r.Address == u.Address:
		return bad("its address is this node's")
	}
	for _, s := range r.Subnets {
		if err := checkSubnet(s); err != nil {
			return bad("%v", err)
		}
		if i := slices.IndexFunc(n.Subnets, s.Overlaps); i >= 0 {
			return bad("its subnet %v overlaps %v of this node", s, n.Subnets[i])
		}
		if !n.covers(s) {
			return bad("its subnet %v is in none of the cluster prefixes %v", s, n.Cluster)
		}
		// Encapsulated packets would be routed into the tunnel again.
		if s.Contains(r.Address) || s.Contains(u.Address) {
			return bad("its subnet %v contains a node's address", s)
		}
	}
	return nil
}
