package overlay

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var (
	testUnderlay = Underlay{netip.MustParseAddr("192.0.2.1"), 4789}
	testNetwork  = Network{VNI: 7, Subnets: prefixes("10.1.1.0/24 fd00:1:1::/64"), Cluster: prefixes("10.1.0.0/16 fd00:1::/32")}
	testRemotes  = []Remote{
		{netip.MustParseAddr("192.0.2.2"), prefixes("10.1.2.0/24 fd00:1:2::/64")},
		{netip.MustParseAddr("192.0.2.3"), prefixes("10.1.3.0/24 fd00:1:3::/64")},
	}
	testHost = host{mtu: 1500, ipv6: true}
)

func testTarget(t *testing.T, u Underlay, n Network, remotes []Remote) target {
	t.Helper()
	peers, err := u.peers(n, remotes)
	if err != nil {
		t.Fatal(err)
	}
	want, err := u.target(n, peers, testHost)
	if err != nil {
		t.Fatal(err)
	}
	return want
}

// kernel is a model of what carrying a plan out does.
type kernel struct{ snapshot }

func holding(w target) *kernel {
	k := &kernel{snapshot{state: w.state, host: testHost, sysctls: map[string]string{}}}
	k.addresses, k.routes = maps.Clone(w.addresses), maps.Clone(w.routes)
	k.neighbours, k.fdb = maps.Clone(w.neighbours), maps.Clone(w.fdb)
	for _, s := range w.sysctls {
		k.sysctls[s.path] = s.value
	}
	return k
}

func empty() *kernel {
	return &kernel{snapshot{host: testHost, sysctls: map[string]string{}, state: state{
		addresses: set[address]{}, routes: map[routeKey]route{}, neighbours: map[netip.Addr]mac{}, fdb: set[fdbEntry]{},
	}}}
}

func (k *kernel) link(name string) *link {
	if strings.HasPrefix(name, "fb") {
		return &k.bridge
	}
	return &k.device
}

func (k *kernel) carryOut(t *testing.T, changes []change) {
	t.Helper()
	for _, c := range changes {
		switch c := c.(type) {
		case deleteLink:
			*k.link(c.name) = link{}
			clear(k.neighbours)
			clear(k.fdb)
			maps.DeleteFunc(k.routes, func(_ routeKey, r route) bool { return r.via.IsValid() })
		case addBridge:
			k.bridge = link{name: c.link.name, kind: "bridge", mac: c.link.mac, mtu: c.link.mtu + 1, options: options{learnReserved: true}}
		case addTunnel:
			k.device = c.link
			k.device.up = false
		case setMAC:
			k.link(c.link.name).mac = c.link.mac
		case setMTU:
			k.link(c.link.name).mtu = c.link.mtu
		case release:
			k.link(c.name).master = false
		case setOptions:
			k.link(c.name).options = options{}
		case writeSysctl:
			k.sysctls[c.sysctl.path] = c.sysctl.value
		case setUp:
			k.link(c.name).up = true
		case deleteAddress:
			delete(k.addresses, c.address)
		case addAddress:
			k.addresses[c.address] = struct{}{}
		case addRoute:
			if _, ok := k.routes[c.route.routeKey]; ok {
				t.Errorf("%v: there is one", c)
			}
			if via := c.route.via; via.IsValid() && k.neighbours[via] == (mac{}) {
				t.Errorf("%v: before its neighbour", c)
			}
			k.routes[c.route.routeKey] = c.route.route
		case replaceRoute:
			k.routes[c.route.routeKey] = c.route.route
		case deleteRoute:
			delete(k.routes, c.route.routeKey)
		case putNeighbour:
			k.neighbours[c.neighbour.ip] = c.neighbour.mac
		case deleteNeighbour:
			delete(k.neighbours, c.neighbour.ip)
		case putFDB:
			maps.DeleteFunc(k.fdb, func(e fdbEntry, _ struct{}) bool { return e.mac == c.entry.mac })
			k.fdb[c.entry.fdbEntry] = struct{}{}
		case deleteFDB:
			delete(k.fdb, c.entry.fdbEntry)
		default:
			t.Fatalf("unknown: %v", c)
		}
		if c.String() == "" {
			t.Errorf("%T has no words", c)
		}
	}
}

func (k *kernel) reach(t *testing.T, want target) []change {
	t.Helper()
	changes, err := plan(k.snapshot, want)
	if err != nil {
		t.Fatal(err)
	}
	k.carryOut(t, changes)
	again, err := plan(k.snapshot, want)
	if err != nil || len(again) != 0 {
		t.Errorf("after %v there is still %v (%v)", changes, again, err)
	}
	return changes
}

func TestPlanFromNothing(t *testing.T) {
	changes := empty().reach(t, testTarget(t, testUnderlay, testNetwork, testRemotes))
	// Links are up only after their sysctls, and packets flow only after all else.
	var order []string
	for _, c := range changes {
		kind, _, _ := strings.Cut(c.String(), " ")
		order = append(order, kind)
	}
	up, sysctl := slices.Index(order, "set"), 0
	for i, c := range changes {
		switch c.(type) {
		case writeSysctl:
			sysctl = i
		case setUp:
			up = min(up, i)
			if i < sysctl {
				t.Error("set up before the sysctls")
			}
		}
	}
}

func TestPlanOfWhatIsRightIsEmpty(t *testing.T) {
	want := testTarget(t, testUnderlay, testNetwork, testRemotes)
	if changes := holding(want).reach(t, want); len(changes) != 0 {
		t.Error(changes)
	}
}

func TestPlanMendsOnlyWhatIsWrong(t *testing.T) {
	want := testTarget(t, testUnderlay, testNetwork, testRemotes)
	stale := netip.MustParseAddr("192.0.2.9")
	for name, tc := range map[string]struct {
		harm func(*kernel)
		want string // the plan in words, one a line
	}{
		"bridge's MAC":    {func(k *kernel) { k.bridge.mac = mac{2} }, "set the MAC of fb7 to " + want.bridge.mac.String()},
		"MTU":             {func(k *kernel) { k.device.mtu = 1500 }, "set the MTU of fx7 to 1450"},
		"down":            {func(k *kernel) { k.bridge.up = false }, "set fb7 up"},
		"spanning tree":   {func(k *kernel) { k.bridge.options.stp = true }, "set the options of the bridge fb7"},
		"learning":        {func(k *kernel) { k.bridge.options.learnReserved = true }, "set the options of the bridge fb7"},
		"a bridge's port": {func(k *kernel) { k.device.master = true }, "release the port fx7 from its bridge"},
		"foreign address": {func(k *kernel) { k.addresses[address{"fx7", netip.MustParsePrefix("fe80::1/64")}] = struct{}{} }, "take fe80::1/64 from fx7"},
		"a node's MAC":    {func(k *kernel) { k.neighbours[netip.MustParseAddr("10.1.2.0")] = mac{2} }, "put the neighbour 10.1.2.0 at " + VTEPMAC(testRemotes[0].Address, 7).String() + " on fx7"},
		"stale FDB":       {func(k *kernel) { k.fdb[fdbEntry{mac{2}, stale}] = struct{}{} }, "delete the FDB entry of 02:00:00:00:00:00 to 192.0.2.9 on fx7"},
		"default FDB":     {func(k *kernel) { k.fdb[fdbEntry{mac{}, stale}] = struct{}{} }, "delete the FDB entry of 00:00:00:00:00:00 to 192.0.2.9 on fx7"},
		"stale route":     {func(k *kernel) { k.routes[routeKey{netip.MustParsePrefix("10.1.9.0/24"), 0}] = route{via: stale} }, "delete the route to 10.1.9.0/24 via 192.0.2.9 on fx7"},
		"wrong source": {func(k *kernel) {
			k.routes[routeKey{netip.MustParsePrefix("10.1.2.0/24"), 0}] = route{via: netip.MustParseAddr("10.1.2.0")}
		}, "replace the route to 10.1.2.0/24 via 10.1.2.0 on fx7"},
		"stale unreachable": {func(k *kernel) {
			k.routes[routeKey{netip.MustParsePrefix("10.9.0.0/16"), unreachableMetric + 7}] = route{}
		}, "delete the unreachable route to 10.9.0.0/16"},
		"forwarding": {func(k *kernel) { k.sysctls[forwarding4] = "0" }, "write 1 to /proc/sys/net/ipv4/ip_forward"},
		"IPv6 forwarding, with router advertisements": {
			func(k *kernel) { k.sysctls[forwarding6] = "0"; k.hearsRA = []string{"eth0", "eth1"} },
			"write 2 to /proc/sys/net/ipv6/conf/eth0/accept_ra\nwrite 2 to /proc/sys/net/ipv6/conf/eth1/accept_ra\nwrite 1 to /proc/sys/net/ipv6/conf/all/forwarding",
		},
	} {
		k := holding(want)
		tc.harm(k)
		var words []string
		for _, c := range k.reach(t, want) {
			words = append(words, c.String())
		}
		if got := strings.Join(words, "\n"); got != tc.want {
			t.Errorf("%s:\n%s\nnot\n%s", name, got, tc.want)
		}
	}
}

func TestPlanMakesTheDeviceAnewForWhatItHasForLife(t *testing.T) {
	want := testTarget(t, testUnderlay, testNetwork, testRemotes)
	for name, harm := range map[string]func(*tunnel){
		"VNI": func(u *tunnel) { u.vni = 8 }, "port": func(u *tunnel) { u.port = 8472 },
		"local": func(u *tunnel) { u.local = netip.MustParseAddr("192.0.2.9") }, "learning": func(u *tunnel) { u.learning = true },
		"group": func(u *tunnel) { u.group = netip.MustParseAddr("239.0.0.1") }, "checksum": func(u *tunnel) { u.checksum = false },
		"lower": func(u *tunnel) { u.lower = 2 }, "collect": func(u *tunnel) { u.collect = true },
	} {
		k := holding(want)
		harm(&k.device.tunnel)
		changes := k.reach(t, want)
		for _, c := range changes {
			if strings.Contains(c.String(), "fb7") {
				t.Errorf("%s: %v", name, c)
			}
		}
		if _, ok := changes[0].(deleteLink); !ok {
			t.Errorf("%s: %v", name, changes)
		}
	}
}

func TestPlanKeepsTheBridgeWhenTheNodeIsRenumbered(t *testing.T) {
	k := holding(testTarget(t, testUnderlay, testNetwork, testRemotes))
	for _, c := range k.reach(t, testTarget(t, Underlay{netip.MustParseAddr("192.0.2.77"), 4789}, testNetwork, testRemotes)) {
		if strings.Contains(c.String(), "fb7") {
			t.Error(c)
		}
	}
}

func TestPlanRefusesWhatIsInTheWay(t *testing.T) {
	want := testTarget(t, testUnderlay, testNetwork, testRemotes)
	for name, harm := range map[string]func(*kernel){
		"bridge": func(k *kernel) { k.bridge.kind = "veth" },
		"device": func(k *kernel) { k.device.kind = "bridge" },
		"rival":  func(k *kernel) { k.rival = "vx0" },
	} {
		k := holding(want)
		harm(k)
		if changes, err := plan(k.snapshot, want); !errdefs.IsAlreadyExists(err) || len(changes) != 0 {
			t.Errorf("%s: %v %v", name, changes, err)
		}
	}
}

func TestTargetNeedsIPv6OnlyForIPv6(t *testing.T) {
	h := host{mtu: 1500}
	if _, err := testUnderlay.target(testNetwork, nil, h); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	want, err := testUnderlay.target(Network{VNI: 7, Subnets: prefixes("10.1.1.0/24")}, nil, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range want.sysctls {
		if strings.Contains(s.path, "ipv6") {
			t.Error(s.path)
		}
	}
}

// From any state to any other in one plan, as the model has it.
func TestPlanReachesAnyTarget(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() target {
		u := testUnderlay
		if rng.IntN(4) == 0 {
			u.Port = 8472
		}
		var remotes []Remote
		for i := range 12 {
			if rng.IntN(2) == 0 {
				continue
			}
			// Subnets move between nodes.
			node := netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + rng.IntN(6))})
			remotes = append(remotes, Remote{node, []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(10 + i), 0}), 24),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: 1, 5: byte(10 + i)}), 64),
			}})
		}
		n := testNetwork
		if rng.IntN(3) == 0 {
			n.Subnets = n.Subnets[:1]
		}
		return testTarget(t, u, n, remotes)
	}
	k := empty()
	for range 500 {
		k.reach(t, random())
	}
}

// A node without subnets takes part in the network with nothing to route.
func TestTargetWithoutSubnets(t *testing.T) {
	n := testNetwork
	n.Subnets = nil
	want := testTarget(t, testUnderlay, n, testRemotes)
	empty().reach(t, want)
	if len(want.routes)+len(want.addresses)+len(want.fdb)+len(want.neighbours) != 0 {
		t.Errorf("%+v", want)
	}
}
