package attach

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

// Check compares what is with the spec: both ends up and tied to each other, MTU, MAC,
// bridge, addresses and routes. What the container has besides is its own affair. All
// that differs is named in the error, an errdefs.ErrFailedPrecondition.
func Check(ns *os.File, s Spec) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("check %s: %w", s.Name, err)
	}
	is, err := look(ns, s)
	if err != nil {
		return fmt.Errorf("check %s: %w", s.Name, err)
	}
	if wrong := differences(s, is); len(wrong) > 0 {
		return fmt.Errorf("check %s (link %s): %s; detach the container and attach it again: %w",
			s.Name, s.Link, strings.Join(wrong, "; "), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// state is what Check finds.
type state struct {
	bridge       int                // its index; 0: there is none
	host, inside *netlink.LinkAttrs // nil: not there
	addresses    []netlink.Addr     // of the container's end
	routes       []netlink.Route    // through it, of the main table
}

func look(ns *os.File, s Spec) (state, error) {
	t, err := lockThread()
	if err != nil {
		return state{}, err
	}
	defer t.unlock()
	var is state
	if is.bridge, err = indexOf(s.Bridge); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return state{}, err
	}
	if is.host, err = attributes(s.Link); err != nil {
		return state{}, err
	}
	return is, t.in(ns, func() error {
		if is.inside, err = attributes(s.Name); err != nil || is.inside == nil {
			return err
		}
		link := &netlink.GenericLink{LinkAttrs: *is.inside}
		is.addresses, err = dump.All(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list the container's addresses: %w", err)
		}
		is.routes, err = dump.All(func() ([]netlink.Route, error) { return netlink.RouteList(link, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list the container's routes: %w", err)
		}
		return nil
	})
}

// attributes of a link; nil if it isn't there.
func attributes(name string) (*netlink.LinkAttrs, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at link %s: %w", name, err)
	}
	return link.Attrs(), nil
}

// differences says in what a container is not as its spec wants it.
func differences(s Spec, is state) (wrong []string) {
	differs := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if is.host == nil {
		differs("the host's link is gone")
	} else {
		if is.bridge == 0 {
			differs("bridge %s is gone", s.Bridge)
		} else if is.host.MasterIndex != is.bridge {
			differs("the host's link is not a port of bridge %s", s.Bridge)
		}
		if is.host.Flags&net.FlagUp == 0 {
			differs("the host's link is down")
		}
		if s.MTU > 0 && is.host.MTU != s.MTU {
			differs("the host's link has MTU %d, not %d", is.host.MTU, s.MTU)
		}
	}
	if is.inside == nil {
		differs("the container has no link %s", s.Name)
		return wrong
	}
	if is.host != nil && (is.host.ParentIndex != is.inside.Index || is.inside.ParentIndex != is.host.Index) {
		differs("the container's link is not the other end of the host's")
	}
	if is.inside.Flags&net.FlagUp == 0 {
		differs("the container's link is down")
	}
	// A smaller one is fine: the tuning plugin sets it.
	if s.MTU > 0 && is.inside.MTU > s.MTU {
		differs("the container's link has MTU %d, which is more than %d", is.inside.MTU, s.MTU)
	}
	if s.MAC != nil && !bytes.Equal(is.inside.HardwareAddr, s.MAC) {
		differs("the container's link has MAC %s, not %s", is.inside.HardwareAddr, s.MAC)
	}
	for _, want := range s.Addresses {
		i := slices.IndexFunc(is.addresses, func(a netlink.Addr) bool { return prefix(a.IPNet) == want })
		if i < 0 {
			differs("the container lacks address %s", want)
		} else if is.addresses[i].Flags&(unix.IFA_F_DADFAILED|unix.IFA_F_TENTATIVE) != 0 {
			differs("the container's address %s is not usable (its duplicate address detection runs or failed)", want)
		}
	}
	hops, err := s.routes()
	if err != nil {
		differs("%v", err)
	}
	for _, want := range hops {
		if !slices.ContainsFunc(is.routes, func(r netlink.Route) bool {
			via, _ := netip.AddrFromSlice(r.Gw)
			return via.Unmap() == want.via && destination(r) == want.destination
		}) {
			differs("the container lacks the route to %s via %s", want.destination, want.via)
		}
	}
	return wrong
}

// destination of a route; the library gives a default route as nil or as 0.0.0.0/0.
func destination(r netlink.Route) netip.Prefix {
	switch {
	case r.Dst != nil:
		return prefix(r.Dst)
	case r.Family == unix.AF_INET6:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	default:
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
}

// prefix is zero for nil.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}
