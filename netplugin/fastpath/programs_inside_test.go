package fastpath

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// changed is a frame that the programs behind the NIC see: a good one, changed. It takes the
// shortcut if reason is empty; "-" counts nothing.
type changed struct {
	name   string
	change func(*frame)
	ctx    skb
	reason string
}

// odd are those that are the same at each place. What a test can't set is not among them:
// VLANs, which TestKernelAndModelAgree has, and where segments begin.
func odd(v6 bool) []changed {
	all := []changed{
		{"good", func(*frame) {}, skb{}, ""},
		{"DSCP", func(f *frame) { f.ip.tos = 0xb8 }, skb{}, ""},
		{"congestion", func(f *frame) { f.ip.tos = 3 }, skb{}, ""},
		{"TTL 255", func(f *frame) { f.ip.ttl = 255 }, skb{}, ""},
		{"TTL 2", func(f *frame) { f.ip.ttl = 2 }, skb{}, ""},
		{"inner length too large", func(f *frame) { f.ip.length = 1 }, skb{}, "malformed"},
		{"inner length too small", func(f *frame) { f.ip.length = -1 }, skb{}, "malformed"},
		{"another VLAN", func(f *frame) { f.tag = []byte{0x81, 0, 0, 5} }, skb{}, "protocol"},
		{"ICMP", func(f *frame) { f.ip.protocol = 1 }, skb{}, "protocol"},
		{"new", func(f *frame) { f.udp.source++ }, skb{}, "new"},
	}
	if v6 {
		return append(all, changed{"extension", func(f *frame) { f.ip.options, f.ip.protocol = []byte{17, 0, 1, 4, 0, 0, 0, 0}, 60 }, skb{}, "options"},
			changed{"fragment", func(f *frame) { f.ip.options, f.ip.protocol = []byte{17, 0, 0, 1, 0, 0, 0, 1}, 44 }, skb{}, "fragment"})
	}
	return append(all, changed{"options", func(f *frame) { f.ip.options = []byte{1, 1, 1, 0} }, skb{}, "options"},
		changed{"checksum", func(f *frame) { f.ip.sum = 1 }, skb{}, "malformed"},
		changed{"first fragment", func(f *frame) { f.ip.fragment = 0x2000 }, skb{}, "fragment"},
		changed{"later fragment", func(f *frame) { f.ip.fragment = 0x10 }, skb{}, "fragment"},
		changed{"without fragments", func(f *frame) { f.ip.fragment = 0x4000 }, skb{}, ""})
}

// passes gives a frame to a program, and checks what that did against what it should.
func (l *lab) passes(t *testing.T, p *ebpf.Program, c changed, f frame, taken string, counted bool, want func([]byte) outcome) {
	l.t = t
	c.change(&f)
	b := f.bytes()
	before := l.reasons()
	l.behind(t, p, b, c.ctx, func() outcome { return want(b) })
	reason := c.reason
	if reason == "" {
		reason = taken
	}
	if after := l.reasons(); reason != "-" && (counted || reason == taken) && after[reason] <= before[reason] {
		t.Errorf("%s: counted\n%v, then\n%v", reason, before, after)
	}
}

func TestTunnel(t *testing.T) {
	inners(t, func(t *testing.T, l *lab, v6 bool) {
		a := l.container("a")
		for _, c := range slices.Concat(odd(v6), []changed{
			{"TTL 1", func(f *frame) { f.ip.ttl = 1 }, skb{}, "ttl"},
			{"for another station", func(f *frame) { f.to[5]++ }, skb{}, "-"},
			{"without the wire", func(*frame) {}, skb{}, ""},
		}) {
			t.Run(c.name, func(t *testing.T) {
				good := l.from(a, v6, protoTCP).inner
				l.fast(good, 1, nil)
				l.passes(t, l.path.objects.FalconTunnel, withIfindex(c, l.fx[1]), good, "tunnel", c.reason == "ttl" || c.reason == "new",
					func(b []byte) outcome { return l.model.behindTunnel(1, b) })
			})
		}
		// UDP is the wire's, unless its segments were put together, or the wire can't.
		udp := l.from(a, v6, protoUDP).inner
		for name, c := range map[string]struct {
			tunnel uint8
			ctx    skb
			taken  bool
		}{
			"UDP":                     {0, skb{}, false},
			"UDP that the wire can't": {1, skb{}, true},
			"UDP put together":        {0, skb{GSOSize: 500, GSOSegs: 2}, true},
			"UDP, by no VXLAN device": {1, skb{Ifindex: l.eth0}, false},
			"UDP, another network's":  {1, skb{Ifindex: l.fx[2]}, false},
		} {
			t.Run(name, func(t *testing.T) {
				l.t = t
				f := udp
				if c.ctx.GSOSize != 0 {
					f.payload = make([]byte, int(c.ctx.GSOSize)*int(c.ctx.GSOSegs))
				}
				l.fast(f, 1, func(flow *bpf.FalconFlow) { flow.Tunnel = c.tunnel })
				if c.ctx.Ifindex == 0 {
					c.ctx.Ifindex = l.fx[1]
				}
				v, err := l.run(l.path.objects.FalconTunnel, f.bytes(), c.ctx)
				if err != nil || (v.action == redirected) != c.taken {
					t.Errorf("action %d, %v", v.action, err)
				}
			})
		}
	})
}

func withIfindex(c changed, ifindex uint32) changed {
	c.ctx.Ifindex = ifindex
	return c
}

func TestOut(t *testing.T) {
	l := newLab(t, false, nil)
	a := l.container("a")
	combinations(func(name string, v6, local bool) {
		taken := map[bool]string{false: "out", true: "local"}[local]
		room := l.mtu(v6)
		if !local {
			room += l.model.networks[1].mtu - a.mtu
		}
		table := slices.Concat(odd(v6), []changed{
			{"another's MAC", func(f *frame) { f.from[5]++ }, skb{}, "address"},
			{"for another station", func(f *frame) { f.to[5]++ }, skb{}, "address"},
			{"another's address", func(f *frame) { f.ip.source = f.ip.source.Next() }, skb{}, "unknown"},
			{"as long as the MTU", func(f *frame) { f.payload = make([]byte, room) }, skb{}, ""},
			{"longer than the MTU", func(f *frame) { f.payload = make([]byte, room+1) }, skb{}, "mtu"},
			{"to nobody", func(f *frame) { f.ip.destination = a.addresses[0].Next().Next().Next() }, skb{}, "-"},
			{"TTL 1", func(f *frame) { f.ip.ttl = 1 }, skb{}, map[bool]string{false: "ttl", true: ""}[local]},
		})
		for _, c := range table {
			t.Run(name+" "+c.name, func(t *testing.T) {
				good := l.leaving(v6, local, protoUDP)
				l.leaves(good, local)
				if c.name == "to nobody" && v6 {
					c.change = func(f *frame) { f.ip.destination = a.addresses[1].Prev().Prev() }
				}
				l.passes(t, l.path.objects.FalconOut, withIfindex(c, a.link), good, taken, true,
					func(b []byte) outcome { return l.model.outOf(a, b) })
			})
		}
		l.t = t
	})
	// Another container's flow is not for this one.
	good := l.leaving(false, false, protoUDP)
	l.leaves(good, false)
	b := l.container("b")
	good.from = b.mac
	if v, err := l.run(l.path.objects.FalconOut, good.bytes(), skb{Ifindex: b.link}); err != nil || v.action != goesOn {
		t.Errorf("action %d, %v", v.action, err)
	}
}

// The kernel's queues see of a packet that took the shortcut what they would see of it.
func TestPriorityOfWhatLeaves(t *testing.T) {
	l := newLab(t, false, nil)
	for _, c := range []struct {
		flags bpf.FalconFlag
		class bpf.FalconPriorityClass
		tos   byte
		want  uint32 // of linux/pkt_sched.h
	}{
		{0, bpf.FalconPriorityClassCLASS_NORMAL, 0, 0},
		{0, bpf.FalconPriorityClassCLASS_NORMAL, 0x08, 2},
		{0, bpf.FalconPriorityClassCLASS_NORMAL, 0x10, 6},
		{0, bpf.FalconPriorityClassCLASS_NORMAL, 0x18, 4},
		{0, bpf.FalconPriorityClassCLASS_HIGH, 0, 0},
		{bpf.FalconFlagFLAG_PRIORITY, bpf.FalconPriorityClassCLASS_HIGH, 0x08, 6},
		{bpf.FalconFlagFLAG_PRIORITY, bpf.FalconPriorityClassCLASS_LOW, 0x10, 2},
	} {
		l.path.settings.Flags = l.path.settings.Flags&^bpf.FalconFlagFLAG_PRIORITY | c.flags
		l.must(l.path.write())
		good := l.leaving(false, false, protoUDP)
		good.ip.tos = c.tos
		key := l.leaves(good, false)
		flow, _ := l.flow(key)
		flow.Class = c.class
		l.must(l.path.objects.FalconFlows.Put(&key, &flow))
		v, err := l.run(l.path.objects.FalconOut, good.bytes(), skb{Ifindex: l.container("a").link})
		if err != nil || v.action != redirected || v.skb.Priority != c.want {
			t.Errorf("%+v: action %d, priority %d, %v", c, v.action, v.skb.Priority, err)
		}
		// The mark of what the program at the VXLAN device does not count.
		sent, err := l.run(l.path.objects.FalconSent, v.frame, skb{Ifindex: l.fx[1], CB: v.skb.CB})
		if after, _ := l.flow(key); err != nil || sent.action != goesOn || after.Arrived != 0 {
			t.Errorf("%d packets arrived, %v", after.Arrived, err)
		}
	}
}

// Flows from and between containers come to take the shortcut as those from the wire do.
func TestFlowOfContainer(t *testing.T) {
	l := newLab(t, false, nil)
	a, b := l.container("a"), l.container("b")
	combinations(func(name string, v6, local bool) {
		f := l.leaving(v6, local, protoTCP)
		data, key := f.bytes(), keyOf(f, 1)
		out := l.model.outOf(a, data)
		step := func(p *ebpf.Program, data []byte, ifindex uint32, action uint32, state bpf.FalconState) {
			t.Helper()
			v, err := l.run(p, data, skb{Ifindex: ifindex})
			flow, _ := l.flow(key)
			if err != nil || v.action != action || flow.State != state {
				t.Fatalf("%s: action %d, state %d, %v", name, v.action, flow.State, err)
			}
		}
		end, at := l.path.objects.FalconSent, l.fx[1]
		if local {
			end, at = l.path.objects.FalconIn, b.link
		}
		step(l.path.objects.FalconOut, data, a.link, goesOn, bpf.FalconStateSTATE_NEW)
		step(end, bytes.Replace(out.frame, f.bytes()[len(data)-20:len(data)-16], []byte{1, 2, 3, 4}, 1), at, goesOn, bpf.FalconStateSTATE_NEW) // another flow's
		step(end, out.frame, l.eth0, goesOn, bpf.FalconStateSTATE_NEW)                                                                         // elsewhere
		step(end, out.frame, at, goesOn, bpf.FalconStateSTATE_SEEN)
		step(l.path.objects.FalconOut, data, a.link, redirected, bpf.FalconStateSTATE_FAST)
		l.must(l.path.Invalidate())
		step(l.path.objects.FalconOut, data, a.link, goesOn, bpf.FalconStateSTATE_NEW)
		// What was seen before the change doesn't count.
		l.must(l.path.Invalidate())
		step(end, out.frame, at, goesOn, bpf.FalconStateSTATE_NEW)
	})
}

func TestXDP(t *testing.T) {
	underlays(t, func(t *testing.T, outer6 bool) {
		l := newLab(t, outer6, nil)
		o := &l.path.objects
		l.must(errors.Join(l.path.makeQueues(o.FalconHigh, o.FalconNormal, o.FalconLow)))
		const pass, redirect = 2, 4
		run := func(name string, b []byte, want uint32, reason string) {
			t.Helper()
			before := l.reasons()
			out := ebpf.RunOptions{Data: b, DataOut: make([]byte, len(b)+256)}
			action, err := o.FalconFirst.Run(&out)
			if err != nil || action != want || !bytes.Equal(out.DataOut, b) {
				t.Errorf("%s: action %d, %v", name, action, err)
			}
			if after := l.reasons(); reason != "" && after[reason] <= before[reason] {
				t.Errorf("%s: counted %v", name, after)
			}
		}
		good := l.from(l.container("a"), false, protoUDP)
		run("off", good.bytes(), pass, "")
		l.path.settings.Flags |= bpf.FalconFlagFLAG_PRIORITY
		l.must(l.path.write())
		for class, reason := range map[bpf.FalconPriorityClass]string{
			bpf.FalconPriorityClassCLASS_NORMAL: "deferred", bpf.FalconPriorityClassCLASS_LOW: "deferred", bpf.FalconPriorityClassCLASS_HIGH: "promoted",
		} {
			l.fast(good.inner, 1, func(f *bpf.FalconFlow) { f.Class = class })
			want := uint32(redirect)
			if reason == "promoted" {
				want = pass
			}
			run(fmt.Sprint("class ", class), good.bytes(), want, reason)
		}
		l.fast(good.inner, 1, nil)
		other := good
		other.outer.udp.destination++
		run("another port", other.bytes(), pass, "")
		broken := good
		broken.inner.ip.length = 1
		run("broken", broken.bytes(), pass, "")
		long := good
		long.inner.payload = make([]byte, 3000)
		run("long", long.bytes(), redirect, "")
		l.path.settings.ValidUntil = 1
		l.must(l.path.write())
		run("lease", good.bytes(), pass, "")
	})
}
