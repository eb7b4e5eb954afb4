package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// shows runs a command in the node's namespace and returns what it prints.
func (nd *node) shows(name string, args ...string) []byte {
	nd.t.Helper()
	var out []byte
	var err error
	nd.Do(func() { out, err = exec.Command(name, args...).CombinedOutput() })
	if err != nil {
		nd.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return out
}

func (nd *node) ip(args string) { nd.t.Helper(); nd.shows("ip", strings.Fields(args)...) }

// changes lists what the kernel tells of while f runs: links and addresses deleted, routes
// of ours, neighbours and FDB entries of our device.
func (nd *node) changes(f func()) (messages []string) {
	nd.t.Helper()
	s, err := nl.SubscribeAt(netns.NsHandle(nd.File().Fd()), netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		nd.t.Fatal(err)
	}
	defer s.Close()
	device := index(nd.t, nd.NS, Device(vni))
	if err := s.SetReceiveTimeout(&unix.Timeval{Sec: 60}); err != nil {
		nd.t.Fatal(err)
	}
	f()
	nd.ip("route add unreachable 203.0.113.0/24")
	defer nd.ip("route del unreachable 203.0.113.0/24")
	for {
		all, _, err := s.Receive()
		if err != nil {
			nd.t.Fatalf("listen to the kernel: %v", err)
		}
		for _, m := range all {
			if m.Header.Type == unix.RTM_NEWROUTE && bytes.Contains(m.Data, []byte{203, 0, 113, 0}) {
				return messages
			}
			// The kernel tells of carriers and of addresses that become usable in its own time.
			ours := false
			switch m.Header.Type {
			case unix.RTM_DELLINK, unix.RTM_DELADDR:
				ours = true
			case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
				ours = m.Data[5] == Protocol // struct rtmsg
			case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
				ours = int(binary.NativeEndian.Uint32(m.Data[4:])) == device // struct ndmsg
			}
			if ours {
				messages = append(messages, fmt.Sprintf("type %d: %x", m.Header.Type, m.Data))
			}
		}
	}
}

func TestEnsureTwiceChangesNothing(t *testing.T) {
	underlays(t, func(t *testing.T, v6 bool) {
		all := nodes(t, v6, 3)
		settle(t, all)
		messages := all[0].changes(func() {
			for range 3 {
				if changed, err := all[0].ensure(all...); changed || err != nil {
					t.Errorf("changed %t, %v", changed, err)
				}
			}
		})
		if len(messages) != 0 {
			t.Errorf("the kernel told of changes: %v", messages)
		}
		// And it does tell.
		if messages := all[0].changes(func() { _, _ = all[0].ensure(all[1]) }); len(messages) == 0 {
			t.Error("the kernel told of no change")
		}
	})
}

func TestEnsureTouchesNothingInTheWay(t *testing.T) {
	for name, make := range map[string]string{
		"bridge": "link add fb7 type veth peer name other",
		"device": "link add fx7 type bridge",
		"VNI":    "link add vx0 type vxlan id 7 dstport 4789 local 192.0.2.1",
	} {
		t.Run(name, func(t *testing.T) {
			nd := nodes(t, false, 1)[0]
			nd.ip(make)
			links := nd.shows("ip", "-o", "link")
			changed, err := nd.ensure()
			if changed || !errdefs.IsAlreadyExists(err) {
				t.Errorf("changed %t, %v", changed, err)
			}
			if after := nd.shows("ip", "-o", "link"); !bytes.Equal(links, after) {
				t.Errorf("was\n%s\nis\n%s", links, after)
			}
			if name != "VNI" {
				nd.Do(func() { err = nd.o.Remove(vni) })
				if !errdefs.IsAlreadyExists(err) {
					t.Errorf("Remove: %v", err)
				}
			}
		})
	}
}

func TestRouterAdvertisementsAreHeardOn(t *testing.T) {
	nd := nodes(t, false, 1)[0]
	nd.ip("link add eth1 type bridge")
	nd.SetSysctl("net/ipv6/conf/eth1/accept_ra", "0")
	v6 := nd.n
	nd.n.Subnets, nd.n.Cluster = prefixes("10.1.1.0/24"), nil
	if _, err := nd.ensure(); err != nil {
		t.Fatal(err)
	}
	if nd.Sysctl("net/ipv6/conf/all/forwarding") != "0" || nd.Sysctl("net/ipv6/conf/eth0/accept_ra") != "1" {
		t.Error("an IPv4 network changed how the node does IPv6")
	}
	// A route that came with an advertisement.
	nd.ip("-6 route add default via fe80::1 dev eth0 proto ra")
	nd.n = v6
	if _, err := nd.ensure(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"all/forwarding": "1", "eth0/accept_ra": "2", "eth1/accept_ra": "0", "fb7/accept_ra": "0", "fx7/accept_ra": "0", "fb7/autoconf": "0"} {
		if got := nd.Sysctl("net/ipv6/conf/" + path); got != want {
			t.Errorf("%s is %s, not %s", path, got, want)
		}
	}
	if !strings.Contains(string(nd.shows("ip", "-6", "route")), "default via fe80::1 dev eth0") {
		t.Error("the default route is gone")
	}
	// What the operator chose later stays.
	nd.SetSysctl("net/ipv6/conf/eth0/accept_ra", "1")
	if changed, err := nd.ensure(); changed || err != nil {
		t.Errorf("changed %t, %v", changed, err)
	}
}

func TestRemove(t *testing.T) {
	nd := nodes(t, false, 1)[0]
	state := func() string {
		return string(nd.shows("ip", "-o", "-br", "link")) + string(nd.shows("ip", "route")) + string(nd.shows("ip", "-6", "route"))
	}
	remove := func() (err error) { nd.Do(func() { err = nd.o.Remove(vni) }); return err }
	if err := remove(); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
	before := state()
	other := nd.n
	other.VNI, other.Subnets, other.Cluster = 8, prefixes("10.8.1.0/24"), prefixes("10.8.0.0/16")
	if _, err := nd.ensure(); err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if after := state(); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}
	// Another network stays whole.
	var changed bool
	var err error
	nd.Do(func() {
		if _, err = nd.o.Ensure(other, nil); err != nil {
			t.Error(err)
		}
		if _, err = nd.o.Ensure(nd.n, nil); err != nil {
			t.Error(err)
		}
		if err := nd.o.Remove(vni); err != nil {
			t.Error(err)
		}
		changed, err = nd.o.Ensure(other, nil)
	})
	if changed || err != nil {
		t.Errorf("changed %t, %v", changed, err)
	}
}

func TestMTUOfTheUnderlay(t *testing.T) {
	nd := nodes(t, false, 1)[0]
	mtu := func() (mtu int, err error) { nd.Do(func() { mtu, err = nd.o.MTU() }); return mtu, err }
	if got, err := mtu(); got != 1450 || err != nil {
		t.Error(got, err)
	}
	nd.ip("addr add 192.0.2.50/32 dev lo")
	nd.o = &Overlay{Underlay{netip.MustParseAddr("192.0.2.50"), 4789}}
	if _, err := mtu(); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	nd.o = &Overlay{Underlay{netip.MustParseAddr("192.0.2.51"), 4789}}
	if _, err := mtu(); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "192.0.2.51") {
		t.Error(err)
	}
	if changed, err := nd.ensure(); changed || !errdefs.IsFailedPrecondition(err) {
		t.Error(changed, err)
	}
}

// A container with a smaller MTU doesn't drag the bridge's down.
func TestBridgeKeepsItsMTUAndMAC(t *testing.T) {
	nd := nodes(t, false, 1)[0]
	nd.n.MTU = 1500
	settle(t, []*node{nd})
	small := netnstest.New(t)
	netnstest.Wire(netnstest.End{NS: nd.NS, Link: "fv9"}, netnstest.End{NS: small, Link: "eth0"}, 1300)
	nd.Port("fb7", "fv9")
	if changed, err := nd.ensure(); changed || err != nil {
		t.Errorf("changed %t, %v", changed, err)
	}
}

// Networks are set up beside each other: dumps are interrupted and globals shared.
func TestNetworksAtOnce(t *testing.T) {
	nd := nodes(t, false, 1)[0]
	var remotes [8][]Remote
	var networks [8]Network
	var wg sync.WaitGroup
	for i := range uint32(8) {
		networks[i] = Network{VNI: 100 + i, Subnets: prefixes(fmt.Sprintf("10.%d.1.0/24 fd00:%d:1::/64", 10+i, 10+i))}
		for k := range 10 {
			remotes[i] = append(remotes[i], Remote{netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + k)}), prefixes(fmt.Sprintf("10.%d.%d.0/24", 10+i, 10+k))})
		}
		wg.Go(func() {
			nd.Do(func() {
				// The kernel's list of FDB entries may miss some while other devices go. Then
				// they are put again, to no effect.
				for range 3 {
					if _, err := nd.o.Ensure(networks[i], remotes[i]); err != nil {
						t.Errorf("%d: %v", networks[i].VNI, err)
					}
				}
				if i%2 == 0 {
					if err := nd.o.Remove(networks[i].VNI); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
	wg.Wait()
	nd.Do(func() {
		for i, n := range networks {
			if changed, err := nd.o.Ensure(n, remotes[i]); changed != (i%2 == 0) || err != nil {
				t.Errorf("%d: changed %t, %v", n.VNI, changed, err)
			}
		}
	})
}

func BenchmarkEnsureOfWhatIsRight(b *testing.B) {
	nd := nodes(b, false, 1)[0]
	var remotes []Remote
	for i := range 200 {
		remotes = append(remotes, Remote{netip.MustParseAddr(fmt.Sprintf("192.0.3.%d", i+1)), prefixes(fmt.Sprintf("10.1.%d.0/24 fd00:1:%x::/64", i+2, i+2))})
	}
	nd.Do(func() {
		start := time.Now()
		if _, err := nd.o.Ensure(nd.n, remotes); err != nil {
			b.Fatal(err)
		}
		first := time.Since(start)
		for b.Loop() {
			if changed, err := nd.o.Ensure(nd.n, remotes); changed || err != nil {
				b.Fatal(changed, err)
			}
		}
		b.ReportMetric(float64(first.Microseconds())/1000, "ms-first")
	})
}

func TestEnsureAfterACrashAtAnyStep(t *testing.T) {
	nd := nodes(t, false, 1)[0]
	remotes := []Remote{{netip.MustParseAddr("192.0.2.2"), prefixes("10.1.2.0/24 fd00:1:2::/64")}}
	peers, err := nd.o.underlay.peers(nd.n, remotes)
	if err != nil {
		t.Fatal(err)
	}
	nd.Do(func() {
		for step := 0; ; step++ {
			nd.SetSysctl(forwarding4, "0")
			nd.SetSysctl(forwarding6, "0")
			changes, err := nd.o.compare(nd.n, peers)
			if err != nil {
				t.Fatal(err)
			}
			if step > len(changes) {
				return
			}
			if err := apply(changes[:step]); err != nil {
				t.Errorf("step %d: %v", step, err)
			}
			for round := range 2 {
				changed, err := nd.o.Ensure(nd.n, remotes)
				if changed != (round == 0 && step < len(changes)) || err != nil {
					t.Errorf("step %d, round %d: changed %t, %v", step, round, changed, err)
				}
			}
			if err := nd.o.Remove(vni); err != nil {
				t.Errorf("step %d: %v", step, err)
			}
		}
	})
}
