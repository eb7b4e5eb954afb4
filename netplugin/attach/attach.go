// Package attach plugs one container into a network's bridge by a veth pair.
//
// The host's end is a port of the bridge; the container's end is created inside the
// container's network namespace: it never moves (moving a device between namespaces
// costs tens of milliseconds). One netlink message makes the pair with names, MTU, MAC,
// bridge and the host's end up; the rest (addresses, up, routes) is said inside the
// namespace. Loopback is left alone: it is another plugin's.
//
// Functions work in the calling thread's network namespace, which is where the bridge
// is; a Detacher in that of the thread that made it. They may be called concurrently.
// They keep no state: what is attached is what the kernel says is.
package attach

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Spec says how a container is attached. Check compares it with what is.
type Spec struct {
	Link      string           // the host's end, from LinkName
	Bridge    string           // whose port the host's end becomes
	Name      string           // the container's end, as "eth0"
	MTU       int              // bytes, of both ends; 0 = the kernel's default (and not checked)
	MAC       net.HardwareAddr // the container's end's; nil = random (and not checked)
	Addresses []netip.Prefix   // the container's, with the length of the subnet
	Gateways  []netip.Addr     // at most one of each family counts: the first
	Routes    []Route          // none: a default route by the gateway of each family
}

// Route is one route inside the container.
type Route struct {
	Destination netip.Prefix
	Via         netip.Addr // zero: the gateway of the destination's family; reached on-link
}

const (
	linkPrefix = "fv"
	linkDigits = 11
)

// LinkName is the host's end of a container's interface: "fv" and 11 hex digits of a
// hash (44 bits: two of 10,000 attachments share a name with a chance of 3 in a million).
func LinkName(containerID, ifname string) string {
	sum := sha256.Sum256([]byte(containerID + "\x00" + ifname))
	return linkPrefix + hex.EncodeToString(sum[:])[:linkDigits]
}

// IsLinkName reports whether a link's name has the form of LinkName: whether the link
// may be taken for ours.
func IsLinkName(link string) bool {
	digits, ours := strings.CutPrefix(link, linkPrefix)
	return ours && len(digits) == linkDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// ours refuses to touch links that are not of this package's making.
func ours(link string) error {
	if IsLinkName(link) {
		return nil
	}
	return fmt.Errorf("%q is not the name of a container's link: %w", link, errdefs.ErrInvalidArgument)
}

func (s Spec) validate() error {
	if err := ours(s.Link); err != nil {
		return err
	}
	for what, name := range map[string]string{"bridge": s.Bridge, "interface": s.Name} {
		if name == "" || name == "." || name == ".." || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/: \t\r\n\v\f") {
			return fmt.Errorf("%s name %q is not one of a link: %w", what, name, errdefs.ErrInvalidArgument)
		}
	}
	if s.MTU < 0 || (s.MAC != nil && len(s.MAC) != 6) {
		return fmt.Errorf("MTU %d, MAC %s: %w", s.MTU, s.MAC, errdefs.ErrInvalidArgument)
	}
	for _, a := range s.Addresses {
		if !a.IsValid() || a.Addr().Is4In6() {
			return fmt.Errorf("address %s: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	for _, g := range s.Gateways {
		if !g.IsValid() || g.Is4In6() {
			return fmt.Errorf("gateway %s: %w", g, errdefs.ErrInvalidArgument)
		}
		if slices.ContainsFunc(s.Addresses, func(a netip.Prefix) bool { return a.Addr() == g }) {
			return fmt.Errorf("the gateway's address %s for a container: %w", g, errdefs.ErrInvalidArgument)
		}
	}
	_, err := s.routes()
	return err
}

// hop is a route as the kernel gets it.
type hop struct {
	destination netip.Prefix // masked
	via         netip.Addr
	onlink      bool // via is in none of the container's subnets
}

// routes are those the container shall have: the spec's, or the default ones.
func (s Spec) routes() ([]hop, error) {
	routes := s.Routes
	if len(routes) == 0 {
		for _, all := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
			if s.gateway(all).IsValid() {
				routes = append(routes, Route{Destination: all})
			}
		}
	}
	var hops []hop
	for _, r := range routes {
		if !r.Destination.IsValid() || r.Destination.Addr().Is4In6() {
			return nil, fmt.Errorf("route to %s: %w", r.Destination, errdefs.ErrInvalidArgument)
		}
		via := r.Via
		if !via.IsValid() {
			via = s.gateway(r.Destination)
		}
		if !via.IsValid() || via.Is4() != r.Destination.Addr().Is4() {
			return nil, fmt.Errorf("route to %s has no gateway of its family: %w", r.Destination, errdefs.ErrInvalidArgument)
		}
		hops = append(hops, hop{destination: r.Destination.Masked(), via: via, onlink: !s.covers(via)})
	}
	return hops, nil
}

// gateway is the one for a destination, if there is one.
func (s Spec) gateway(destination netip.Prefix) netip.Addr {
	for _, g := range s.Gateways {
		if g.Is4() == destination.Addr().Is4() {
			return g
		}
	}
	return netip.Addr{}
}

func (s Spec) covers(a netip.Addr) bool {
	for _, p := range s.Addresses {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
