//go:build vm

package pipeline

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// place is where packets of a length were received, in bytes from the IP header on.
type place struct{ NetNS, Ifindex, Length uint32 }

// tracer counts where the kernel receives packets, and on which CPU: at the tracepoint
// netif_receive_skb, which each device's packets pass.
type tracer struct {
	*testing.T
	counts *ebpf.Map
}

func newTracer(t *testing.T) *tracer {
	t.Helper()
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Name: "places", Type: ebpf.PerCPUHash, KeySize: 12, ValueSize: 8, MaxEntries: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { counts.Close() })
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string, members ...string) int16 {
		var s *btf.Struct
		if err := kernel.TypeByName(name, &s); err != nil {
			t.Fatal(err)
		}
		offset, all := uint32(0), s.Members
		for _, m := range members {
			o, of, ok := member(all, m)
			if !ok {
				t.Fatalf("%s has no %s", name, m)
			}
			offset += o
			if s, ok := btf.UnderlyingType(of).(*btf.Struct); ok {
				all = s.Members
			}
		}
		return int16(offset)
	}
	const key, value = -16, -24 // in the stack
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "places", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "netif_receive_skb", License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, 0, asm.DWord), // the skb
			asm.LoadMem(asm.R7, asm.R6, at("sk_buff", "len"), asm.Word),
			asm.StoreMem(asm.RFP, key+8, asm.R7, asm.Word),
			asm.LoadMem(asm.R7, asm.R6, at("sk_buff", "dev"), asm.DWord),
			asm.LoadMem(asm.R8, asm.R7, at("net_device", "ifindex"), asm.Word),
			asm.StoreMem(asm.RFP, key+4, asm.R8, asm.Word),
			asm.LoadMem(asm.R8, asm.R7, at("net_device", "nd_net", "net"), asm.DWord),
			asm.LoadMem(asm.R8, asm.R8, at("net", "ns", "inum"), asm.Word),
			asm.StoreMem(asm.RFP, key, asm.R8, asm.Word),
			asm.LoadMapPtr(asm.R1, counts.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, key),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "new"),
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
			asm.Add.Imm(asm.R1, 1),
			asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 0), asm.Return(),
			asm.Mov.Imm(asm.R1, 1).WithSymbol("new"),
			asm.StoreMem(asm.RFP, value, asm.R1, asm.DWord),
			asm.LoadMapPtr(asm.R1, counts.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, key),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, value),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
			asm.Mov.Imm(asm.R0, 0), asm.Return(),
		},
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { program.Close() })
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { attached.Close() })
	return &tracer{t, counts}
}

// member finds a member of a structure, in those without a name too: its offset in bytes.
func member(members []btf.Member, name string) (uint32, btf.Type, bool) {
	for _, m := range members {
		if m.Name == name {
			return m.Offset.Bytes(), m.Type, true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch s := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = s.Members
		case *btf.Union:
			inner = s.Members
		}
		if offset, of, ok := member(inner, name); ok {
			return m.Offset.Bytes() + offset, of, true
		}
	}
	return 0, nil, false
}

// received counts packets of a length at a device, by CPU; those without any are left out.
func (tr *tracer) received(ns *netnstest.NS, device string, length int) map[int]uint64 {
	tr.Helper()
	l, err := ns.Netlink().LinkByName(device)
	if err != nil {
		tr.Fatal(device, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.File().Fd()), &st); err != nil {
		tr.Fatal(err)
	}
	each := make([]uint64, ebpf.MustPossibleCPU())
	by := map[int]uint64{}
	_ = tr.counts.Lookup(place{uint32(st.Ino), uint32(l.Attrs().Index), uint32(length)}, &each) // there is none before the first
	for cpu, n := range each {
		if n > 0 {
			by[cpu] = n
		}
	}
	return by
}

// on is all of n packets on each of these CPUs.
func on(n uint64, cpus ...int) string {
	by := map[int]uint64{}
	for _, c := range cpus {
		by[c] = n
	}
	return fmt.Sprint(by)
}
