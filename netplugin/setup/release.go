package setup

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// release removes what the kernel holds for the networks, in the network namespace of the
// calling thread. It goes by what is there: the configuration may have changed since. It
// fails with ErrFailedPrecondition, and removes nothing, while a bridge has ports. Nobody
// may make networks.
func release(context.Context) error {
	links, err := dump.All(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list the network's links: %w", err)
	}
	ours := map[int]netlink.Link{}
	for _, l := range links {
		if isOurs(l) {
			ours[l.Attrs().Index] = l
		}
	}
	for _, l := range links {
		if bridge, ok := ours[l.Attrs().MasterIndex]; ok {
			return fmt.Errorf("bridge %s still has the port %s; remove the container that it belongs to: %w",
				bridge.Attrs().Name, l.Attrs().Name, errdefs.ErrFailedPrecondition)
		}
	}
	var errs []error
	for _, l := range ours {
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove %s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(append(errs, releaseRoutes(), releaseTables(), releasePrograms())...)
}

// isOurs tells whether a link is a network's bridge fb<VNI> or its VXLAN device fx<VNI>.
func isOurs(l netlink.Link) bool {
	name := l.Attrs().Name
	vni, err := strconv.ParseUint(name[min(2, len(name)):], 10, 24)
	if err != nil || vni < 1 || vni > overlay.MaxVNI {
		return false
	}
	switch l := l.(type) {
	case *netlink.Bridge:
		return name == overlay.Bridge(uint32(vni))
	case *netlink.Vxlan:
		return name == overlay.Device(uint32(vni)) && uint64(l.VxlanId) == vni
	}
	return false
}

// releaseRoutes removes those of the networks' routes that are on no link of theirs.
func releaseRoutes() error {
	routes, err := dump.All(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: overlay.Protocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return fmt.Errorf("list the networks' routes: %w", err)
	}
	var errs []error
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove the route to %v: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// releaseTables removes the firewall's tables, if they are there.
func releaseTables() error {
	f, err := firewall.Open()
	if err == nil {
		err = errors.Join(f.Remove(), f.Close())
	}
	if errdefs.IsNotImplemented(err) { // then there never were any
		return nil
	}
	return err
}

// releasePrograms detaches those of the shortcut, which are at the underlay's link too.
func releasePrograms() error {
	if err := fastpath.Detach(fastpath.Probe()); err != nil {
		return fmt.Errorf("detach the programs of the shortcut: %w", err)
	}
	return nil
}
