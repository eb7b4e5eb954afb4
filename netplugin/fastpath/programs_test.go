package fastpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// What programs return (linux/pkt_cls.h).
const (
	goesOn     = 0
	dropped    = 2
	redirected = 7
)

// skb is struct __sk_buff of linux/bpf.h. BPF_PROG_TEST_RUN takes the fields that are
// named here.
type skb struct {
	_        [2]uint32
	Mark     uint32
	_        [5]uint32
	Priority uint32
	_        uint32 // ingress_ifindex
	Ifindex  uint32
	_        uint32
	CB       [5]uint32
	_        [23]uint32
	WireLen  uint32
	GSOSegs  uint32
	_        [2]uint32 // sk
	GSOSize  uint32
	_        uint32
	_        uint64 // hwtstamp
}

// verdict is what a program did.
type verdict struct {
	action uint32
	frame  []byte
	skb    skb
}

// testable tells whether the kernel tests a program with a frame: it wants all of the
// Ethernet header and of the IP header that this announces (net/bpf/test_run.c).
func testable(b []byte) bool {
	if len(b) < 14 || len(b) > 3400 {
		return false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		return len(b) >= 34
	case 0x86dd:
		return len(b) >= 54
	}
	return len(b) > 14
}

// run gives a frame to a program as if it came by ctx.Ifindex. Whose frame it is the kernel
// tells by that link's MAC, as it does with a frame from a wire.
func (l *lab) run(p *ebpf.Program, data []byte, ctx skb) (v verdict, err error) {
	out := ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256), Context: &ctx, ContextOut: &v.skb}
	l.inside(func() { v.action, err = p.Run(&out) })
	v.frame = out.DataOut
	return v, err
}

// fromWire gives a frame to the program at the NIC.
func (l *lab) fromWire(data []byte) verdict {
	l.t.Helper()
	v, err := l.run(l.path.objects.FalconWire, data, skb{Ifindex: l.eth0})
	l.must(err)
	return v
}

// reasons counts packets by what the programs decided. What the containers send by themselves
// (RFC 4861, RFC 3810) is among them, so a counter may grow by more than a test's packets.
func (l *lab) reasons() map[string]uint64 {
	l.t.Helper()
	c, err := l.path.Counts()
	l.must(err)
	all := map[string]uint64{}
	for _, m := range []map[string]uint64{c.Taken, c.Left, c.Steered} {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

// judge runs a frame through the program at the NIC and tells how that differs from the
// model. Flows that are to take the shortcut are in the map already.
func (l *lab) judge(data []byte) (v verdict, want outcome) {
	l.t.Helper()
	want = l.model.receive(data)
	v = l.fromWire(data)
	if v.action == redirected && want.why == wrongOutside {
		want = l.unchecked(data, want)
	}
	switch {
	case v.action == goesOn && !bytes.Equal(v.frame, data):
		l.t.Errorf("it goes on by the kernel's path, changed:\nwas %x\nis  %x", data, v.frame)
	case v.action != goesOn && v.action != redirected:
		l.t.Errorf("it does %d with\n%x", v.action, data)
	case v.action == redirected && want.to == nil:
		l.t.Errorf("it takes the shortcut; the kernel would not deliver it: %s\n%x", want.why, data)
	case v.action == redirected && want.left != "":
		l.t.Errorf("it takes the shortcut; it should be left: %s\n%x", want.left, data)
	case v.action == redirected && !bytes.Equal(v.frame, want.frame):
		l.t.Errorf("by the shortcut it differs:\nwas  %x\nis   %x\nwant %x", data, v.frame, want.frame)
	}
	return v, want
}

// unchecked is what may become of a packet whose outer checksum is wrong. The program reads
// no payload: it leaves to the container what is wrong with that, to whom the inner checksum
// tells it. And a sum over the pseudo header only is one that hardware was to complete.
func (l *lab) unchecked(data []byte, want outcome) outcome {
	m := l.model
	m.trusting = true
	out := m.receive(data)
	outer, _ := readIP(binary.BigEndian.Uint16(data[12:]), data[14:])
	datagram := outer.packet[outer.header:]
	incomplete := sum(pseudo(outer.source, outer.destination, protoUDP, int(binary.BigEndian.Uint16(datagram[4:])))) == binary.BigEndian.Uint16(datagram[6:])
	if out.left == wrongInside || incomplete {
		out.left = ""
		return out
	}
	return want
}

// underlays runs a test over IPv4 and over IPv6.
func underlays(t *testing.T, f func(t *testing.T, v6 bool)) {
	t.Run("over IPv4", func(t *testing.T) { f(t, false) })
	t.Run("over IPv6", func(t *testing.T) { f(t, true) })
}

// A flow comes to take the shortcut by what the programs see, and leaves it by what
// changes.
func TestFlowOfWire(t *testing.T) {
	underlays(t, func(t *testing.T, outer6 bool) {
		l := newLab(t, outer6, nil)
		for _, inner6 := range []bool{false, true} {
			a := l.container("a")
			packet := l.from(a, inner6, protoUDP)
			data, key := packet.bytes(), keyOf(packet.inner, 1)
			state := func(want bpf.FalconState) {
				t.Helper()
				if f, _ := l.flow(key); f.State != want {
					t.Fatalf("state is %d, not %d", f.State, want)
				}
			}
			want := l.model.receive(data)
			if want.to != a {
				t.Fatalf("the model: %s", want.why)
			}
			learn := func() {
				t.Helper()
				if v := l.fromWire(data); v.action != goesOn {
					t.Fatalf("a new flow's packet: %d", v.action)
				}
				state(bpf.FalconStateSTATE_NEW)
				// It comes out at the container, by what the kernel does.
				v, err := l.run(l.path.objects.FalconIn, want.frame, skb{Ifindex: a.link})
				if err != nil || v.action != goesOn || !bytes.Equal(v.frame, want.frame) {
					t.Fatalf("at the container: %d, %v", v.action, err)
				}
				state(bpf.FalconStateSTATE_SEEN)
			}
			taken := func(yes bool) {
				t.Helper()
				if v, _ := l.judge(data); (v.action == redirected) != yes {
					t.Fatalf("action %d, counted %v", v.action, l.reasons())
				}
			}
			learn()
			taken(true)
			state(bpf.FalconStateSTATE_FAST)
			for name, change := range map[string]func() error{
				"epoch": l.path.Invalidate,
				"container": func() (err error) {
					l.Do(func() { err = errors.Join(l.path.Drop("fva"), l.path.Add(l.endpoint(a))) })
					return err
				},
				"node": func() (err error) {
					peers := slices.Clone(l.model.peers)
					l.path.mu.Lock()
					defer l.path.mu.Unlock()
					return errors.Join(l.path.syncPeers(peers[1:]), l.path.syncPeers(peers))
				},
			} {
				t.Log("another", name)
				l.must(change())
				learn()
				taken(true)
			}
			l.must(l.path.Shortcut(false))
			taken(false)
			l.must(l.path.Shortcut(true))
			taken(true)
			valid := l.path.settings.ValidUntil
			l.path.settings.ValidUntil = 1
			l.must(l.path.write())
			taken(false)
			l.path.settings.ValidUntil = valid
			l.must(l.path.write())
			taken(true)
			slow := l.endpoint(a)
			slow.Slow = true
			l.Do(func() { l.must(l.path.Add(slow)) })
			taken(false)
			taken(false)
			state(bpf.FalconStateSTATE_SLOW)
			l.Do(func() { l.must(l.path.Add(l.endpoint(a))) })
			learn()
			taken(true)
		}
	})
}

// What has no room or is not known stays on the kernel's path.
func TestRoom(t *testing.T) {
	l := newLab(t, false, func(s *ebpf.CollectionSpec) {
		s.Maps[bpf.FalconMapFalconPairs].MaxEntries = 1
		s.Maps[bpf.FalconMapFalconFlows].MaxEntries = 1
	})
	a, b := l.from(l.container("a"), false, protoUDP), l.from(l.container("b"), false, protoUDP)
	for _, packet := range []tunnelled{a, b} {
		l.fast(packet.inner, 1, nil)
		if v, _ := l.judge(packet.bytes()); v.action != redirected {
			t.Errorf("action %d", v.action)
		}
	}
	if n := l.reasons(); n["pairs"] != 1 || n["wire"] != 2 {
		t.Errorf("counted %v", n)
	}
	// More flows than there is room for push each other out.
	for i := range 300 {
		a.inner.udp.source = uint16(1000 + i)
		if v, _ := l.judge(a.bytes()); v.action != goesOn {
			t.Errorf("action %d", v.action)
		}
	}
}

// An address may be there in two networks.
func TestSameAddressInTwoNetworks(t *testing.T) {
	l := newLab(t, false, nil)
	a, c := l.container("a"), l.container("c")
	packet := l.from(a, false, protoUDP)
	l.fast(packet.inner, 1, nil)
	twin := l.endpoint(c)
	twin.Addresses = append(twin.Addresses, a.addresses[0])
	l.Do(func() { l.must(l.path.Add(twin)) })
	l.must(put(l.path.objects.FalconPrefixes, prefixKey(2, prefix("10.1.2.0/24")), l.path.peers[l.model.peers[0].Address].index))
	packet.vni, packet.inner.to = 2, l.model.networks[2].vtep
	if v := l.fromWire(packet.bytes()); v.action != goesOn {
		t.Errorf("action %d", v.action)
	}
	if f, known := l.flow(keyOf(packet.inner, 2)); !known || f.State != bpf.FalconStateSTATE_NEW || f.Endpoint != l.path.slots["fvc"].index {
		t.Errorf("known %t: %+v", known, f)
	}
	if f, _ := l.flow(keyOf(packet.inner, 1)); f.State != bpf.FalconStateSTATE_FAST || f.Packets != 0 {
		t.Errorf("the other network's: %+v", f)
	}
}
