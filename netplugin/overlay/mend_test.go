package overlay

import (
	"net/netip"
	"testing"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// harms are what others may do to a node's devices; each can be mended in place.
func harms(nd *node) map[string]func() {
	ip := func(args string) func() { return func() { nd.t.Helper(); nd.ip(args) } }
	return map[string]func(){
		"bridge down":       ip("link set fb7 down"),
		"device down":       ip("link set fx7 down"),
		"device's MAC":      ip("link set fx7 address 02:00:00:00:00:01"),
		"bridge's MTU":      ip("link set fb7 mtu 1400"),
		"device's MTU":      ip("link set fx7 mtu 1400"),
		"MTU too small":     ip("link set fx7 mtu 1000"),
		"spanning tree":     ip("link set fb7 type bridge stp_state 1"),
		"a bridge's port":   ip("link set fx7 master fb7"),
		"gateway gone":      ip("addr del 10.1.1.1/24 dev fb7"),
		"IPv6 gateway gone": ip("addr del fd00:1:1::1/64 dev fb7"),
		"another address":   ip("addr add 10.1.77.1/24 dev fb7"),
		"link-local gone":   ip("addr flush dev fb7 scope link"),
		"route gone":        ip("route del 10.1.2.0/24"),
		"IPv6 route gone":   ip("-6 route del fd00:1:2::/64"),
		"no source":         ip("route replace 10.1.2.0/24 via 10.1.2.0 dev fx7 onlink proto 250"),
		"stale route":       ip("route add 10.1.88.0/24 via 10.1.88.0 dev fx7 onlink proto 250"),
		"unreachable gone":  ip("route del unreachable 10.1.0.0/16"),
		"neighbour gone":    ip("neigh flush dev fx7 nud permanent"),
		"a wrong neighbour": ip("neigh replace 10.1.2.0 lladdr 02:00:00:00:00:02 dev fx7"),
		"stale neighbour":   ip("neigh add 10.1.99.0 lladdr 02:00:00:00:00:03 dev fx7"),
		"FDB gone": func() {
			nd.shows("bridge", "fdb", "del", VTEPMAC(netip.MustParseAddr("192.0.2.2"), vni).String(), "dev", "fx7")
		},
		"a default FDB entry": func() { nd.shows("bridge", "fdb", "append", "00:00:00:00:00:00", "dst", "192.0.2.99", "dev", "fx7") },
		"a wrong FDB entry": func() {
			nd.shows("bridge", "fdb", "replace", VTEPMAC(netip.MustParseAddr("192.0.2.2"), vni).String(), "dst", "192.0.2.98", "dev", "fx7")
		},
		"forwarding":              func() { nd.SetSysctl("net/ipv4/ip_forward", "0") },
		"IPv6 forwarding":         func() { nd.SetSysctl("net/ipv6/conf/all/forwarding", "0") },
		"device's forwarding":     func() { nd.SetSysctl("net/ipv4/conf/fx7/forwarding", "0") },
		"router advertisements":   func() { nd.SetSysctl("net/ipv6/conf/fb7/accept_ra", "2") },
		"addresses by themselves": func() { nd.SetSysctl("net/ipv6/conf/fx7/addr_gen_mode", "0") },
		"no IPv6":                 func() { nd.SetSysctl("net/ipv6/conf/fb7/disable_ipv6", "1") },
	}
}

func TestEnsureMendsEveryHarm(t *testing.T) {
	all := nodes(t, false, 2)
	settle(t, all)
	a, b := all[0].contain(0), all[1].contain(0).echo()
	before := index(t, all[0].NS, Device(vni))
	for name, harm := range harms(all[0]) {
		harm()
		if changed, err := all[0].ensure(all...); !changed || err != nil {
			t.Errorf("%s: changed %t, %v", name, changed, err)
		}
		if changed, err := all[0].ensure(all...); changed || err != nil {
			t.Errorf("%s: the second time: changed %t, %v", name, changed, err)
		}
		reach(t, name, a.NS, b)
	}
	if index(t, all[0].NS, Device(vni)) != before {
		t.Error("the device was made anew")
	}
}

func index(t testing.TB, ns *netnstest.NS, name string) int {
	t.Helper()
	l, err := ns.Netlink().LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

func TestEnsureMakesAnewWhatCannotBeMended(t *testing.T) {
	for name, args := range map[string]string{
		"VNI":      "id 8 dstport 4789 local 192.0.2.1 nolearning",
		"port":     "id 7 dstport 8472 local 192.0.2.1 nolearning",
		"address":  "id 7 dstport 4789 local 192.0.2.100 nolearning",
		"learning": "id 7 dstport 4789 local 192.0.2.1",
		"group":    "id 7 dstport 4789 local 192.0.2.1 nolearning group 239.1.1.1 dev eth0",
		"checksum": "id 7 dstport 4789 local 192.0.2.1 nolearning noudpcsum",
		"family":   "id 7 dstport 4789 local 2001:db8::1 nolearning",
	} {
		t.Run(name, func(t *testing.T) {
			all := nodes(t, false, 2)
			all[0].ip("link add fx7 type vxlan " + args)
			settle(t, all)
			reach(t, name, all[0].contain(0).NS, all[1].contain(0).echo())
		})
	}
}
