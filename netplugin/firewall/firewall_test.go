package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSupported(t *testing.T) {
	for range 3 {
		if err := Supported(); err != nil {
			t.Fatal(err)
		}
	}
}

// open is a firewall in an empty namespace.
func open(t testing.TB) *Firewall {
	t.Helper()
	var f *Firewall
	netnstest.New(t).Do(func() {
		var err error
		if f, err = Open(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// many is a state with as many endpoints, and as many other nodes.
func many(n int) State {
	s := State{Port: port, Networks: []Network{{
		Bridge: "fb1", Device: "fx1", Masquerade: true,
		Subnets: []netip.Prefix{prefix("10.1.0.0/16"), prefix("fd01:0:0:1::/64")},
		Cluster: []netip.Prefix{prefix("10.0.0.0/8"), prefix("fd01::/48")},
	}}}
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		s.VTEPs = append(s.VTEPs, netip.AddrFrom4([4]byte{192, 0, hi, lo}))
		s.Endpoints = append(s.Endpoints, numbered(i))
	}
	return s
}

func numbered(i int) Endpoint {
	hi, lo := byte(i>>8), byte(i)
	return Endpoint{
		Link: fmt.Sprintf("fv%011x", i), MAC: net.HardwareAddr{2, 0, 0, 1, hi, lo},
		Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 1, hi, lo}),
			netip.AddrFrom16([16]byte{0xfd, 1, 0, 0, 0, 0, 0, 1, 14: hi, 15: lo}),
		},
	}
}

func TestAllowAndDeny(t *testing.T) {
	l := newLab(t, false, false)
	to := l.b.Echo("udp", at(l.b.v4, 0))
	passes := func() bool {
		t.Helper()
		return l.d.Try("udp", to, 300*time.Millisecond) == nil
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d := l.d.endpoint()
	if passes() {
		t.Error("passes before Allow")
	}
	must(l.f.Allow(d))
	must(l.f.Allow(d))
	must(l.d.Try("udp", to, patience))
	must(l.f.Deny(d))
	if passes() {
		t.Error("passes after Deny")
	}
	must(l.f.Deny(d))
	must(l.f.Allow(d))
	must(l.d.Try("udp", to, patience))

	// In part absent: the rest goes all the same.
	more := d
	more.Addresses = append(more.Addresses, addr("10.1.1.99"))
	must(l.f.Deny(more))
	if passes() {
		t.Error("passes after Deny of more than was allowed")
	}
	must(l.f.Allow(d))
	l.replace(t)
	if passes() {
		t.Error("passes after Replace without it")
	}
	// The other containers were never touched.
	must(l.a.Try("udp", to, patience))
}

func TestWithoutTables(t *testing.T) {
	f := open(t)
	for range 3 { // the answers to one failure aren't taken for the next one's
		if err := f.Allow(numbered(1)); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Allow: %v", err)
		}
		if err := f.Deny(numbered(1)); err != nil {
			t.Errorf("Deny: %v", err)
		}
		if drops, err := f.Drops(); err != nil || len(drops) != 0 {
			t.Errorf("Drops: %v, %v", drops, err)
		}
		if err := f.Remove(); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	if err := f.Replace(State{Port: port}); err != nil {
		t.Errorf("an empty state: %v", err)
	}
	if err := f.Allow(numbered(1)); err != nil {
		t.Errorf("Allow: %v", err)
	}
}

// A state that the kernel refuses, or that has no sense, changes nothing.
func TestReplaceIsWhole(t *testing.T) {
	l := newLab(t, false, false)
	bad := l.state
	bad.Endpoints = append(bad.Endpoints, bad.Endpoints[0])
	if err := l.f.Replace(bad); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	if err := l.a.Try("udp", l.b.Echo("udp", at(l.b.v4, 0)), patience); err != nil {
		t.Error(err)
	}
	l.noDrops(t)
}

// Counters go on over Replace, another process's Firewall, and the end of a container,
// whose drops are then kept without its name.
func TestDropsAreKept(t *testing.T) {
	l := newLab(t, false, false)
	attack := l.frameAttacks()[0]
	for i := range uint64(3) {
		attack.from.send(t, attack.frame)
		if n := l.waitDropped(t, SpoofedMAC, l.a.link, i); n != i+1 {
			t.Fatalf("counted %d, want %d", n, i+1)
		}
		l.replace(t)
	}
	l.state.Endpoints = l.state.Endpoints[1:]
	l.replace(t)
	if n, all := l.dropped(t, SpoofedMAC, l.a.link), l.dropped(t, SpoofedMAC, ""); n != 0 || all != 3 {
		t.Errorf("of the container that has gone: %d by name, %d without", n, all)
	}

	attack.from.send(t, attack.frame)
	l.waitDropped(t, UnknownLink, "", 0)
	l.Do(func() {
		var err error
		if l.f, err = Open(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { l.f.Close() })
	if n := l.dropped(t, UnknownLink, l.a.link); n == 0 { // by name: it is not known yet who is allowed
		t.Error("a new process doesn't see what is in the kernel")
	}
	l.replace(t)
	if n := l.dropped(t, UnknownLink, ""); n == 0 {
		t.Error("a new process's first Replace loses what was in the kernel")
	}
}

// All prefixes that can be, on the edges of the address space and beside one another.
func TestPrefixesTheKernelTakes(t *testing.T) {
	f := open(t)
	s := State{Port: 65535}
	for i, subnets := range [][]string{
		{"10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/23"},
		{"0.0.0.0/8", "255.255.255.0/24"},
		{"::/16", "ffff::/16", "fd00::1/128", "10.9.9.9/32"},
		{},
	} {
		n := Network{Bridge: fmt.Sprint("fb", i), Device: fmt.Sprint("fx", i), Masquerade: true}
		for _, p := range subnets {
			n.Subnets = append(n.Subnets, prefix(p))
		}
		n.Cluster = append(n.Subnets, prefix("0.0.0.0/0"), prefix("::/0"), prefix("10.0.0.0/8"), prefix("fd00::/8"))
		s.Networks = append(s.Networks, n)
	}
	if err := f.Replace(s); err != nil {
		t.Fatal(err)
	}
	all := State{Port: 1, Networks: []Network{{
		Bridge: "fb1", Device: "fx1", Masquerade: true,
		Subnets: []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")},
	}}}
	if err := f.Replace(all); err != nil {
		t.Fatal(err)
	}
}

func TestManyEndpoints(t *testing.T) {
	f := open(t)
	s := many(10_000)
	for range 2 {
		if err := f.Replace(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Deny(s.Endpoints[5000]); err != nil {
		t.Fatal(err)
	}
}

func TestConcurrentUse(t *testing.T) {
	f := open(t)
	s := many(10)
	if err := f.Replace(s); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				e := numbered(1000 + g)
				var err error
				switch i % 4 {
				case 0:
					err = f.Allow(e)
				case 1:
					_, err = f.Drops()
				case 2:
					err = f.Deny(e)
				case 3:
					err = f.Replace(s)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkAllowDeny(b *testing.B) {
	for _, n := range []int{0, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := open(b)
			if err := f.Replace(many(n)); err != nil {
				b.Fatal(err)
			}
			e := numbered(5000)
			for b.Loop() {
				if err := f.Allow(e); err != nil {
					b.Fatal(err)
				}
				if err := f.Deny(e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReplace(b *testing.B) {
	for _, n := range []int{0, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f, s := open(b), many(n)
			for b.Loop() {
				if err := f.Replace(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
