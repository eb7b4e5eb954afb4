package attach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attach makes the pair and all inside the namespace ns, which it only borrows. When it
// returns, packets pass and the addresses are usable: IPv6 skips duplicate detection
// (the address is the node's to give) and router advertisements are ignored.
//
// When it fails nothing is left. Errors: errdefs.ErrAlreadyExists when the host's link
// or the name inside is taken, ErrNotFound when there is no such bridge,
// ErrInvalidArgument for a spec that can't be.
func Attach(ns *os.File, s Spec) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("attach %s: %w", s.Name, err)
	}
	t, err := lockThread()
	if err != nil {
		return fmt.Errorf("attach %s: %w", s.Name, err)
	}
	defer t.unlock()

	bridge, err := indexOf(s.Bridge)
	if err != nil {
		return fmt.Errorf("attach %s: bridge %s is not there, the network's agent makes it: %w", s.Name, s.Bridge, err)
	}
	if _, err := vethRequest(s, bridge, int(ns.Fd())).Execute(unix.NETLINK_ROUTE, 0); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("attach %s: it or the host's link %s is there already; detach the container first: %w", s.Name, s.Link, errdefs.ErrAlreadyExists)
		}
		return fmt.Errorf("attach %s: make veth %s: %w", s.Name, s.Link, err)
	}
	if err = hairpin(s.Link); err == nil {
		err = t.in(ns, func() error { return configure(s) })
	}
	if err == nil {
		// The bridge gets its carrier from its first port.
		err = settle(s.Link, s.Bridge)
	}
	if err != nil {
		// Deleting one end deletes both. The thread is back in the host's namespace.
		return errors.Join(fmt.Errorf("attach %s: %w", s.Name, err), Detach(s.Link))
	}
	return nil
}

// vethRequest makes the pair. By the library's own LinkAdd the bridge would take two
// more messages.
func vethRequest(s Spec, bridge, ns int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	host := nl.NewIfInfomsg(unix.AF_UNSPEC)
	host.Flags, host.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(host)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(s.Link)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	// The peer can't come up in the same message: the kernel ties the two together
	// only after it has configured it (drivers/net/veth.c, veth_newlink).
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(s.Name))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	// One queue: by default the kernel makes one for each possible CPU at both ends (and
	// an object in sysfs for each), though a veth never queues without NAPI. RPS spreads
	// the packets of one queue as well.
	for _, queues := range []int{unix.IFLA_NUM_TX_QUEUES, unix.IFLA_NUM_RX_QUEUES} {
		req.AddData(nl.NewRtAttr(queues, nl.Uint32Attr(1)))
		peer.AddRtAttr(queues, nl.Uint32Attr(1))
	}
	if s.MTU > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(s.MTU))))
		peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(s.MTU)))
	}
	if s.MAC != nil {
		peer.AddRtAttr(unix.IFLA_ADDRESS, s.MAC)
	}
	req.AddData(info)
	return req
}

// hairpin lets a container reach itself by a service of the node's: where br_netfilter is
// on, the bridge does the destination's NAT and sends the packet on, without hairpin never
// back to the port that it came from (net/bridge/br_netfilter_hooks.c, br_forward.c).
func hairpin(link string) error {
	index, err := indexOf(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	port := nl.NewIfInfomsg(unix.AF_BRIDGE)
	port.Index = int32(index)
	req.AddData(port)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{1})
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("let the bridge send %s's own packets back to it: %w", link, err)
	}
	return nil
}

// secondary is above the metrics of default routes: 0 of IPv4, 1024 of IPv6.
const secondary = 1024

// configure does the container's end. The calling thread is inside.
func configure(s Spec) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink in the container's namespace: %w", err)
	}
	defer h.Close()
	index, err := indexOf(s.Name)
	if err != nil {
		return fmt.Errorf("find %s in the container: %w", s.Name, err)
	}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	// By router advertisements its neighbours on the bridge could take its traffic.
	// Netlink has no message for it.
	if err := setIPv6(s.Name, "accept_ra", "0"); err != nil {
		return err
	}
	for _, a := range s.Addresses {
		err := h.AddrAdd(link, address(a))
		if errors.Is(err, unix.EACCES) && a.Addr().Is6() {
			// The host's default for new namespaces may be "no IPv6"; the network has it.
			if err = setIPv6(s.Name, "disable_ipv6", "0"); err == nil {
				err = h.AddrAdd(link, address(a))
			}
		}
		if err != nil {
			return fmt.Errorf("give the container the address %s: %w", a, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up in the container: %w", s.Name, err)
	}
	hops, err := s.routes()
	if err != nil {
		return err
	}
	for _, r := range hops {
		to := route(r, index)
		err := h.RouteAdd(to)
		if errors.Is(err, unix.EEXIST) && r.destination.Bits() == 0 {
			// The container is in another network already, whose default route goes first.
			to.Priority = secondary + index
			err = h.RouteAdd(to)
		}
		if err != nil {
			return fmt.Errorf("route to %s via %s in the container: %w", r.destination, r.via, err)
		}
	}
	return nil
}

// setIPv6 sets an IPv6 parameter of a link of the calling thread's namespace. A kernel
// without IPv6 has none of them, and that is no error.
func setIPv6(link, parameter, value string) error {
	f, err := os.OpenFile("/proc/sys/net/ipv6/conf/"+link+"/"+parameter, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set %s in the container (is /proc/sys writable?): %w", parameter, err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("set %s in the container: %w", parameter, err)
	}
	return nil
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func route(r hop, index int) *netlink.Route {
	to := &netlink.Route{LinkIndex: index, Dst: ipNet(r.destination), Gw: r.via.AsSlice()}
	if r.onlink {
		to.SetFlag(netlink.FLAG_ONLINK)
	}
	return to
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// indexOf finds a link of the calling thread's namespace; errdefs.ErrNotFound. Unlike
// netlink's answer this one is small and waits for no lock.
func indexOf(name string) (int, error) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFINDEX, r); err != nil {
		if errors.Is(err, unix.ENODEV) {
			err = errors.Join(err, errdefs.ErrNotFound)
		}
		return 0, err
	}
	return int(r.Uint32()), nil
}
