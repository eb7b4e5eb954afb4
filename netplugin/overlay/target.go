package overlay

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
)

// link is a network device; one without a kind is absent.
type link struct {
	name    string
	kind    string // as in ip -d link: "bridge", "vxlan"
	mac     mac
	mtu     int
	up      bool
	master  bool    // it is a port of another device
	options options // of a bridge
	tunnel  tunnel  // of a VXLAN device
}

// tunnel is what a VXLAN device has for life.
type tunnel struct {
	vni, port     int
	local, group  netip.Addr
	lower         int // index of the device it is bound to
	learning      bool
	collect       bool // collect_md: the VNI comes with each packet
	checksum      bool // the outer UDP checksum over IPv4
	zero6, accept bool // no checksum over IPv6: sent, accepted
}

// address is an address with its prefix on a link.
type address struct {
	link   string
	prefix netip.Prefix
}

// routeKey is what the kernel tells routes of a table apart by.
type routeKey struct {
	destination netip.Prefix
	metric      int
}

// route is the rest of a route: over the VXLAN device, or unreachable when via is zero.
type route struct {
	via    netip.Addr
	source netip.Addr
}

// fdbEntry sends frames for a MAC to a node.
type fdbEntry struct {
	mac  mac
	node netip.Addr
}

type set[T comparable] map[T]struct{}

// state is what a network has in the kernel. Routes are those of this package only,
// neighbours the permanent ones on the VXLAN device.
type state struct {
	bridge, device link
	addresses      set[address]
	routes         map[routeKey]route
	neighbours     map[netip.Addr]mac
	fdb            set[fdbEntry]
}

// sysctl is a file below /proc/sys and its value.
type sysctl struct{ path, value string }

// target is a state that should be. Its sysctls are to be written in their order.
type target struct {
	state
	sysctls []sysctl
}

// host is what a target depends on beside the configuration.
type host struct {
	mtu  int  // of the interface with the node's address; 0: it tells nothing
	ipv6 bool // the kernel has IPv6
}

// target computes what should be. n and u are valid.
func (u Underlay) target(n Network, peers []peer, h host) (target, error) {
	bridgeMTU, deviceMTU, err := u.mtus(n, h.mtu)
	if err != nil {
		return target{}, err
	}
	if n.has(true) && !h.ipv6 {
		return target{}, fmt.Errorf("network %d has IPv6 subnets and the kernel no IPv6; boot it with IPv6, or take the subnets away: %w", n.VNI, errdefs.ErrFailedPrecondition)
	}
	t := target{state: state{
		bridge: link{name: Bridge(n.VNI), kind: "bridge", mac: mac(BridgeMAC(n.VNI)), mtu: bridgeMTU, up: true},
		device: link{
			name: Device(n.VNI), kind: "vxlan", mac: mac(VTEPMAC(u.Address, n.VNI)), mtu: deviceMTU, up: true,
			tunnel: tunnel{vni: int(n.VNI), port: u.Port, local: u.Address, checksum: true},
		},
		addresses:  set[address]{},
		routes:     map[routeKey]route{},
		neighbours: map[netip.Addr]mac{},
		fdb:        set[fdbEntry]{},
	}}
	t.addAddresses(n)
	t.addPeers(n, peers)
	for _, c := range n.Cluster {
		if n.has(c.Addr().Is6()) {
			t.routes[routeKey{c, unreachableMetric + int(n.VNI)}] = route{}
		}
	}
	t.addSysctls(n, h)
	return t, nil
}

func (t *target) addAddresses(n Network) {
	for i, g := range Gateways(n.Subnets) {
		t.addresses[address{t.bridge.name, netip.PrefixFrom(g, n.Subnets[i].Bits())}] = struct{}{}
	}
	// The kernel solicits neighbours from the link-local address only. It is not left to
	// the kernel to add it: that would wait for the first port and detect duplicates, and
	// the first container could be reached seconds later.
	if n.has(true) {
		t.addresses[address{t.bridge.name, netip.PrefixFrom(linkLocal(t.bridge.mac), 64)}] = struct{}{}
	}
}

func (t *target) addPeers(n Network, peers []peer) {
	for _, p := range peers {
		t.fdb[fdbEntry{p.mac, p.address}] = struct{}{}
		for _, s := range p.subnets {
			via := nextHop(s, p.mac)
			t.neighbours[via] = p.mac
			key := routeKey{destination: s}
			if s.Addr().Is6() {
				key.metric = defaultMetric6
			}
			// The node's own packets come from its gateway address: answers to the
			// underlay's would not come back through the tunnel.
			t.routes[key] = route{via: via, source: gateway(n, s.Addr().Is6())}
		}
	}
}

// gateway is the first gateway of a family that n has.
func gateway(n Network, v6 bool) netip.Addr {
	gateways := Gateways(n.Subnets)
	return gateways[slices.IndexFunc(gateways, func(g netip.Addr) bool { return g.Is6() == v6 })]
}

func (t *target) addSysctls(n Network, h host) {
	add := func(path, value string) { t.sysctls = append(t.sysctls, sysctl{path, value}) }
	if n.has(false) {
		add(forwarding4, "1")
	}
	for _, l := range []link{t.bridge, t.device} {
		if n.has(false) {
			add("net/ipv4/conf/"+l.name+"/forwarding", "1")
		}
		if !h.ipv6 || l.mtu < minMTU6 { // then the kernel has no such directory
			continue
		}
		conf := "net/ipv6/conf/" + l.name + "/"
		add(conf+"addr_gen_mode", "1") // none: no address by itself
		add(conf+"accept_ra", "0")
		add(conf+"autoconf", "0")
		if n.has(true) {
			add(conf+"disable_ipv6", "0") // conf.default may say otherwise
		}
	}
	if n.has(true) {
		add(forwarding6, "1")
		add("net/ipv6/conf/"+t.bridge.name+"/forwarding", "1")
		add("net/ipv6/conf/"+t.device.name+"/forwarding", "1")
	}
}

const (
	forwarding4 = "net/ipv4/ip_forward"
	forwarding6 = "net/ipv6/conf/all/forwarding"
)
