package agent

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// FindAddress is the first address of the interface with the default route, IPv4's if
// there are both: where other nodes reach this one unless it is told otherwise.
func FindAddress() (netip.Addr, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump.All(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil {
			return netip.Addr{}, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if prefixLength(r) != 0 || r.LinkIndex == 0 { // of several links it has no index
				continue
			}
			if a, err := firstAddress(r.LinkIndex, family); err != nil || a.IsValid() {
				return a, err
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("there is no default route to find this node's address by; set \"address\" in the configuration: %w", errdefs.ErrFailedPrecondition)
}

func prefixLength(r netlink.Route) int {
	if r.Dst == nil {
		return 0
	}
	ones, _ := r.Dst.Mask.Size()
	return ones
}

func firstAddress(link, family int) (netip.Addr, error) {
	l, err := netlink.LinkByIndex(link)
	if err != nil {
		return netip.Addr{}, err
	}
	addresses, err := dump.All(func() ([]netlink.Addr, error) { return netlink.AddrList(l, family) })
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addresses {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap().IsGlobalUnicast() {
			return ip.Unmap(), nil
		}
	}
	return netip.Addr{}, nil
}

// locate finds where this node is in the underlay, and reports whether that changed.
func (a *Agent) locate() (changed bool, err error) {
	address := a.config.Address
	if !address.IsValid() {
		if address, err = FindAddress(); err != nil {
			if a.underlay() != nil {
				return false, nil // a default route comes and goes; the address is what it was
			}
			return false, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.overlay != nil && address == a.address {
		return false, nil
	}
	o, err := overlay.New(overlay.Underlay{Address: address, Port: a.config.Port})
	if err != nil {
		return false, err
	}
	a.overlay, a.address = o, address
	return true, nil
}

// underlay is what there is of it, nil before it was found.
func (a *Agent) underlay() *overlay.Overlay {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.overlay
}

// watchAddresses has the node looked at when an address of its own changes.
func (a *Agent) watchAddresses(ctx context.Context) error {
	updates := make(chan netlink.AddrUpdate)
	err := netlink.AddrSubscribeWithOptions(updates, ctx.Done(), netlink.AddrSubscribeOptions{
		ErrorCallback: func(err error) { log.G(ctx).WithError(err).Debug("watch addresses") },
	})
	if err != nil {
		return fmt.Errorf("watch this node's addresses: %w", err)
	}
	for u := range updates {
		// Every container's link has a link-local one.
		if u.LinkAddress.IP.IsGlobalUnicast() {
			a.wake()
		}
	}
	<-ctx.Done()
	return nil
}
