package fastpath

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// named is a frame that comes in at the NIC: a good one, with something changed.
type named struct {
	name   string
	change func(*tunnelled)
	bytes  func([]byte) []byte // nil: none
	// reason is what counts it, where it has to stay on the kernel's path; "" if it has to
	// take the shortcut, "-" if nothing counts it.
	reason string
}

// packets are those of one combination of families. Some are of one family only.
func (l *lab) packets(v6 bool) []named {
	outer6 := l.model.node.Is6()
	inside := 64 // where the inner IP header begins
	if outer6 {
		inside = 84
	}
	other := func(o, i netip.Addr) netip.Addr {
		if v6 {
			return i
		}
		return o
	}
	all := []named{
		{"good", func(*tunnelled) {}, nil, ""},
		{"no payload", func(p *tunnelled) { p.inner.payload = nil }, nil, ""},
		{"odd payload", func(p *tunnelled) { p.inner.payload = []byte{1} }, nil, ""},
		{"another source port outside", func(p *tunnelled) { p.outer.udp.source = 0 }, nil, ""},
		{"another MAC of the node", func(p *tunnelled) { p.outer.from = mac{2, 9} }, nil, ""},
		{"another MAC of the container", func(p *tunnelled) { p.inner.from = mac{2, 9} }, nil, ""},
		{"outer TTL 0", func(p *tunnelled) { p.outer.ip.ttl = 0 }, nil, ""},
		{"outer DSCP", func(p *tunnelled) { p.outer.ip.tos = 0xb8 }, nil, ""},
		{"inner DSCP", func(p *tunnelled) { p.inner.ip.tos = 0xb8 }, nil, ""},
		{"TTL 255", func(p *tunnelled) { p.inner.ip.ttl = 255 }, nil, ""},
		{"TTL 2", func(p *tunnelled) { p.inner.ip.ttl = 2 }, nil, ""},
		{"TTL 1", func(p *tunnelled) { p.inner.ip.ttl = 1 }, nil, "ttl"},
		{"TTL 0", func(p *tunnelled) { p.inner.ip.ttl = 0 }, nil, "ttl"},
		{"as long as the MTU", func(p *tunnelled) { p.inner.payload = make([]byte, l.mtu(v6)) }, nil, ""},
		{"longer than the MTU", func(p *tunnelled) { p.inner.payload = make([]byte, l.mtu(v6)+1) }, nil, "mtu"},
		{"jumbo", func(p *tunnelled) { p.inner.payload = make([]byte, 3000) }, nil, "mtu"},
		{"TCP", func(p *tunnelled) { p.inner.ip.protocol = protoTCP }, nil, "-"},
		{"ICMP", func(p *tunnelled) { p.inner.ip.protocol = 1 }, nil, "protocol"},
		{"VLAN", func(p *tunnelled) { p.outer.tag = []byte{0x81, 0, 0, 5} }, nil, "-"},
		{"VLAN 0", func(p *tunnelled) { p.outer.tag = []byte{0x81, 0, 0x20, 0} }, nil, "-"},
		{"for another station", func(p *tunnelled) { p.outer.to[5]++ }, nil, "-"},
		{"for everybody", func(p *tunnelled) { p.outer.to = mac{255, 255, 255, 255, 255, 255} }, nil, "-"},
		{"for another host", func(p *tunnelled) { p.outer.ip.destination = l.model.peers[1].Address }, nil, "-"},
		{"for another port", func(p *tunnelled) { p.outer.udp.destination++ }, nil, "-"},
		{"outside not UDP", nil, func(b []byte) []byte { b[map[bool]int{false: 23, true: 20}[outer6]] = 132; repair(b); return b }, "-"},
		{"another VNI", func(p *tunnelled) { p.vni = 2 }, nil, "unknown"},
		{"unknown VNI", func(p *tunnelled) { p.vni = 0xffffff }, nil, "unknown"},
		{"by another node", func(p *tunnelled) { p.outer.ip.source = l.model.peers[1].Address }, nil, "peer"},
		{"by no node", func(p *tunnelled) { p.outer.ip.source = p.outer.ip.source.Prev().Prev() }, nil, "peer"},
		{"VXLAN without flag I", func(p *tunnelled) { p.flags = 0 }, nil, "malformed"},
		{"VXLAN with a reserved flag", func(p *tunnelled) { p.flags |= 0x80000000 }, nil, "malformed"},
		{"VXLAN with reserved bits", func(p *tunnelled) { p.reserved = 1 }, nil, "malformed"},
		{"UDP length too large", func(p *tunnelled) { p.outer.udp.length = 1 }, nil, "malformed"},
		{"UDP length too small", func(p *tunnelled) { p.outer.udp.length = -1 }, nil, "malformed"},
		{"outer length too large", func(p *tunnelled) { p.outer.ip.length = 1 }, nil, "malformed"},
		{"bytes behind", nil, func(b []byte) []byte { return append(b, 0) }, "malformed"},
		{"wrong outer UDP checksum", func(p *tunnelled) { p.outer.udp.sum = 0x100 }, nil, "checksum"},
		{"inner length too large", func(p *tunnelled) { p.inner.ip.length = 1 }, nil, "malformed"},
		{"inner length too small", func(p *tunnelled) { p.inner.ip.length = -1 }, nil, "malformed"},
		{"inner UDP length too large", func(p *tunnelled) { p.inner.udp.length = 1 }, nil, "checksum"},
		{"inner UDP without checksum", func(p *tunnelled) { p.inner.udp.none = true }, nil, "checksum"},
		{"wrong inner UDP checksum", func(p *tunnelled) { p.inner.udp.sum = 0x100 }, nil, "checksum"},
		{"inner MAC of nobody", func(p *tunnelled) { p.inner.to[5]++ }, nil, "address"},
		{"looped", func(p *tunnelled) { p.inner.from = p.inner.to }, nil, "address"},
		{"for no container", func(p *tunnelled) { p.inner.ip.destination = other(addr("10.1.1.99"), addr("fd01:0:0:1::99")) }, nil, "unknown"},
		{"by no container of a node", func(p *tunnelled) { p.inner.ip.source = other(addr("10.1.9.9"), addr("fd01:0:0:9::9")) }, nil, "unknown"},
		{"a new flow", func(p *tunnelled) { p.inner.udp.source = 4001 }, nil, "new"},
		{"inner ARP", nil, func(b []byte) []byte { b[inside-2], b[inside-1] = 8, 6; repair(b); return b }, "protocol"},
		{"inner VLAN", func(p *tunnelled) { p.inner.tag = []byte{0x81, 0, 0, 5} }, nil, "protocol"},
		{"inner version", nil, func(b []byte) []byte { b[inside] ^= 0x20; repair(b); return b }, "malformed"},
		{"mapped addresses inside", func(p *tunnelled) {
			p.inner.ip.source, p.inner.ip.destination = mapped("10.1.2.2"), mapped("10.1.1.2")
		}, nil, "malformed"},
	}
	if outer6 {
		all = append(all, []named{
			{"no outer UDP checksum", func(p *tunnelled) { p.outer.udp.none = true }, nil, "malformed"},
			{"outer extension header", func(p *tunnelled) {
				p.outer.ip.options, p.outer.ip.protocol = []byte{17, 0, 1, 4, 0, 0, 0, 0}, 60
			}, nil, "-"},
			{"outer fragment", func(p *tunnelled) {
				p.outer.ip.options, p.outer.ip.protocol = []byte{17, 0, 0, 1, 0, 0, 0, 0}, 44
			}, nil, "-"},
		}...)
	} else {
		all = append(all, []named{
			{"no outer UDP checksum", func(p *tunnelled) { p.outer.udp.none = true }, nil, ""},
			{"outer checksum", func(p *tunnelled) { p.outer.ip.sum = 1 }, nil, "malformed"},
			{"outer options", func(p *tunnelled) { p.outer.ip.options = []byte{1, 1, 1, 0} }, nil, "-"},
			{"outer first fragment", func(p *tunnelled) { p.outer.ip.fragment = 0x2000 }, nil, "fragment"},
			{"outer later fragment", func(p *tunnelled) { p.outer.ip.fragment = 0x0010 }, nil, "-"},
			{"outer without fragments", func(p *tunnelled) { p.outer.ip.fragment = 0x4000 }, nil, ""},
			{"mapped addresses outside", func(p *tunnelled) {
				p.outer.ip.source, p.outer.ip.destination = netip.AddrFrom16(p.outer.ip.source.As16()), netip.AddrFrom16(p.outer.ip.destination.As16())
			}, nil, "-"},
		}...)
	}
	if v6 {
		return append(all, []named{
			{"extension header", func(p *tunnelled) { p.inner.ip.options, p.inner.ip.protocol = []byte{17, 0, 1, 4, 0, 0, 0, 0}, 60 }, nil, "options"},
			{"routing header", func(p *tunnelled) { p.inner.ip.options, p.inner.ip.protocol = []byte{17, 0, 0, 0, 0, 0, 0, 0}, 43 }, nil, "options"},
			{"hop by hop", func(p *tunnelled) { p.inner.ip.options, p.inner.ip.protocol = []byte{17, 0, 1, 4, 0, 0, 0, 0}, 0 }, nil, "options"},
			{"first fragment", func(p *tunnelled) { p.inner.ip.options, p.inner.ip.protocol = []byte{17, 0, 0, 1, 0, 0, 0, 1}, 44 }, nil, "fragment"},
			{"later fragment", func(p *tunnelled) { p.inner.ip.options, p.inner.ip.protocol = []byte{17, 0, 0, 16, 0, 0, 0, 1}, 44 }, nil, "fragment"},
			{"flow label", nil, func(b []byte) []byte { b[inside+3] = 7; repair(b); return b }, ""},
		}...)
	}
	return append(all, []named{
		{"inner checksum", func(p *tunnelled) { p.inner.ip.sum = 1 }, nil, "malformed"},
		{"options", func(p *tunnelled) { p.inner.ip.options = []byte{1, 1, 1, 0} }, nil, "options"},
		{"first fragment", func(p *tunnelled) { p.inner.ip.fragment = 0x2000 }, nil, "fragment"},
		{"later fragment", func(p *tunnelled) { p.inner.ip.fragment = 0x0010 }, nil, "fragment"},
		{"without fragments", func(p *tunnelled) { p.inner.ip.fragment = 0x4000 }, nil, ""},
		{"evil bit", func(p *tunnelled) { p.inner.ip.fragment = 0x8000 }, nil, ""},
	}...)
}

func mapped(a string) netip.Addr { return netip.AddrFrom16(addr(a).As16()) }

// mtu is the payload that a container's link takes at most.
func (l *lab) mtu(v6 bool) int {
	if v6 {
		return l.model.containers[0].mtu - 48
	}
	return l.model.containers[0].mtu - 28
}

func (n named) build(p tunnelled) []byte {
	if n.change != nil {
		n.change(&p)
	}
	b := p.bytes()
	if n.bytes != nil {
		b = n.bytes(b)
	}
	return b
}

// inners are the four combinations of families.
func inners(t *testing.T, f func(t *testing.T, l *lab, v6 bool)) {
	underlays(t, func(t *testing.T, outer6 bool) {
		l := newLab(t, outer6, nil)
		for _, v6 := range []bool{false, true} {
			t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[v6], func(t *testing.T) {
				l.t = t
				f(t, l, v6)
			})
		}
		l.t = t
	})
}

func TestWire(t *testing.T) {
	inners(t, func(t *testing.T, l *lab, v6 bool) {
		for _, n := range l.packets(v6) {
			t.Run(n.name, func(t *testing.T) {
				l.t = t
				good := l.from(l.container("a"), v6, protoUDP)
				l.fast(l.from(l.container("a"), false, protoUDP).inner, 1, nil)
				key := l.fast(good.inner, 1, nil)
				before := l.reasons()
				v, want := l.judge(n.build(good))
				after := l.reasons()
				if n.reason == "" && (v.action != redirected || after["wire"] <= before["wire"]) {
					t.Errorf("action %d, counted %v; the model: %s%s", v.action, after, want.why, want.left)
				}
				if n.reason != "" && v.action != goesOn {
					t.Errorf("action %d", v.action)
				}
				if n.reason != "" && n.reason != "-" && after[n.reason] <= before[n.reason] {
					t.Errorf("counted\n%v, then\n%v", before, after)
				}
				// A first fragment keeps its flow on the kernel's path. Over IPv6 its ports lie
				// behind a header that nobody reads.
				f, _ := l.flow(key)
				if slow := f.State == bpf.FalconStateSTATE_SLOW; slow != (n.name == "first fragment" && !v6) {
					t.Errorf("the flow: %+v", f)
				}
			})
		}
	})
}

// Each combination of what a router said outside and what the sender said inside, and every
// checksum that may come of it.
func TestCongestion(t *testing.T) {
	inners(t, func(t *testing.T, l *lab, v6 bool) {
		taken := 0
		for outside := range byte(4) {
			for inside := range byte(4) {
				packet := l.from(l.container("a"), v6, protoUDP)
				packet.outer.ip.tos, packet.inner.ip.tos = 0xb8|outside, 0x28|inside
				l.fast(packet.inner, 1, nil)
				v, want := l.judge(packet.bytes())
				if (v.action == redirected) != (want.to != nil && want.left == "") {
					t.Errorf("%d outside, %d inside: action %d; the model: %s%s", outside, inside, v.action, want.why, want.left)
				}
				if v.action == redirected {
					taken++
				}
			}
		}
		if taken != 14 {
			t.Errorf("%d of 16 take the shortcut", taken)
		}
		if v6 {
			return
		}
		// The identification, which the programs ignore, makes the checksum any number: those
		// where a carry is close.
		packet := l.from(l.container("a"), v6, protoUDP)
		packet.outer.ip.tos = 3
		for inside := range byte(2) {
			packet.inner.ip.tos = inside + 1
			l.fast(packet.inner, 1, nil)
			at := 64
			if l.model.node.Is6() {
				at = 84
			}
			for _, check := range slices.Concat(around(0), around(0xff00), around(0xfe00)) {
				b := packet.bytes()
				b[at+4], b[at+5] = 0, 0
				repair(b)
				rest := ^sum(append(slices.Clone(b[at:at+10]), b[at+12:at+20]...))
				id := uint16((uint32(rest) + 0xffff - uint32(check)) % 0xffff)
				b[at+4], b[at+5] = byte(id>>8), byte(id)
				repair(b)
				if v, _ := l.judge(b); v.action != redirected {
					t.Fatalf("checksum %#x: action %d", check, v.action)
				}
			}
		}
	})
}

func around(n uint16) (all []uint16) {
	for i := range uint16(16) {
		all = append(all, n+i-8)
	}
	return all
}

// What is cut off anywhere never takes the shortcut, and nothing is read that isn't there.
func TestTruncated(t *testing.T) {
	inners(t, func(t *testing.T, l *lab, v6 bool) {
		packet := l.from(l.container("a"), v6, protoUDP)
		packet.inner.payload = nil
		l.fast(packet.inner, 1, nil)
		whole := packet.bytes()
		for n := range whole {
			for _, repaired := range []bool{false, true} {
				t.Run(fmt.Sprint(n, repaired), func(t *testing.T) {
					l.t = t
					b := slices.Clone(whole[:n])
					if repaired {
						repair(b)
					}
					if !testable(b) {
						return
					}
					if v, _ := l.judge(b); v.action != goesOn {
						t.Errorf("action %d", v.action)
					}
				})
			}
		}
		l.t = t
	})
}
