package fastpath

import (
	"bytes"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// mutate changes a good frame as data says, three bytes at a time: where, what and how.
// at are the places of fields worth a hit.
func mutate(frame, data []byte, at []int) []byte {
	frame = slices.Clone(frame)
	for ; len(data) >= 3; data = data[3:] {
		where, value := int(data[1]), data[2]
		switch data[0] % 8 {
		case 0: // a field
			where = at[where%len(at)]
			fallthrough
		case 1: // any byte
			if where < len(frame) {
				frame[where] = value
			}
		case 2: // a bit of any byte
			if where < len(frame) {
				frame[where] ^= 1 << (value % 8)
			}
		case 3: // another length
			frame = frame[:min(len(frame), 14+where)]
		case 4:
			if len(frame) < 3000 {
				frame = append(frame, bytes.Repeat([]byte{value}, where*8+1)...)
			}
		case 5: // bytes put in
			if where < len(frame) && len(frame) < 3000 {
				frame = slices.Insert(frame, where, make([]byte, value%64)...)
			}
		case 6: // two bytes that keep the sum
			if where+3 < len(frame) && frame[where] >= value && int(frame[where+2])+int(value) < 256 {
				frame[where], frame[where+2] = frame[where]-value, frame[where+2]+value
			}
		case 7: // what comes before is made consistent
			repair(frame)
		}
	}
	return frame
}

// fields are the places of what the programs look at, in a frame in VXLAN.
func fields(outer6 bool) (at []int) {
	udp, inner := 34, 50
	at = []int{0, 5, 12, 13, 14, 15, 17, 20, 21, 22, 23, 24, 25, 29, 33}
	if outer6 {
		udp, inner = 54, 70
		at = []int{0, 5, 12, 13, 14, 15, 18, 19, 20, 21, 37, 53}
	}
	for i := range 16 { // UDP and VXLAN
		at = append(at, udp+i)
	}
	for i := range 64 { // Ethernet, IP, UDP
		at = append(at, inner+i)
	}
	return at
}

// seeds are mutations of each kind.
func seeds(f *testing.F, kinds int) {
	for kind := range byte(kinds) {
		f.Add(kind, []byte{})
		for i := range byte(94) {
			f.Add(kind, []byte{0, i, 0, 7, 0, 0})
			f.Add(kind, []byte{2, i, i, 7, 0, 0})
		}
		for _, n := range []byte{0, 20, 36, 56, 76, 92, 110} {
			f.Add(kind, []byte{3, n, 0})
			f.Add(kind, []byte{3, n, 0, 7, 0, 0})
		}
		f.Add(kind, []byte{4, 0, 1})
		f.Add(kind, []byte{4, 200, 1, 7, 0, 0})
		f.Add(kind, []byte{5, 34, 8, 7, 0, 0})
		f.Add(kind, []byte{6, 84, 1})
	}
}

// FuzzWire gives frames to the program at the NIC. What takes the shortcut comes out as the
// model says, and what the model lets take it does, if it is of a flow that may.
func FuzzWire(f *testing.F) {
	labs := map[bool]*lab{false: newLab(f, false, nil), true: newLab(f, true, nil)}
	seeds(f, 5)
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		outer6, v6 := kind&1 != 0, kind&2 != 0
		l := labs[outer6]
		l.t = t
		// A node that sits for hours outlives its lease.
		l.must(l.path.Renew())
		good := l.from(l.container("a"), v6, protoUDP)
		var keys []bpf.FalconFlowKey
		for _, to := range l.model.containers {
			for _, v6 := range []bool{false, true} {
				keys = append(keys, l.fast(l.from(to, v6, protoUDP).inner, to.vni, nil))
			}
		}
		frame := data
		if kind&4 == 0 || !testable(data) {
			good.outer.ip.tos = data0(data) & 3
			frame = mutate(good.bytes(), data, fields(outer6))
		}
		if !testable(frame) {
			return
		}
		v, want := l.judge(frame)
		own := slices.Index(keys, want.key())
		for i, key := range keys {
			flow, _ := l.flow(key)
			if took := v.action == redirected && flow.Packets != 0; took != (v.action == redirected && i == own) {
				t.Errorf("packet of flow %d is counted for flow %d\n%x", own, i, frame)
			}
		}
		if own >= 0 && want.to != nil && want.left == "" && v.action != redirected {
			t.Errorf("it is left, for nothing: %v\n%x", l.reasons(), frame)
		}
	})
}

func data0(b []byte) byte {
	if len(b) == 0 {
		return 0
	}
	return b[0] >> 4
}

// key is that of the flow of what comes out.
func (o outcome) key() (key bpf.FalconFlowKey) {
	if o.to == nil {
		return key
	}
	d, _ := readIP(uint16(o.frame[12])<<8|uint16(o.frame[13]), o.frame[14:])
	f := frame{ip: ipHeader{source: d.source, destination: d.destination, protocol: d.protocol}}
	if p := d.packet[d.header:]; len(p) >= 4 {
		f.udp.source, f.udp.destination = uint16(p[0])<<8|uint16(p[1]), uint16(p[2])<<8|uint16(p[3])
	}
	return keyOf(f, o.to.vni)
}

// behind is what a program behind the NIC may do with a packet: what forward says.
func (l *lab) behind(t *testing.T, p *ebpf.Program, frame []byte, ctx skb, want func() outcome) {
	v, err := l.run(p, frame, ctx)
	if err != nil {
		t.Fatalf("%v: %x", err, frame)
	}
	switch expected := want(); {
	case v.action == goesOn && !bytes.Equal(v.frame, frame):
		t.Errorf("it goes on, changed:\nwas %x\nis  %x", frame, v.frame)
	case v.action != goesOn && v.action != redirected:
		t.Errorf("action %d with\n%x", v.action, frame)
	case v.action == redirected && expected.to == nil:
		t.Errorf("it takes the shortcut; the kernel would not deliver it: %s\n%x", expected.why, frame)
	case v.action == redirected && !bytes.Equal(v.frame, expected.frame):
		t.Errorf("by the shortcut it differs:\nwas  %x\nis   %x\nwant %x", frame, v.frame, expected.frame)
	}
}

// FuzzTunnel gives frames to the programs at the VXLAN device.
func FuzzTunnel(f *testing.F) {
	l := newLab(f, false, nil)
	seeds(f, 4)
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		l.t = t
		l.must(l.path.Renew())
		v6, protocol := kind&2 != 0, byte(protoTCP)
		good := l.from(l.container("a"), v6, protocol).inner
		l.fast(good, 1, nil)
		frame := mutateInner(good.bytes(), data)
		if !testable(frame) {
			return
		}
		l.behind(t, l.path.objects.FalconTunnel, frame, skb{Ifindex: l.fx[1]}, func() outcome { return l.model.behindTunnel(1, frame) })
		v, err := l.run(l.path.objects.FalconSent, frame, skb{Ifindex: l.fx[1]})
		if err != nil || v.action != goesOn || !bytes.Equal(v.frame, frame) {
			t.Errorf("as it leaves: action %d, %v", v.action, err)
		}
	})
}

// mutateInner is mutate for a frame that is not in VXLAN.
func mutateInner(frame, data []byte) []byte {
	at := make([]int, 64)
	for i := range at {
		at[i] = i
	}
	return mutate(frame, data, at)
}

// FuzzOut gives frames to the programs at a container's link.
func FuzzOut(f *testing.F) {
	l := newLab(f, false, nil)
	seeds(f, 4)
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		l.t = t
		l.must(l.path.Renew())
		v6, local := kind&2 != 0, kind&1 != 0
		protocol := byte(protoUDP)
		if kind&8 != 0 {
			protocol = protoTCP
		}
		a := l.container("a")
		good := l.leaving(v6, local, protocol)
		l.leaves(good, local)
		frame := mutateInner(good.bytes(), data)
		if !testable(frame) {
			return
		}
		l.behind(t, l.path.objects.FalconOut, frame, skb{Ifindex: a.link}, func() outcome { return l.model.outOf(a, frame) })
		v, err := l.run(l.path.objects.FalconIn, frame, skb{Ifindex: a.link})
		if err != nil || v.action != goesOn || !bytes.Equal(v.frame, frame) {
			t.Errorf("as it arrives: action %d, %v", v.action, err)
		}
	})
}

// FuzzXDP gives frames to the programs at XDP's hooks, which change none and drop none. A
// packet of class high passes, another of VXLAN waits.
func FuzzXDP(f *testing.F) {
	l := newLab(f, false, nil)
	l.path.settings.Flags |= bpf.FalconFlagFLAG_PRIORITY
	if err := l.path.makeQueues(l.path.objects.FalconHigh, l.path.objects.FalconNormal, l.path.objects.FalconLow); err != nil {
		f.Fatal(err)
	}
	seeds(f, 5)
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		l.t = t
		l.must(l.path.Renew())
		class := bpf.FalconPriorityClassCLASS_NORMAL
		if kind&1 != 0 {
			class = bpf.FalconPriorityClassCLASS_HIGH
		}
		good := l.from(l.container("a"), kind&2 != 0, protoUDP)
		l.fast(good.inner, 1, func(f *bpf.FalconFlow) { f.Class = class })
		frame := data
		if kind&4 == 0 || !testable(data) {
			frame = mutate(good.bytes(), data, fields(false))
		}
		if !testable(frame) {
			return
		}
		for _, p := range []*ebpf.Program{l.path.objects.FalconFirst, l.path.objects.FalconSecond} {
			out := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
			action, err := p.Run(&out)
			if err != nil {
				t.Fatal(err)
			}
			const pass, redirect = 2, 4
			if action != pass && action != redirect || !bytes.Equal(out.DataOut, frame) {
				t.Errorf("action %d:\nwas %x\nis  %x", action, frame, out.DataOut)
			}
			want := l.model.receive(frame)
			if p != l.path.objects.FalconFirst || want.to == nil || want.left != "" {
				continue
			}
			if of := want.key() == keyOf(good.inner, 1); (action == pass) != (of && class == bpf.FalconPriorityClassCLASS_HIGH) {
				t.Errorf("action %d, of class %d: %t\n%x", action, class, of, frame)
			}
		}
	})
}
