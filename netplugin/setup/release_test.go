package setup

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// left names the links and nftables tables of the calling thread's namespace, and the
// destinations of routes.
func left(t *testing.T) []string {
	t.Helper()
	var all []string
	links, err := dump.All(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		all = append(all, l.Attrs().Name)
	}
	routes, err := dump.All(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		all = append(all, r.Dst.String())
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, tb := range tables {
		all = append(all, "table "+tb.Name)
	}
	slices.Sort(all)
	return all
}

// build makes links and brings them up.
func build(t *testing.T, links ...netlink.Link) {
	t.Helper()
	for _, l := range links {
		if err := add(l); err != nil {
			t.Fatalf("%s: %v", l.Attrs().Name, err)
		}
	}
}

func route(t *testing.T, to string, kind, protocol int) {
	t.Helper()
	_, dst, err := net.ParseCIDR(to)
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{Dst: dst, Type: kind, Protocol: netlink.RouteProtocol(protocol)})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func tables(t *testing.T, names ...string) {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
			tb := conn.AddTable(&nftables.Table{Family: family, Name: name})
			conn.AddChain(&nftables.Chain{Table: tb, Name: "c"})
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestRelease(t *testing.T) {
	ns := netnstest.New(t)
	ns.Do(func() {
		before := left(t)
		build(
			t,
			&netlink.Bridge{LinkAttrs: named("fb1")},
			&netlink.Bridge{LinkAttrs: named("fb16777215")},
			&netlink.Vxlan{LinkAttrs: named("fx1"), VxlanId: 1, Port: 4789},
			&netlink.Vxlan{LinkAttrs: named("fx16777215"), VxlanId: 16777215, Port: 4789},
		)
		route(t, "10.88.0.0/16", unix.RTN_UNREACHABLE, overlay.Protocol)
		route(t, "fd00::/48", unix.RTN_UNREACHABLE, overlay.Protocol)
		tables(t, "falcon")
		if len(left(t)) != len(before)+7 { // IPv6 routes aren't among them
			t.Errorf("made %q", left(t))
		}
		for range 2 { // nothing left is no error
			if err := release(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := left(t); !slices.Equal(got, before) {
				t.Errorf("left %q, before there were %q", got, before)
			}
		}
		if routes := routesOf(t, netlink.FAMILY_V6); len(routes) > 0 {
			t.Errorf("left the routes %v", routes)
		}
	})
}

// TestReleaseOfAgent removes what the agent's packages make.
func TestReleaseOfAgent(t *testing.T) {
	ns := netnstest.New(t)
	ns.Do(func() {
		build(t, &netlink.Veth{LinkAttrs: named("eth0"), PeerName: "wire"})
		if wire, err := netlink.LinkByName("wire"); err != nil || netlink.LinkSetUp(wire) != nil {
			t.Fatal(err)
		}
		ns.Address("eth0", "192.0.2.1/24")
		before := left(t)
		o, err := overlay.New(overlay.Underlay{Address: netip.MustParseAddr("192.0.2.1"), Port: 4789})
		if err != nil {
			t.Fatal(err)
		}
		both := func(four, six string) []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix(four), netip.MustParsePrefix(six)}
		}
		n := overlay.Network{VNI: 7, Subnets: both("10.88.0.0/24", "fd00::/64"), Cluster: both("10.88.0.0/16", "fd00::/48")}
		remotes := []overlay.Remote{{Address: netip.MustParseAddr("192.0.2.2"), Subnets: both("10.88.1.0/24", "fd00:0:0:1::/64")}}
		if _, err := o.Ensure(n, remotes); err != nil {
			t.Fatal(err)
		}
		f, err := firewall.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Replace(firewall.State{Port: 4789}), f.Close()); err != nil {
			t.Fatal(err)
		}
		p, err := fastpath.Open(fastpath.Probe())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.Sync(fastpath.State{
			Node: netip.MustParseAddr("192.0.2.1"), Port: 4789, Networks: []fastpath.Network{{VNI: 7, Device: "fx7"}},
		}), p.Close()); err != nil {
			t.Fatal(err)
		}
		if made := left(t); len(made) < len(before)+5 {
			t.Errorf("made %q of %q", made, before)
		}
		if n := attached(t, "eth0"); n != 1 {
			t.Errorf("%d programs are attached to the underlay's link", n)
		}
		if err := release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := attached(t, "eth0"); n != 0 {
			t.Errorf("%d programs are left at the underlay's link", n)
		}
		if got := left(t); !slices.Equal(got, before) {
			t.Errorf("left %q, before there were %q", got, before)
		}
		if routes := routesOf(t, netlink.FAMILY_ALL); len(routes) > 0 {
			t.Errorf("left the routes %v", routes)
		}
	})
}

// attached counts the programs that tcx has at a link's ingress.
func attached(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	found, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		t.Fatal(err)
	}
	return len(found.Programs)
}

// routesOf lists the overlay's routes.
func routesOf(t *testing.T, family int) []netlink.Route {
	t.Helper()
	routes, err := dump.All(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Protocol: overlay.Protocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

// TestReleaseSparesOthers removes nothing that only looks like ours.
func TestReleaseSparesOthers(t *testing.T) {
	ns := netnstest.New(t)
	ns.Do(func() {
		build(
			t,
			&netlink.Bridge{LinkAttrs: named("fb")},
			&netlink.Bridge{LinkAttrs: named("fb0")},
			&netlink.Bridge{LinkAttrs: named("fb01")},
			&netlink.Bridge{LinkAttrs: named("fb16777216")},
			&netlink.Bridge{LinkAttrs: named("fbi1")},
			&netlink.Bridge{LinkAttrs: named("fx2")},
			&netlink.Bridge{LinkAttrs: named("b")},
			&netlink.Vxlan{LinkAttrs: named("fx3"), VxlanId: 4, Port: 4790},
			&netlink.Vxlan{LinkAttrs: named("fb5"), VxlanId: 5, Port: 4790},
			&netlink.Veth{LinkAttrs: named("fb6"), PeerName: "fx6"},
		)
		route(t, "10.89.0.0/16", unix.RTN_UNREACHABLE, 4)
		tables(t, "falcon2", "filter")
		before := left(t)
		if err := release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := left(t); !slices.Equal(got, before) {
			t.Errorf("left %q of %q", got, before)
		}
	})
}

func TestReleaseWhileInUse(t *testing.T) {
	ns := netnstest.New(t)
	ns.Do(func() {
		bridge := &netlink.Bridge{LinkAttrs: named("fb1")}
		build(t, bridge, &netlink.Vxlan{LinkAttrs: named("fx1"), VxlanId: 1, Port: 4789})
		port := &netlink.Veth{LinkAttrs: named("fv1"), PeerName: "eth0"}
		build(t, port)
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			t.Fatal(err)
		}
		tables(t, "falcon")
		before := left(t)
		err := release(t.Context())
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "fb1 still has the port fv1") {
			t.Errorf("got %v", err)
		}
		if got := left(t); !slices.Equal(got, before) {
			t.Errorf("left %q of %q", got, before)
		}
	})
}
