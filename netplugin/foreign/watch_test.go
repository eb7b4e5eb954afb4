package foreign

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	mnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

const patience = time.Minute

func (n *node) subscribe() (w *Watcher) {
	n.t.Helper()
	n.Do(func() {
		var err error
		if w, err = Subscribe(); err != nil {
			n.t.Fatal(err)
		}
	})
	return w
}

// hear reads a socket until something that contains last is heard, and returns all of it.
// Nothing is coalesced.
func (n *node) hear(conn *mnl.Conn, notice func(mnl.Message) string, last string) (all []string) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	heard, done := make(chan string, 1<<16), make(chan error)
	go func() { done <- listen(ctx, conn, heard, notice) }()
	defer func() {
		cancel()
		_ = conn.SetReadDeadline(time.Now())
		if err := <-done; err != nil {
			n.t.Error(err)
		}
		_ = conn.SetReadDeadline(time.Time{})
	}()
	for {
		select {
		case what := <-heard:
			if all = append(all, what); strings.Contains(what, last) {
				return all
			}
		case <-time.After(patience):
			n.t.Fatalf("%q was not heard, but %q", last, all)
		}
	}
}

func (n *node) route(destination string, protocol int) *netlink.Route {
	p := netip.MustParsePrefix(destination)
	return &netlink.Route{
		LinkIndex: n.index("eth0"), Protocol: netlink.RouteProtocol(protocol),
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
	}
}

// Each change is heard by itself, in order: what isn't, is missing before the next.
func TestWatchHearsOthers(t *testing.T) {
	n := newNode(t)
	n.Address("eth0", "2001:db8::1/64")
	w := n.subscribe()
	defer w.Close()
	for _, change := range []struct{ rules, want string }{
		{`add table inet other`, "table inet other"},
		{`add chain inet other c { type filter hook forward priority 0; }`, "table inet other"},
		{`add rule inet other c counter accept`, "table inet other"},
		{`add set inet other s { type ipv4_addr; }`, "table inet other"},
		{`add element inet other s { 192.0.2.1 }`, "table inet other"},
		{`delete element inet other s { 192.0.2.1 }`, "table inet other"},
		{`add counter inet other n`, "table inet other"},
		{`flush chain inet other c`, "table inet other"},
		{`add table ip falcon`, "table ip falcon"},
		{`add table netdev falcon`, "table netdev falcon"},
		{`flush ruleset`, "table ip falcon"},
	} {
		n.nft(change.rules)
		n.hear(w.rules, ruleNotice, change.want)
	}
	n.sh(`iptables-nft -A FORWARD -j ACCEPT`)
	n.hear(w.rules, ruleNotice, "table ip filter")

	for _, change := range []struct{ command, want string }{
		{`ip route add 203.0.113.0/24 via 192.0.2.9`, "routes: 203.0.113.0/24"},
		{`ip route replace 203.0.113.0/24 via 192.0.2.8`, "routes: 203.0.113.0/24"},
		{`ip route del 203.0.113.0/24`, "routes: 203.0.113.0/24"},
		{`ip route add default via 192.0.2.9`, "routes: default"},
		{`ip route add 10.88.1.9/32 dev fb1`, "routes: 10.88.1.9/32"},
		{`ip -6 route add 2001:db8:9::/48 via 2001:db8::9`, "routes: 2001:db8:9::/48"},
		{`ip addr add 10.88.2.5/32 dev eth0`, "routes: 10.88.2.5/32"},
		{`ip rule add from 10.88.1.0/24 table 7`, "policy routing"},
		{`ip rule del from 10.88.1.0/24 table 7`, "policy routing"},
		{`ip -6 rule add fwmark 1 table 7`, "policy routing"},
		{`ip nexthop add id 7 via 192.0.2.9 dev eth0`, "next hops"},
		{`ip nexthop replace id 7 via 192.0.2.8 dev eth0`, "next hops"},
		{`tc qdisc add dev ` + containerLink + ` root tbf rate 1mbit burst 10k latency 10ms`, "queueing disciplines of " + containerLink},
		{`tc qdisc del dev ` + containerLink + ` root`, "queueing disciplines of " + containerLink},
		{`tc qdisc add dev fb1 ingress`, ""},
		{`tc filter add dev fb1 parent ffff: u32 match u32 0 0`, "filters of traffic control of fb1"},
		{`tc filter del dev fb1 parent ffff:`, "filters of traffic control of fb1"},
		{`tc filter add dev fb1 parent ffff: u32 match u32 0 0`, "filters of traffic control of fb1"},
		{`tc qdisc del dev fb1 ingress`, "of fb1"},
		{`tc qdisc add dev fb1 ingress_block 5 ingress`, "queueing disciplines of fb1"},
		{`tc filter add block 5 u32 match u32 0 0`, "filters of traffic control"},
	} {
		n.sh(change.command)
		if change.want != "" {
			n.hear(w.routes, w.names.notice, change.want)
		}
	}
}

func TestWatchLeavesOutOurOwnRules(t *testing.T) {
	n := newNode(t)
	w := n.subscribe()
	defer w.Close()
	n.Do(func() {
		f, err := firewall.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		e := firewall.Endpoint{Link: containerLink, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Addresses: []netip.Addr{netip.MustParseAddr("10.88.1.2")}}
		subnets := []netip.Prefix{netip.MustParsePrefix("10.88.1.0/24")}
		s := firewall.State{Port: 4789, Networks: []firewall.Network{{Bridge: "fb1", Device: "fx1", Subnets: subnets, Cluster: subnets, Masquerade: true}}}
		if err := errors.Join(f.Replace(s), f.Allow(e), f.Deny(e), f.Replace(s), f.Remove()); err != nil {
			t.Fatal(err)
		}
	})
	n.nft("add table ip other")
	if all := n.hear(w.rules, ruleNotice, "table ip other"); len(all) != 1 {
		t.Errorf("heard %q", all)
	}
}

func TestWatchLeavesOutOurOwnRoutesAndFilters(t *testing.T) {
	n := newNode(t)
	w := n.subscribe()
	defer w.Close()
	n.Address("eth0", "2001:db8::1/64")
	n.hear(w.routes, w.names.notice, "2001:db8::1/128") // the kernel makes it a little later
	h := n.Netlink()

	for _, to := range []string{"10.88.2.0/24", "2001:db8:88::/48"} {
		r := n.route(to, overlay.Protocol)
		if err := errors.Join(h.RouteAdd(r), h.RouteDel(r)); err != nil {
			t.Fatal(err)
		}
	}
	// Another network, which Subscribe hasn't seen, and a container.
	const link = "fvffffffffff0"
	n.Bridge("fb9", 1450)
	n.Address("fb9", "10.89.1.1/24")
	n.Address("fb9", "fd00:89::1/64")
	netnstest.Wire(netnstest.End{NS: n.NS, Link: link}, netnstest.End{NS: n.container, Link: "eth1"}, 1450)
	n.Port("fb9", link)
	p := accepting(t, "anything", ebpf.SchedCLS)
	for _, name := range []string{"eth0", link} {
		n.clsact(name, netlink.HANDLE_MIN_INGRESS, p, "falcon_ingress")
		n.clsact(name, netlink.HANDLE_MIN_EGRESS, p, "falcon_egress")
	}
	filters, err := h.FilterList(n.link("eth0"), netlink.HANDLE_MIN_EGRESS)
	if err != nil || len(filters) == 0 {
		t.Fatalf("%d filters, %v", len(filters), err)
	}
	if err := errors.Join(h.FilterDel(filters[len(filters)-1]), h.LinkDel(n.link(link)), h.LinkDel(n.link("fb9"))); err != nil {
		t.Fatal(err)
	}

	n.sh("ip route add 203.0.113.0/24 via 192.0.2.9")
	if all := n.hear(w.routes, w.names.notice, "203.0.113.0/24"); len(all) != 1 {
		t.Errorf("heard %q", all)
	}
}

func TestWatchOverrun(t *testing.T) {
	n := newNode(t)
	w := n.subscribe()
	defer w.Close()
	if err := w.routes.SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	h, r := n.Netlink(), n.route("10.88.2.0/24", overlay.Protocol)
	for range 100 {
		if err := errors.Join(h.RouteAdd(r), h.RouteDel(r)); err != nil {
			t.Fatal(err)
		}
	}
	n.hear(w.routes, w.names.notice, "more than could be heard")
}

func TestRun(t *testing.T) {
	n := newNode(t)
	w := n.subscribe()
	n.nft("add table ip before") // waits for Run
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan string), make(chan error)
	go func() {
		done <- w.Run(ctx, func(what string) {
			select {
			case told <- what: // nobody takes it during the burst below
			case <-ctx.Done():
			}
		})
	}()
	next := func() string {
		t.Helper()
		select {
		case what := <-told:
			return what
		case <-time.After(patience):
			t.Fatal("nothing was told")
			return ""
		}
	}
	if what := next(); what != "nftables: table ip before" {
		t.Errorf("told %q", what)
	}
	h, r := n.Netlink(), n.route("203.0.113.0/24", 4)
	for range 100 {
		if err := errors.Join(h.RouteAdd(r), h.RouteDel(r)); err != nil {
			t.Fatal(err)
		}
	}
	n.nft("add table ip after")
	var times int
	for what := ""; what != "nftables: table ip after"; times++ {
		if what = next(); what == "routes: 203.0.113.0/24" {
			// Another change of the burst's may have stood for the table's.
			n.nft("delete table ip after; add table ip after")
		}
	}
	if times > 20 {
		t.Errorf("200 changes were told %d times", times)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
