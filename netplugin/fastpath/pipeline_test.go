package fastpath

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/pipeline"
)

const (
	runsAt  = 1 // the device of test runs
	testVNI = 7
)

// opened is a Fastpath in a namespace of its own, with the test in it.
func opened(t *testing.T, do func(f *Fastpath)) {
	t.Helper()
	netnstest.New(t).Do(func() {
		f, err := Open(Probe())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		do(f)
	})
}

// hashFlow is hash_flow of steer.h.
func hashFlow(k *bpf.FalconFlowKey) uint32 {
	b := make([]byte, 0, 40)
	for _, a := range []bpf.FalconAddress{k.Source, k.Destination} {
		for _, w := range a.Word {
			b = binary.NativeEndian.AppendUint32(b, w)
		}
	}
	b = binary.NativeEndian.AppendUint16(b, k.SourcePort)
	b = binary.NativeEndian.AppendUint16(b, k.DestinationPort)
	b = binary.NativeEndian.AppendUint32(b, k.Network)
	var h uint32
	for i := 0; i < len(b)/4; i++ {
		h = pipeline.Mix(h^binary.NativeEndian.Uint32(b[4*i:])) + uint32(i)
	}
	return h
}

// udpFrame is a frame with UDP in it, and the key of its flow in testVNI. Checksums of UDP
// are nobody's concern here.
func udpFrame(source, destination netip.AddrPort, payload []byte) ([]byte, bpf.FalconFlowKey) {
	udp := binary.BigEndian.AppendUint16(nil, source.Port())
	udp = binary.BigEndian.AppendUint16(udp, destination.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	if source.Addr().Is4() {
		ip := []byte{0x45, 0}
		ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(udp)))
		ip = append(ip, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
		ip = append(append(ip, source.Addr().AsSlice()...), destination.Addr().AsSlice()...)
		var sum uint32
		for i := 0; i < 20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(ip[i:]))
		}
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum&0xffff+sum>>16))
		frame = append(append(frame, 8, 0), ip...)
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0)
		frame = binary.BigEndian.AppendUint16(frame, uint16(len(udp)))
		frame = append(frame, unix.IPPROTO_UDP, 64)
		frame = append(append(frame, source.Addr().AsSlice()...), destination.Addr().AsSlice()...)
	}
	network := func(p uint16) uint16 {
		return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p))
	}
	return append(frame, udp...), bpf.FalconFlowKey{
		Source: addressOf(source.Addr()), Destination: addressOf(destination.Addr()),
		SourcePort: network(source.Port()), DestinationPort: network(destination.Port()),
		Network: testVNI<<8 | unix.IPPROTO_UDP,
	}
}

// stageTest is one of the programs, and a frame in front of it.
type stageTest struct {
	*testing.T
	f       *Fastpath
	program *ebpf.Program
	stage   uint32
	random  *rand.Rand
	set     []int
	load    pipeline.Load
	generation,
	cpu uint32
	moved, seconds, again int // how often
}

// changes gives the stage other cores, or these other loads.
func (s *stageTest) changes() {
	s.Helper()
	if s.random.IntN(8) == 0 {
		s.set = s.random.Perm(200)[:s.random.IntN(maxSet+1)]
		if len(s.set) > 1 && s.random.IntN(2) == 0 {
			s.set[0], s.set[1] = 0, 1 // whose queues there are
			for i, c := range s.set[2:] {
				s.set[2+i] = c + 2
			}
		}
		s.generation++
		set := bpf.FalconStageCores{Generation: s.generation, Count: uint32(len(s.set))}
		for i, c := range s.set {
			set.Core[i] = uint32(c)
		}
		s.must(put(s.f.objects.FalconStages, s.stage, set))
	}
	s.load = pipeline.Load{Core: map[int]uint32{}, Average: uint32(s.random.IntN(880))}
	for c := range 202 {
		s.load.Core[c] = uint32(s.random.IntN(1001))
	}
	s.must(s.f.SetLoads(s.load))
}

const maxSet = len(bpf.FalconStageCores{}.Core)

func (s *stageTest) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *stageTest) count(reason bpf.FalconReason) (sum uint64) {
	var each []bpf.FalconCount
	s.must(s.f.objects.FalconCounts.Lookup(uint32(reason), &each))
	for _, one := range each {
		sum += one.Packets
	}
	return sum
}

// passes has a packet pass, and compares what becomes of it with package pipeline.
func (s *stageTest) passes(frame []byte, flow bpf.FalconFlowKey) {
	s.Helper()
	key := bpf.FalconSteerKey{Flow: flow, Stage: s.stage}
	var before, after bpf.FalconSteer
	err := s.f.objects.FalconSteers.Lookup(&key, &before)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		s.Fatal(err)
	}
	if err == nil && s.random.IntN(3) == 0 { // the flow paused
		before.Seen -= s.random.Uint64N(uint64(2 * pipeline.Drain))
		s.must(s.f.objects.FalconSteers.Put(&key, &before))
	}
	steered, second := s.count(bpf.FalconReasonREASON_STEERED), s.count(bpf.FalconReasonREASON_SECOND)
	action, err := s.program.Run(&ebpf.RunOptions{Data: frame})
	s.must(err)
	s.must(s.f.objects.FalconSteers.Lookup(&key, &after))

	chose := false
	model := pipeline.Entry{CPU: before.Core, Generation: before.Generation, LastSeen: before.Seen}
	want := model.Next(after.Seen, s.generation, func() int {
		cpu, second := pipeline.Choose(hashFlow(&flow), runsAt, s.set, s.load)
		s.again++
		if chose = second; second {
			s.seconds++
		}
		return cpu
	})
	if int(after.Core) != want || after.Generation != s.generation {
		s.Fatalf("%+v became %+v, want CPU %d in generation %d; cores %v", before, after, want, s.generation, s.set)
	}
	moved := want != pipeline.Stay && want != int(s.cpu)
	if moved {
		s.moved++
	}
	wantAction := uint32(2) // XDP_PASS
	if moved && want < 2 {
		wantAction = 4 // XDP_REDIRECT: there is a queue
	}
	if action != wantAction || s.count(bpf.FalconReasonREASON_STEERED)-steered != number(moved) || s.count(bpf.FalconReasonREASON_SECOND)-second != number(chose) {
		s.Fatalf("to CPU %d from %d: action %d, want %d", want, s.cpu, action, wantAction)
	}
}

func number(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// The programs choose as package pipeline does, and keep a flow where it is as that does.
func TestProgramsChooseAsTheModel(t *testing.T) {
	for name, stage := range map[string]uint32{"first": 0, "second": 1} {
		t.Run(name, func(t *testing.T) {
			opened(t, func(f *Fastpath) {
				// The thread stays pinned, and ends with the goroutine that locked it.
				runtime.LockOSThread()
				var one unix.CPUSet
				one.Set(0)
				var all unix.CPUSet
				if err := unix.SchedGetaffinity(0, &all); err != nil {
					t.Fatal(err)
				}
				if err := unix.SchedSetaffinity(0, &one); err != nil {
					t.Fatal(err)
				}
				defer runtime.UnlockOSThread()
				defer func() {
					if err := unix.SchedSetaffinity(0, &all); err != nil {
						t.Error(err)
					}
				}()
				s := &stageTest{T: t, f: f, program: f.objects.FalconFirst, stage: stage, random: rand.New(rand.NewPCG(7, uint64(stage)))}
				node, peer := netip.MustParseAddrPort("192.0.2.1:4789"), netip.MustParseAddrPort("192.0.2.2:5000")
				if stage == 1 {
					s.program = f.objects.FalconSecond
					s.must(put(f.objects.FalconDevices, uint32(runsAt), uint32(testVNI)))
				}
				f.settings.Node, f.settings.Port = addressOf(node.Addr()), binary.NativeEndian.Uint16([]byte{4789 >> 8, 4789 & 0xff})
				f.settings.Threshold = pipeline.Threshold
				s.must(f.setFlag(bpf.FalconFlagFLAG_PIPELINE, true))
				s.must(f.Renew())
				for _, m := range []*ebpf.Map{f.objects.FalconDriver, f.objects.FalconVxlan} {
					s.must(f.makeQueues(m))
				}
				s.generation = 41
				for s.generation == 41 {
					s.changes()
				}
				for range 4000 {
					if s.random.IntN(4) == 0 {
						s.changes()
					}
					source, destination := netip.MustParseAddr("10.9.1.2"), netip.MustParseAddr("10.9.2.2")
					if s.random.IntN(2) == 0 {
						source, destination = netip.MustParseAddr("fd00::1:2"), netip.MustParseAddr("fd00::2:2")
					}
					frame, flow := udpFrame(netip.AddrPortFrom(source, uint16(1000+s.random.IntN(30))), netip.AddrPortFrom(destination, 7), []byte("xyz"))
					if stage == 0 {
						frame, _ = udpFrame(peer, node, append([]byte{8, 0, 0, 0, 0, 0, testVNI, 0}, frame...))
					}
					s.passes(frame, flow)
				}
				if s.moved < 500 || s.seconds < 100 || s.again < 500 || s.again > 3500 {
					t.Errorf("moved %d, by the second choice %d, chosen %d times", s.moved, s.seconds, s.again)
				}
			})
		})
	}
}

// Flows of two containers, by ports in a row, spread evenly.
func TestFlowsOfOnePairSpread(t *testing.T) {
	const flows = 1000
	for ifindex := range uint32(5) {
		by := map[int]int{}
		for n := range uint16(flows) {
			_, flow := udpFrame(netip.AddrPortFrom(netip.MustParseAddr("10.88.1.2"), 32768+n), netip.MustParseAddrPort("10.88.2.2:7000"), nil)
			cpu, _ := pipeline.Choose(hashFlow(&flow), ifindex, []int{0, 3}, pipeline.Load{})
			by[cpu]++
		}
		if by[0] < flows*45/100 || by[3] < flows*45/100 {
			t.Errorf("ifindex %d: %v", ifindex, by)
		}
	}
}

// A dead agent's loads mean nothing: packets stay.
func TestProgramsStopWithTheLease(t *testing.T) {
	opened(t, func(f *Fastpath) {
		if err := f.setFlag(bpf.FalconFlagFLAG_PIPELINE, true); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(put(f.objects.FalconDevices, uint32(runsAt), uint32(testVNI)), put(f.objects.FalconStages, uint32(1), bpf.FalconStageCores{Generation: 1, Count: 1})); err != nil {
			t.Fatal(err)
		}
		frame, _ := udpFrame(netip.MustParseAddrPort("10.9.1.2:5"), netip.MustParseAddrPort("10.9.2.2:7"), nil)
		entries := func() (n int) {
			var key bpf.FalconSteerKey
			var value bpf.FalconSteer
			for all := f.objects.FalconSteers.Iterate(); all.Next(&key, &value); {
				n++
			}
			return n
		}
		run := func() {
			if action, err := f.objects.FalconSecond.Run(&ebpf.RunOptions{Data: frame}); action != 2 && action != 4 || err != nil {
				t.Fatal(action, err)
			}
		}
		if run(); entries() != 0 {
			t.Error("without a lease")
		}
		if err := f.Renew(); err != nil {
			t.Fatal(err)
		}
		if run(); entries() != 1 {
			t.Error("with a lease nothing was chosen")
		}
	})
}

func linkOf(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// xdpOf tells which of our programs a link has; "" for none.
func xdpOf(t *testing.T, name string) string {
	t.Helper()
	x := linkOf(t, name).Attrs().Xdp
	if x == nil || !x.Attached {
		return ""
	}
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(x.ProgId))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.Name
}

// withDevices makes a node: its underlay's link and a VXLAN device.
func withDevices(t *testing.T, f *Fastpath) State {
	t.Helper()
	for _, l := range []netlink.Link{
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "far"},
		&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "fx7"}, VxlanId: testVNI, Port: 4789},
	} {
		if err := errors.Join(netlink.LinkAdd(l), netlink.LinkSetUp(l)); err != nil {
			t.Fatal(err)
		}
	}
	address, _ := netlink.ParseAddr("192.0.2.1/24")
	if err := netlink.AddrAdd(linkOf(t, "eth0"), address); err != nil {
		t.Fatal(err)
	}
	s := State{Node: netip.MustParseAddr("192.0.2.1"), Port: 4789, Networks: []Network{{VNI: testVNI, Device: "fx7"}}}
	if err := f.Sync(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// inForce reads the cores and the generation of both stages, and the CPUs that have queues.
func inForce(t *testing.T, f *Fastpath) (sets [2][]int, generation [2]uint32, queues [2][]int) {
	t.Helper()
	for i, m := range []*ebpf.Map{f.objects.FalconDriver, f.objects.FalconVxlan} {
		var set bpf.FalconStageCores
		if err := f.objects.FalconStages.Lookup(uint32(i), &set); err != nil {
			t.Fatal(err)
		}
		generation[i] = set.Generation
		for _, c := range set.Core[:set.Count] {
			sets[i] = append(sets[i], int(c))
		}
		for cpu := range m.MaxEntries() {
			var v bpf.FalconBpfCpumapVal
			if m.Lookup(&cpu, &v) == nil {
				queues[i] = append(queues[i], int(cpu))
			}
		}
	}
	return sets, generation, queues
}

func TestPipelineComesAndGoes(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Fatal("it needs two cores")
	}
	opened(t, func(f *Fastpath) {
		s := withDevices(t, f)
		set := func(c *pipeline.Cores) {
			t.Helper()
			if err := f.SetPipeline(c); err != nil {
				t.Fatal(err)
			}
		}
		is := func(driver, vxlan int, g uint32) {
			t.Helper()
			sets, generation, queues := inForce(t, f)
			for i, c := range []int{driver, vxlan} {
				if len(sets[i]) != 1 || sets[i][0] != c || len(queues[i]) != 1 || queues[i][0] != c || generation[i] != g {
					t.Errorf("stage %d: cores %v, queues %v, generation %d; want %d, %d", i, sets[i], queues[i], generation[i], c, g)
				}
			}
			if first, second := xdpOf(t, "eth0"), xdpOf(t, "fx7"); first != "falcon_first" || second != "falcon_second" {
				t.Errorf("attached: %q, %q", first, second)
			}
		}
		one, other := &pipeline.Cores{Driver: []int{0}, VXLAN: []int{1}, Veth: []int{0}}, &pipeline.Cores{Driver: []int{1}, VXLAN: []int{0}, Veth: []int{0}}
		set(one)
		is(0, 1, 1)
		set(one)
		is(0, 1, 1) // nothing changed
		set(other)
		is(1, 0, 2)
		if err := f.SetLoads(pipeline.Load{Core: map[int]uint32{0: 900, 5000: 1}, Average: 77}); err != nil || f.settings.Average != 77 || f.settings.Threshold != pipeline.Threshold {
			t.Error(err, f.settings)
		}
		set(nil)
		set(nil)
		if _, _, queues := inForce(t, f); queues[0] != nil || queues[1] != nil || xdpOf(t, "eth0") != "" || xdpOf(t, "fx7") != "" {
			t.Error("left:", queues, xdpOf(t, "eth0"), xdpOf(t, "fx7"))
		}
		set(other)
		is(1, 0, 3) // what was chosen before it was off counts no longer

		// Somebody took a program away, and a device was made anew.
		if err := netlink.LinkDel(linkOf(t, "fx7")); err != nil {
			t.Fatal(err)
		}
		fx := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "fx7"}, VxlanId: testVNI, Port: 4789}
		if err := errors.Join(netlink.LinkAdd(fx), f.Sync(s)); err != nil {
			t.Fatal(err)
		}
		is(1, 0, 3)
		if err := netlink.LinkSetXdpFdWithFlags(linkOf(t, "fx7"), -1, nl.XDP_FLAGS_SKB_MODE); err != nil {
			t.Fatal(err)
		}
		set(other)
		is(1, 0, 3)

		if err := f.SetPipeline(&pipeline.Cores{Driver: make([]int, maxSet+1)}); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
		set(one)
		if err := f.Remove(); err != nil || xdpOf(t, "eth0") != "" || xdpOf(t, "fx7") != "" {
			t.Error(err)
		}
	})
}

// The next agent's process finds all as it was, and can end it.
func TestPipelineOutlivesItsProcess(t *testing.T) {
	netnstest.New(t).Do(func() {
		cores := &pipeline.Cores{Driver: []int{0}, VXLAN: []int{1}, Veth: []int{0}}
		for n := range 3 {
			f, err := Open(Probe())
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				withDevices(t, f)
			} else if err := f.Sync(State{Node: netip.MustParseAddr("192.0.2.1"), Port: 4789, Networks: []Network{{VNI: testVNI, Device: "fx7"}}}); err != nil {
				t.Fatal(err)
			}
			if n < 2 {
				err = f.SetPipeline(cores)
			} else {
				err = f.SetPipeline(nil)
			}
			_, generation, _ := inForce(t, f)
			if err = errors.Join(err, f.Close()); err != nil || generation != [2]uint32{1, 1} {
				t.Error(n, err, generation)
			}
		}
		if xdpOf(t, "eth0") != "" || xdpOf(t, "fx7") != "" {
			t.Error("left:", xdpOf(t, "eth0"), xdpOf(t, "fx7"))
		}
	})
}

// Another's program stays where it is, and the other stage runs without.
func TestForeignProgramIsLeftAlone(t *testing.T) {
	opened(t, func(f *Fastpath) {
		withDevices(t, f)
		foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "theirs", Type: ebpf.XDP, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer foreign.Close()
		if err := netlink.LinkSetXdpFdWithFlags(linkOf(t, "fx7"), foreign.FD(), nl.XDP_FLAGS_SKB_MODE); err != nil {
			t.Fatal(err)
		}
		cores := &pipeline.Cores{Driver: []int{0}, VXLAN: []int{1}, Veth: []int{0}}
		if err := f.SetPipeline(cores); !errdefs.IsAlreadyExists(err) {
			t.Error(err)
		}
		if xdpOf(t, "fx7") != "theirs" || xdpOf(t, "eth0") != "falcon_first" {
			t.Error(xdpOf(t, "fx7"), xdpOf(t, "eth0"))
		}
		if err := f.SetPipeline(nil); err != nil || xdpOf(t, "fx7") != "theirs" || xdpOf(t, "eth0") != "" {
			t.Error(err, xdpOf(t, "fx7"), xdpOf(t, "eth0"))
		}
	})
}

// What comes out of a tunnel counts once, by whatever way.
func TestReceived(t *testing.T) {
	opened(t, func(f *Fastpath) {
		withDevices(t, f)
		before, err := f.Received()
		if err != nil {
			t.Fatal(err)
		}
		each := make([]bpf.FalconCount, ebpf.MustPossibleCPU())
		for i := range each {
			each[i].Packets = 5
		}
		if err := f.objects.FalconCounts.Put(uint32(bpf.FalconReasonREASON_WIRE), each); err != nil {
			t.Fatal(err)
		}
		if after, err := f.Received(); after-before != uint64(5*len(each)) || err != nil {
			t.Error(before, after, err)
		}
	})
}

// With classes, what is high is handled where it came in, at both stages; what isn't waits
// even if it stays on its core.
func TestClassesInThePipeline(t *testing.T) {
	opened(t, func(f *Fastpath) {
		s := &stageTest{T: t, f: f}
		f.settings.Node, f.settings.Port = addressOf(netip.MustParseAddr("192.0.2.1")), binary.NativeEndian.Uint16([]byte{4789 >> 8, 4789 & 0xff})
		f.settings.Flags |= bpf.FalconFlagFLAG_PIPELINE | bpf.FalconFlagFLAG_PRIORITY
		f.settings.Threshold, f.settings.Average = 800, 900 // everything stays
		container := netip.MustParseAddrPort("10.9.2.2:7")
		s.must(errors.Join(
			f.Renew(), f.makeQueues(f.objects.FalconNormal), put(f.objects.FalconDevices, uint32(runsAt), uint32(testVNI)),
			put(f.objects.FalconIps, bpf.FalconEndpointKey{Vni: testVNI, Address: addressOf(container.Addr())}, uint32(1)),
		))
		frame, flow := udpFrame(netip.MustParseAddrPort("10.9.1.2:5"), container, nil)
		outer, _ := udpFrame(netip.MustParseAddrPort("192.0.2.2:5000"), netip.MustParseAddrPort("192.0.2.1:4789"), append([]byte{8, 0, 0, 0, 0, 0, testVNI, 0}, frame...))
		for class, first := range map[bpf.FalconPriorityClass]uint32{bpf.FalconPriorityClassCLASS_HIGH: 2, bpf.FalconPriorityClassCLASS_NORMAL: 4} {
			s.must(put(f.objects.FalconSlots, uint32(1), bpf.FalconSlot{Generation: 1, Vni: testVNI, Class: uint8(class)}))
			deferred, promoted := s.count(bpf.FalconReasonREASON_DEFERRED), s.count(bpf.FalconReasonREASON_PROMOTED)
			action, err := f.objects.FalconFirst.Run(&ebpf.RunOptions{Data: outer})
			if err != nil || action != first || s.count(bpf.FalconReasonREASON_DEFERRED)-deferred != number(first == 4) || s.count(bpf.FalconReasonREASON_PROMOTED)-promoted != number(first == 2) {
				t.Errorf("class %v at the NIC: %d, %v", class, action, err)
			}
			action, err = f.objects.FalconSecond.Run(&ebpf.RunOptions{Data: frame})
			var chosen bpf.FalconSteer
			there := f.objects.FalconSteers.Lookup(bpf.FalconSteerKey{Flow: flow, Stage: 1}, &chosen) == nil
			if err != nil || action != 2 || there != (class == bpf.FalconPriorityClassCLASS_NORMAL) {
				t.Errorf("class %v at the VXLAN device: %d, %v, chosen %v", class, action, err, there)
			}
			if there {
				s.must(remove(f.objects.FalconSteers, bpf.FalconSteerKey{Flow: flow, Stage: 1}))
			}
		}
	})
}
