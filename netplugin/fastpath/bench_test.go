package fastpath

import (
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// loIndex is the index of lo in each namespace.
const loIndex uint32 = 1

// measure has the kernel run a program over and over, and reports ns per packet. A program
// that changes the packet would find it changed the next time: repeat says whether it may.
// The kernel does it with packets of the loopback interface.
func measure(b *testing.B, l *lab, p *ebpf.Program, f interface{ bytes() []byte }, repeat bool, action uint32) {
	b.Helper()
	frame := f.bytes()
	copy(frame, make([]byte, 6)) // its MAC
	times, left := uint32(1), b.N
	if repeat {
		times = 10000
	}
	var total, count int64
	for left > 0 {
		times = min(times, uint32(left))
		var got uint32
		var took time.Duration
		var err error
		l.inside(func() { got, took, err = p.Benchmark(frame, int(times), nil) })
		if err != nil || got != action {
			b.Fatalf("action %d, %v", got, err)
		}
		total += took.Nanoseconds() * int64(times)
		count += int64(times)
		left -= int(times)
	}
	b.ReportMetric(float64(total)/float64(count), "ns/packet")
	b.ReportMetric(0, "ns/op") // of entering the kernel, mostly
}

// BenchmarkWire is for packets that stay on the kernel's path, and for those that leave it,
// which can be measured one at a time only, with the clock's cost in it: "nothing" is that.
func BenchmarkWire(b *testing.B) {
	l := newLab(b, false, nil)
	wire := l.path.objects.FalconWire
	for _, v6 := range []bool{false, true} {
		good := l.from(l.container("a"), v6, protoUDP)
		good.inner.payload = make([]byte, 64)
		name := map[bool]string{false: "v4", true: "v6"}[v6]
		b.Run(name+"/taken", func(b *testing.B) {
			l.fast(good.inner, 1, nil)
			measure(b, l, wire, good, false, redirected)
		})
		b.Run(name+"/slow", func(b *testing.B) {
			l.fast(good.inner, 1, func(f *bpf.FalconFlow) { f.State, f.Reason = bpf.FalconStateSTATE_SLOW, bpf.FalconReasonREASON_SHAPED })
			measure(b, l, wire, good, true, goesOn)
		})
	}
	other := l.from(l.container("a"), false, protoUDP)
	other.outer.udp.destination = 53
	for _, once := range []bool{false, true} {
		b.Run(fmt.Sprintf("not VXLAN/%s", map[bool]string{false: "many", true: "nothing"}[once]), func(b *testing.B) {
			measure(b, l, wire, other, !once, goesOn)
		})
	}
}

// BenchmarkTunnel, BenchmarkOut and BenchmarkIn are as BenchmarkWire.
func BenchmarkTunnel(b *testing.B) {
	l := newLab(b, false, nil)
	good := l.from(l.container("a"), false, protoTCP)
	l.fast(good.inner, 1, nil)
	l.must(put(l.path.objects.FalconDevices, loIndex, uint32(1)))
	measure(b, l, l.path.objects.FalconTunnel, good.inner, false, redirected)
}

func BenchmarkOut(b *testing.B) {
	l := newLab(b, false, nil)
	l.must(put(l.path.objects.FalconLinks, loIndex, l.path.slots["fva"].index))
	for _, local := range []bool{false, true} {
		b.Run(map[bool]string{false: "out", true: "local"}[local], func(b *testing.B) {
			good := l.leaving(false, local, protoUDP)
			good.to = mac{}
			l.leaves(good, local)
			measure(b, l, l.path.objects.FalconOut, good, local, redirected)
		})
	}
}

func BenchmarkIn(b *testing.B) {
	l := newLab(b, false, nil)
	a := l.container("a")
	good := l.from(a, false, protoUDP)
	l.fast(good.inner, 1, nil)
	l.must(put(l.path.objects.FalconLinks, loIndex, l.path.slots["fva"].index))
	measure(b, l, l.path.objects.FalconIn, good.inner, true, goesOn)
}

func BenchmarkXDP(b *testing.B) {
	l := newLab(b, false, nil)
	good := l.from(l.container("a"), false, protoUDP)
	l.fast(good.inner, 1, func(f *bpf.FalconFlow) { f.Class = bpf.FalconPriorityClassCLASS_HIGH })
	for _, on := range []bool{false, true} {
		b.Run(map[bool]string{false: "off", true: "high"}[on], func(b *testing.B) {
			if l.path.settings.HighInterval = 0; on {
				l.path.settings.Flags |= bpf.FalconFlagFLAG_PRIORITY
			}
			l.must(l.path.write())
			measure(b, l, l.path.objects.FalconFirst, good, true, 2)
		})
	}
}
