package peers

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"

	"github.com/containerd/errdefs"
)

const (
	maxName = 253 // of a host, RFC 1123
	maxVNI  = 1<<24 - 1

	// maxSubnets of a node; a record with more is a mistake, or is meant to fill tables.
	maxSubnets = 1024
	// minBits is the length of the largest subnet: no node has a larger part of the world.
	minBits = 8
)

// validName is what a host name, a key in etcd and a line of a log can all have.
var validName = regexp.MustCompile(`^[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$`)

// Validate checks a node for itself: the name, that the address can be one of a host in the
// underlay, that VNIs are 1 to 2^24-1, and that subnets are written without host bits,
// have room for a network address, a gateway and a container, and overlap neither each
// other nor the address. Errors are ErrInvalidArgument.
func (n Node) Validate() error {
	_, err := n.claims()
	return err
}

// claims checks n for itself and returns what it takes of the address space: its address
// and its subnets.
func (n Node) claims() ([]netip.Prefix, error) {
	if len(n.Name) > maxName || !validName.MatchString(n.Name) {
		return nil, invalid("%.300q is no name of a node, want at most %d letters, digits, and between them dots, dashes and underscores", n.Name, maxName)
	}
	if err := checkAddress(n.Address); err != nil {
		return nil, err
	}
	var own space
	_ = own.add(netip.PrefixFrom(n.Address, n.Address.BitLen()), n.Name)
	for _, vni := range slices.Sorted(maps.Keys(n.Networks)) {
		if vni < 1 || vni > maxVNI {
			return nil, invalid("VNI %d, want 1 to %d", vni, maxVNI)
		}
		if len(n.Networks[vni]) == 0 {
			return nil, invalid("network %d has no subnets; leave the network out or give it one", vni)
		}
		for _, subnet := range n.Networks[vni] {
			if err := checkSubnet(subnet); err != nil {
				return nil, fmt.Errorf("network %d: %w", vni, err)
			}
			if clash := own.add(subnet, n.Name); clash != nil {
				return nil, invalid("subnet %s of network %d overlaps %s of the same node", subnet, vni, clash)
			}
			if len(own.taken) > maxSubnets {
				return nil, invalid("more than %d subnets", maxSubnets)
			}
		}
	}
	claims := make([]netip.Prefix, len(own.taken))
	for i, t := range own.taken {
		claims[i] = t.prefix
	}
	return claims, nil
}

func checkAddress(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return invalid("no address; give the address of the node in the underlay")
	case a.Zone() != "" || a.Is4In6() || !a.IsGlobalUnicast():
		return invalid("%.100q can't be a node's address in the underlay, want an IPv4 or IPv6 address of a host, not link-local", a)
	}
	return nil
}

func checkSubnet(p netip.Prefix) error {
	switch a := p.Addr(); {
	case !p.IsValid():
		return invalid("a subnet is no prefix")
	case p != p.Masked():
		return invalid("subnet %s has bits beyond its length, want %s", p, p.Masked())
	case a.Is4In6() || !a.IsGlobalUnicast():
		return invalid("subnet %s can't be one of containers, want unicast addresses that aren't link-local", p)
	case p.Bits() < minBits || p.Bits() > a.BitLen()-2:
		return invalid("subnet %s, want a length of /%d to /%d", p, minBits, a.BitLen()-2)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
