package overlay

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const vni = 7

// node is a network namespace with an underlay address on eth0.
type node struct {
	*netnstest.NS
	t       testing.TB
	o       *Overlay
	n       Network
	address netip.Addr
}

// nodes makes a cluster of nodes 1 to count on one switch: node i has 192.0.2.i or
// 2001:db8::i and the subnets 10.1.i.0/24 and fd00:1:i::/64. Nothing is ensured yet.
func nodes(t testing.TB, v6 bool, count int) []*node {
	t.Helper()
	var all []*node
	var ends []netnstest.End
	for i := 1; i <= count; i++ {
		nd := &node{NS: netnstest.New(t), t: t, n: Network{
			VNI:     vni,
			Subnets: prefixes(fmt.Sprintf("10.1.%d.0/24 fd00:1:%d::/64", i, i)),
			Cluster: prefixes("10.1.0.0/16 fd00:1::/32"),
		}}
		all, ends = append(all, nd), append(ends, netnstest.End{NS: nd.NS, Link: "eth0"})
	}
	netnstest.Switch(1500, ends...)
	for i, nd := range all {
		if v6 {
			nd.renumber("2001:db8::"+strconv.Itoa(i+1), 64)
		} else {
			nd.renumber("192.0.2."+strconv.Itoa(i+1), 24)
		}
		// Strict reverse path filtering must not harm.
		nd.SetSysctl("net/ipv4/conf/all/rp_filter", "1")
		nd.waitUp()
	}
	return all
}

// waitUp waits for what the kernel does in its own time when eth0 comes up: its state, its
// link-local address and the route by that.
func (nd *node) waitUp() {
	nd.t.Helper()
	h := nd.Netlink()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		link, err := h.LinkByName("eth0")
		if err != nil {
			nd.t.Fatal(err)
		}
		all, err := h.AddrList(link, netlink.FAMILY_V6)
		local := slices.ContainsFunc(all, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() })
		if err == nil && local && link.Attrs().OperState == netlink.OperUp {
			return
		}
		if time.Now().After(end) {
			nd.t.Fatalf("eth0 is not up: %s, %v, %v", link.Attrs().OperState, all, err)
		}
	}
}

func (nd *node) renumber(address string, bits int) {
	nd.t.Helper()
	nd.address = netip.MustParseAddr(address)
	nd.Address("eth0", netip.PrefixFrom(nd.address, bits).String())
	o, err := New(Underlay{nd.address, 4789})
	if err != nil {
		nd.t.Fatal(err)
	}
	nd.o = o
}

func (nd *node) ensure(remotes ...*node) (changed bool, err error) {
	nd.t.Helper()
	var rs []Remote
	for _, r := range remotes {
		if r != nd {
			rs = append(rs, Remote{r.address, r.n.Subnets})
		}
	}
	nd.Do(func() { changed, err = nd.o.Ensure(nd.n, rs) })
	return changed, err
}

// settle ensures all nodes with each other, and that each is right afterwards.
func settle(t testing.TB, all []*node) {
	t.Helper()
	for _, nd := range all {
		if _, err := nd.ensure(all...); err != nil {
			t.Fatal(err)
		}
		if changed, err := nd.ensure(all...); changed || err != nil {
			t.Fatalf("the second time: changed %t, %v", changed, err)
		}
	}
}

// container is a namespace on a node's bridge.
type container struct {
	*netnstest.NS
	v4, v6 string
}

func (c *container) addresses() []string {
	return slices.DeleteFunc([]string{c.v4, c.v6}, func(a string) bool { return a == "" })
}

// contain makes the node's container number i: <subnet>.<10+i> and <subnet>::<10+i>.
func (nd *node) contain(i int) *container {
	nd.t.Helper()
	c := &container{NS: netnstest.New(nd.t)}
	mtu := nd.n.MTU
	if mtu == 0 {
		nd.Do(func() { mtu, _ = nd.o.MTU() })
	}
	host := fmt.Sprintf("fv%d", i)
	netnstest.Wire(netnstest.End{NS: nd.NS, Link: host}, netnstest.End{NS: c.NS, Link: "eth0"}, mtu)
	nd.Port(Bridge(vni), host)
	for k, s := range nd.n.Subnets {
		gateway := Gateways(nd.n.Subnets)[k]
		if s.Addr().Is4() {
			a := s.Addr().As4()
			a[3] = byte(10 + i)
			c.v4 = netip.AddrFrom4(a).String()
			c.Address("eth0", netip.PrefixFrom(netip.AddrFrom4(a), s.Bits()).String())
			c.Route("0.0.0.0/0", gateway.String())
		} else {
			a := s.Addr().As16()
			a[15] = byte(10 + i)
			c.v6 = netip.AddrFrom16(a).String()
			c.Address("eth0", netip.PrefixFrom(netip.AddrFrom16(a), s.Bits()).String())
			c.Route("::/0", gateway.String())
		}
	}
	return c
}
