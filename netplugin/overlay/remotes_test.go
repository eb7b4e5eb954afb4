package overlay

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestForeignRoutesStay(t *testing.T) {
	all := nodes(t, false, 3)
	first := all[0]
	first.ip("route add 10.1.2.0/24 via 192.0.2.3")               // in the way of node 2
	first.ip("route add unreachable 10.200.0.0/16 metric 999999") // an operator's own
	first.ip("-6 route add unreachable fd99::/16")
	_, err := first.ensure(all...)
	if !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "10.1.2.0/24") {
		t.Error(err)
	}
	for _, nd := range all[1:] {
		if _, err := nd.ensure(all...); err != nil {
			t.Error(err)
		}
	}
	first.ip("route add 10.1.66.0/24 via 10.1.66.1 dev fx7 onlink") // over our device, without our mark
	if _, err = first.ensure(all...); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	routes := string(first.shows("ip", "route")) + string(first.shows("ip", "-6", "route"))
	for _, r := range []string{"10.1.2.0/24 via 192.0.2.3", "unreachable 10.200.0.0/16", "unreachable fd99::/16", "10.1.66.0/24 via 10.1.66.1"} {
		if !strings.Contains(routes, r) {
			t.Errorf("%s is gone from\n%s", r, routes)
		}
	}
	// The others are reached all the same.
	reach(t, "1 to 3", first.contain(0).NS, all[2].contain(0).echo())
}

func TestNodeLeaves(t *testing.T) {
	all := nodes(t, false, 3)
	settle(t, all)
	if changed, err := all[0].ensure(all[1]); !changed || err != nil {
		t.Fatalf("changed %t, %v", changed, err)
	}
	left := string(all[0].shows("ip", "route")) + string(all[0].shows("ip", "-6", "route")) +
		string(all[0].shows("ip", "neigh", "show", "dev", "fx7", "nud", "permanent")) + string(all[0].shows("bridge", "fdb", "show", "dev", "fx7"))
	for _, gone := range []string{"10.1.3.0", "fd00:1:3:", "192.0.2.3", VTEPMAC(all[2].address, vni).String()} {
		if strings.Contains(left, gone) {
			t.Errorf("%s is left in\n%s", gone, left)
		}
	}
	reach(t, "1 to 2", all[0].contain(0).NS, all[1].contain(0).echo())
}

func TestSubnetMoves(t *testing.T) {
	all := nodes(t, false, 3)
	settle(t, all[:2])
	a := all[0].contain(0)
	all[2].n = all[1].n // node 3 takes node 2's place
	pair := []*node{all[0], all[2]}
	settle(t, pair)
	reach(t, "1 to 3", a.NS, all[2].contain(0).echo())
}

func TestSubnetsOfTheNodeChange(t *testing.T) {
	all := nodes(t, false, 2)
	settle(t, all)
	all[0].n.Subnets = prefixes("10.1.50.0/25")
	settle(t, all)
	if out := string(all[0].shows("ip", "addr", "show", "dev", "fb7")); strings.Contains(out, "inet6") || strings.Contains(out, "10.1.1.1") || !strings.Contains(out, "10.1.50.1/25") {
		t.Error(out)
	}
	b := all[1].contain(0)
	b.v6 = "" // node 1 has no IPv6 there any more
	reach(t, "1 to 2", all[0].contain(0).NS, b.echo())
}

func TestBadRemoteCutsOffNobody(t *testing.T) {
	all := nodes(t, false, 3)
	all[2].n.Subnets = prefixes("10.1.0.0/16")
	_, err := all[0].ensure(all...)
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "192.0.2.3") {
		t.Error(err)
	}
	if _, err := all[1].ensure(all[0]); err != nil {
		t.Fatal(err)
	}
	reach(t, "1 to 2", all[0].contain(0).NS, all[1].contain(0).echo())
}

// The containers' addresses may be carved from a prefix that the underlay routes.
func TestUnderlayRouteThatCoversTheNetwork(t *testing.T) {
	underlays(t, func(t *testing.T, v6 bool) {
		all := nodes(t, v6, 2)
		for _, nd := range all {
			nd.Address("eth0", "fd00::1/16")
			nd.Address("eth0", "10.0.0.1/8")
		}
		settle(t, all)
		reach(t, "1 to 2", all[0].contain(0).NS, all[1].contain(0).echo())
	})
}
