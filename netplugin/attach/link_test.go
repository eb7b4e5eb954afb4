package attach

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

func bridge(t testing.TB, host *netnstest.NS, name string) {
	t.Helper()
	host.Bridge(name, 1450)
	host.Address(name, "10.7.0.1/16")
	host.Address(name, "fd07::1/64")
}

// spec of the container i.
func spec(i int) Spec {
	return Spec{
		Link: LinkName(fmt.Sprint(i), "eth0"), Bridge: "fb7", Name: "eth0", MTU: 1450,
		MAC: []byte{2, 1, 0, 0, byte(i >> 8), byte(i)},
		Addresses: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.7.%d.%d/16", 1+i/250, 2+i%250)),
			netip.MustParsePrefix(fmt.Sprintf("fd07::%x/64", i+16)),
		},
		Gateways: []netip.Addr{netip.MustParseAddr("10.7.0.1"), netip.MustParseAddr("fd07::1")},
	}
}

// world is a host with a bridge and one container's namespace.
func world(t testing.TB) (host, container *netnstest.NS) {
	host, container = netnstest.New(t), netnstest.New(t)
	bridge(t, host, "fb7")
	return host, container
}

func links(t testing.TB, ns *netnstest.NS) string {
	t.Helper()
	all, err := dump.All(ns.Netlink().LinkList)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range all {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

// in calls f in the namespace and fails the test if it fails.
func in(t testing.TB, ns *netnstest.NS, f func() error) {
	t.Helper()
	ns.Do(func() {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAttachIsUsableAtOnce(t *testing.T) {
	for round := range 20 {
		host, container := world(t)
		container.Down("lo")
		host.Echo("udp", "10.7.0.1:7")
		host.Echo("udp", "[fd07::1]:7")
		s := spec(round)
		in(t, host, func() error { return Attach(container.File(), s) })
		begin := time.Now()
		for _, address := range []string{"10.7.0.1:7", "[fd07::1]:7"} {
			if err := container.Try("udp", address, time.Minute); err != nil {
				t.Error(err)
			}
		}
		t.Logf("first answers after %v", time.Since(begin))
		in(t, host, func() error { return Check(container.File(), s) })
		if got := container.Sysctl("net/ipv6/conf/eth0/accept_ra"); got != "0" {
			t.Errorf("accept_ra = %s", got)
		}
		lo, err := container.Netlink().LinkByName("lo")
		if err != nil || lo.Attrs().RawFlags&1 != 0 {
			t.Errorf("lo was touched: %v, %v", lo, err)
		}
		in(t, host, func() error { return Detach(s.Link) })
		in(t, host, func() error { return Detach(s.Link) })
		if got := links(t, host) + ", " + links(t, container); got != "lo fb7, lo" {
			t.Errorf("left: %s", got)
		}
	}
}

func TestAttachWhereIPv6IsOff(t *testing.T) {
	host, container := world(t)
	container.SetSysctl("net/ipv6/conf/default/disable_ipv6", "1")
	in(t, host, func() error { return Attach(container.File(), spec(1)) })
	in(t, host, func() error { return Check(container.File(), spec(1)) })
}

func TestLinks(t *testing.T) {
	host, container := world(t)
	other := netnstest.New(t)
	in(t, host, func() error { return Attach(container.File(), spec(1)) })
	in(t, host, func() error { return Attach(other.File(), spec(2)) })
	host.Do(func() {
		d := detacher(t)
		if err := d.Unplug(spec(2).Link); err != nil {
			t.Fatal(err)
		}
		if got, err := Links(); err != nil || len(got) != 1 || got[spec(1).Link] == 0 {
			t.Error(got, err)
		}
	})
}

func TestAttachRoutes(t *testing.T) {
	host, container := world(t)
	s := spec(1)
	s.MAC, s.MTU = nil, 0
	s.Addresses = []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32"), netip.MustParsePrefix("fd07::2/128")}
	s.Routes = []Route{
		{Destination: netip.MustParsePrefix("10.8.0.0/16")},
		{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParseAddr("10.7.0.9")},
		{Destination: netip.MustParsePrefix("fd08::/48")},
		{Destination: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd07::9")},
	}
	in(t, host, func() error { return Attach(container.File(), s) })
	in(t, host, func() error { return Check(container.File(), s) })
	s.Routes = append(s.Routes, Route{Destination: anyIPv4})
	host.Do(func() {
		err := Check(container.File(), s)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "lacks the route to 0.0.0.0/0 via 10.7.0.1;") {
			t.Error(err)
		}
	})
}

func TestAttachFailsWithoutTrace(t *testing.T) {
	host, container := world(t)
	in(t, host, func() error { return Attach(container.File(), spec(1)) })
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	before := links(t, host) + ", " + links(t, container)
	for name, test := range map[string]struct {
		ns    *os.File
		spoil func(*Spec)
		is    func(error) bool
	}{
		"name inside is taken":   {container.File(), func(*Spec) {}, errdefs.IsAlreadyExists},
		"link is taken":          {container.File(), func(s *Spec) { s.Link, s.Name = spec(1).Link, "eth1" }, errdefs.IsAlreadyExists},
		"no bridge":              {container.File(), func(s *Spec) { s.Bridge = "fb8" }, errdefs.IsNotFound},
		"a bridge that is none":  {container.File(), func(s *Spec) { s.Bridge = "lo"; s.Name = "eth1" }, anyError},
		"an address twice":       {container.File(), func(s *Spec) { s.Name = "eth1"; s.Addresses = append(s.Addresses, s.Addresses[1]) }, anyError},
		"MTU":                    {container.File(), func(s *Spec) { s.Name = "eth1"; s.MTU = 1 << 20 }, anyError},
		"MAC":                    {container.File(), func(s *Spec) { s.Name = "eth1"; s.MAC = []byte{1, 0, 0, 0, 0, 1} }, anyError},
		"not a namespace":        {null, func(s *Spec) { s.Name = "eth1" }, anyError},
		"an invalid spec":        {container.File(), func(s *Spec) { s.Link = "lo" }, errdefs.IsInvalidArgument},
		"a route that can't be":  {container.File(), func(s *Spec) { s.Name = "eth1"; s.Routes = []Route{{Destination: anyIPv4}, {Destination: anyIPv4}} }, anyError},
		"a gateway of one's own": {container.File(), func(s *Spec) { s.Name = "eth1"; s.Gateways[0] = s.Addresses[0].Addr() }, anyError},
	} {
		s := spec(2)
		test.spoil(&s)
		host.Do(func() {
			if err := Attach(test.ns, s); err == nil || !test.is(err) {
				t.Errorf("%s: %v", name, err)
			}
		})
		if after := links(t, host) + ", " + links(t, container); after != before {
			t.Errorf("%s: left %s, was %s", name, after, before)
		}
	}
}

func anyError(error) bool { return true }

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		harm func(t *testing.T, host, container *netnstest.NS, s Spec)
		want string
	}{
		"host's end down":      {func(_ *testing.T, host, _ *netnstest.NS, s Spec) { host.Down(s.Link) }, "the host's link is down"},
		"container's end down": {func(_ *testing.T, _, c *netnstest.NS, s Spec) { c.Down(s.Name) }, "the container's link is down; "},
		"address gone": {func(_ *testing.T, _, c *netnstest.NS, s Spec) {
			c.Unaddress(s.Name, s.Addresses[1].String())
		}, "lacks address fd07::11/64"},
		"route gone": {func(t *testing.T, _, c *netnstest.NS, _ Spec) {
			in(t, c, func() error {
				return netlink.RouteDel(&netlink.Route{Dst: ipNet(anyIPv4), Gw: []byte{10, 7, 0, 1}})
			})
		}, "lacks the route to 0.0.0.0/0 via 10.7.0.1"},
		"MTU":    {change(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1451) }), "the container's link has MTU 1451, which is more than 1450"},
		"MAC":    {change(func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, []byte{2, 2, 2, 2, 2, 2}) }), "has MAC 02:02:02:02:02:02, not 02:01:00:00:00:01"},
		"rename": {change(func(l netlink.Link) error { return netlink.LinkSetName(l, "eth9") }), "the container has no link eth0"},
		"host's MTU": {func(t *testing.T, host, _ *netnstest.NS, s Spec) {
			in(t, host, func() error {
				l, err := netlink.LinkByName(s.Link)
				if err != nil {
					return err
				}
				return netlink.LinkSetMTU(l, 1300)
			})
		}, "the host's link has MTU 1300, not 1450"},
		"off the bridge": {func(t *testing.T, host, _ *netnstest.NS, s Spec) {
			in(t, host, func() error {
				l, err := netlink.LinkByName(s.Link)
				if err != nil {
					return err
				}
				return netlink.LinkSetNoMaster(l)
			})
		}, "not a port of bridge fb7"},
		"detached": {func(t *testing.T, host, _ *netnstest.NS, s Spec) {
			in(t, host, func() error { return Detach(s.Link) })
		}, "the host's link is gone; the container has no link eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			host, container := world(t)
			s := spec(1)
			in(t, host, func() error { return Attach(container.File(), s) })
			in(t, host, func() error { return Check(container.File(), s) })
			test.harm(t, host, container, s)
			host.Do(func() {
				if err := Check(container.File(), s); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v, want %q", err, test.want)
				}
			})
		})
	}
}

func change(f func(netlink.Link) error) func(*testing.T, *netnstest.NS, *netnstest.NS, Spec) {
	return func(t *testing.T, _, container *netnstest.NS, s Spec) {
		in(t, container, func() error {
			l, err := netlink.LinkByName(s.Name)
			if err != nil {
				return err
			}
			return f(l)
		})
	}
}

func TestCheckOtherContainersLink(t *testing.T) {
	host, a := world(t)
	b := netnstest.New(t)
	in(t, host, func() error { return Attach(a.File(), spec(1)) })
	in(t, host, func() error { return Attach(b.File(), spec(2)) })
	s := spec(2)
	s.Link = spec(1).Link
	host.Do(func() {
		if err := Check(b.File(), s); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "not the other end") {
			t.Error(err)
		}
	})
}

func TestForeignLinksAreRefused(t *testing.T) {
	host, _ := world(t)
	host.Do(func() {
		if err := Detach("fb7"); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
		d := detacher(t)
		if err := d.Unplug("fb7"); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	})
	if got := links(t, host); got != "lo fb7" {
		t.Error(got)
	}
}

func TestParallel(t *testing.T) {
	const containers = 100
	host := netnstest.New(t)
	bridge(t, host, "fb7")
	var spaces [containers]*netnstest.NS
	for i := range spaces {
		spaces[i] = netnstest.New(t)
	}
	var d *Detacher
	host.Do(func() { d = detacher(t) })
	fds := openFiles(t)
	var all sync.WaitGroup
	for i, ns := range spaces {
		all.Go(func() {
			host.Do(func() {
				s := spec(i)
				if err := Attach(ns.File(), s); err != nil {
					t.Error(err)
					return
				}
				if err := Check(ns.File(), s); err != nil {
					t.Error(err)
				}
				detach := d.Unplug
				if i%10 == 0 {
					detach = Detach
				}
				if err := detach(s.Link); err != nil {
					t.Error(err)
				}
				if err := d.Flush(t.Context()); err != nil {
					t.Error(err)
				}
				if _, err := indexOf(s.Link); !errdefs.IsNotFound(err) {
					t.Errorf("after Flush: %v", err)
				}
			})
		})
	}
	all.Wait()
	if got := openFiles(t); got > fds {
		t.Errorf("%d files are open, %d were", got, fds)
	}
	for _, ns := range spaces {
		if got := links(t, ns); got != "lo" {
			t.Errorf("left in a container: %s", got)
		}
	}
	if got := links(t, host); got != "lo fb7" {
		t.Errorf("left: %s", got)
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
