package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// State is all that the firewall depends on. Replace makes the kernel match it.
type State struct {
	Port      uint16       // the VXLAN port, UDP
	VTEPs     []netip.Addr // underlay addresses of the other nodes
	Networks  []Network
	Endpoints []Endpoint // the containers of this node
}

// Network is one network on this node.
type Network struct {
	Bridge     string
	Device     string         // its VXLAN device
	Subnets    []netip.Prefix // this node's, disjoint from those of all networks
	Cluster    []netip.Prefix // where the network's packets keep their source
	Masquerade bool           // whether they get the node's address elsewhere
}

// Endpoint is one container's attachment.
type Endpoint struct {
	Link string           // the host's end, begins with "fv"
	MAC  net.HardwareAddr // the container's end's
	// Addresses are what the container may use besides the IPv6 link-local address
	// that is derived from the MAC (RFC 4291, appendix A).
	Addresses []netip.Addr
}

// linkPrefix begins the names of the host's ends of containers.
const linkPrefix = "fv"

// validate returns errdefs.ErrInvalidArgument for a state that has no sense.
func (s *State) validate() error {
	if s.Port == 0 {
		return invalid("the VXLAN port is 0; give the one the VXLAN devices use, such as 4789")
	}
	for _, a := range s.VTEPs {
		if err := validHost(a); err != nil {
			return fmt.Errorf("node address: %w", err)
		}
	}
	names := make(map[string]bool)
	for i := range s.Networks {
		n := &s.Networks[i]
		if err := n.validate(); err != nil {
			return fmt.Errorf("network of bridge %q: %w", n.Bridge, err)
		}
		for _, name := range []string{n.Bridge, n.Device} {
			if names[name] {
				return invalid("link %s is named twice; each network has a bridge and a device of its own", name)
			}
			names[name] = true
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if err := e.validate(); err != nil {
			return err
		}
		if names[e.Link] {
			return invalid("link %s is named twice; each endpoint has a link of its own", e.Link)
		}
		names[e.Link] = true
	}
	return s.disjoint()
}

func (s *State) disjoint() error {
	type owned struct {
		netip.Prefix
		bridge string
	}
	var all []owned
	for _, n := range s.Networks {
		for _, p := range n.Subnets {
			all = append(all, owned{p, n.Bridge})
		}
	}
	slices.SortFunc(all, func(a, b owned) int { return comparePrefix(a.Prefix, b.Prefix) })
	for i := 1; i < len(all); i++ {
		if a, b := all[i-1], all[i]; a.Overlaps(b.Prefix) {
			return invalid("subnet %s of %s and subnet %s of %s overlap; subnets of all networks must be disjoint", a, a.bridge, b, b.bridge)
		}
	}
	return nil
}

func (n *Network) validate() error {
	for _, name := range []string{n.Bridge, n.Device} {
		if err := validName(name); err != nil {
			return err
		}
		if strings.HasPrefix(name, linkPrefix) {
			return invalid("link name %q begins with %q; such names are for the host's ends of containers", name, linkPrefix)
		}
	}
	for _, p := range slices.Concat(n.Subnets, n.Cluster) {
		switch {
		case !p.IsValid():
			return invalid("an empty prefix")
		case p.Addr().Is4In6():
			return invalid("prefix %s is an IPv4 prefix written as IPv6; write it as IPv4", p)
		case p != p.Masked():
			return invalid("prefix %s has bits set beyond its length; write %s", p, p.Masked())
		}
	}
	return nil
}

func (e *Endpoint) validate() error {
	if err := validName(e.Link); err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	if !strings.HasPrefix(e.Link, linkPrefix) {
		return invalid("endpoint %s: the link's name must begin with %q: the rules know containers by it", e.Link, linkPrefix)
	}
	if len(e.MAC) != 6 || e.MAC[0]&1 != 0 || slices.Equal(e.MAC, make(net.HardwareAddr, 6)) {
		return invalid("endpoint %s: %q is no Ethernet address of one host", e.Link, e.MAC)
	}
	for _, a := range e.Addresses {
		if err := validHost(a); err != nil {
			return fmt.Errorf("endpoint %s: %w", e.Link, err)
		}
	}
	return nil
}

// validHost wants an address of one host, in its own family's form.
func validHost(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return invalid("an empty address")
	case a.Is4In6():
		return invalid("address %s is an IPv4 address written as IPv6; write it as IPv4", a)
	case a.Zone() != "":
		return invalid("address %s has a zone; give a global one", a)
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return invalid("address %s is not that of one host", a)
	}
	return nil
}

// validName follows net/core/dev.c, dev_valid_name.
func validName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\v\f\r\x00"):
		return invalid("%q is no link's name", name)
	case len(name) >= unix.IFNAMSIZ:
		return invalid("link name %q has %d bytes and may have %d", name, len(name), unix.IFNAMSIZ-1)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
