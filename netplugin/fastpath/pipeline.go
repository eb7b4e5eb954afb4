package fastpath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/pipeline"
)

// SetPipeline has packets of other nodes go to the cores of their stages, or, with nil,
// stay where they come in. The cores of the third stage are for RPS, which isn't done here.
//
// A flow that takes the shortcut at the NIC passes the first stage only: what the others
// would do is done there. It is moved nevertheless, because that relieves the NIC's core.
//
// Whatever changes begins a new generation: flows choose again, and each may be reordered
// once. To say again what is so changes nothing but what somebody else took away. It goes on after what fails.
// errdefs.ErrNotImplemented: the kernel can't move packets; ErrAlreadyExists: somebody
// else's XDP program is in the way of a stage.
func (f *Fastpath) SetPipeline(cores *pipeline.Cores) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cores == nil {
		return f.stopPipeline()
	}
	if err := errors.Join(f.features.XDP, f.features.CPUMap); err != nil {
		return fmt.Errorf("stages can't be moved to other cores: %w", err)
	}
	var errs error
	for _, s := range f.stages(cores) {
		errs = errors.Join(errs, s.fill(f.settings.Flags&bpf.FalconFlagFLAG_PIPELINE == 0))
	}
	if errs != nil {
		return errors.Join(errs, f.stopPipeline()) // half of it is worse than none
	}
	f.settings.Threshold = pipeline.Threshold
	if err := f.setFlag(bpf.FalconFlagFLAG_PIPELINE, true); err != nil {
		return err
	}
	// The longer its thread waits for the core, the longer a flow must pause to leave it.
	return errors.Join(f.attachXDP(), f.attachSecond(), favour(map[*ebpf.Map]int{f.objects.FalconDriver: -19, f.objects.FalconVxlan: -19}))
}

// stopPipeline leaves nothing of it behind. The queues go last: what waits there is still
// processed.
func (f *Fastpath) stopPipeline() error {
	f.settings.Average = 0
	errs := f.setFlag(bpf.FalconFlagFLAG_PIPELINE, false)
	errs = errors.Join(errs, f.attachXDP(), f.attachSecond())
	for _, s := range f.stages(&pipeline.Cores{}) {
		errs = errors.Join(errs, s.trim())
	}
	return errs
}

// stageSet is a stage and the cores that it is to have.
type stageSet struct {
	sets  *ebpf.Map
	stage uint32
	queue *ebpf.Map
	cores []int
}

func (f *Fastpath) stages(c *pipeline.Cores) []stageSet {
	sets := f.objects.FalconStages
	return []stageSet{
		{sets, 0, f.objects.FalconDriver, c.Driver}, // enum stage
		{sets, 1, f.objects.FalconVxlan, c.VXLAN},
	}
}

// fill makes the queues, then the set that leads to them, in a generation of its own if it
// differs or if again is set, and then takes away the queues that nothing leads to.
func (s stageSet) fill(again bool) error {
	var is bpf.FalconStageCores
	if err := s.sets.Lookup(&s.stage, &is); err != nil {
		return fmt.Errorf("read the cores of a stage: %w", err)
	}
	want := bpf.FalconStageCores{Generation: is.Generation, Count: uint32(len(s.cores))}
	if len(s.cores) > len(want.Core) {
		return fmt.Errorf("%d cores for one stage, of which there may be %d: %w", len(s.cores), len(want.Core), errdefs.ErrInvalidArgument)
	}
	for i, c := range s.cores {
		want.Core[i] = uint32(c)
		var queued bpf.FalconBpfCpumapVal
		if err := s.queue.Lookup(uint32(c), &queued); err == nil && queued.Qsize == queue {
			continue
		}
		if err := put(s.queue, uint32(c), bpf.FalconBpfCpumapVal{Qsize: queue}); err != nil {
			return fmt.Errorf("a queue on CPU %d: %w", c, err)
		}
	}
	if want != is || again {
		if want.Generation++; want.Generation == 0 {
			want.Generation = 1 // 0 is of new entries
		}
		if err := put(s.sets, s.stage, want); err != nil {
			return err
		}
	}
	return s.trim()
}

// trim takes away the queues of other cores.
func (s stageSet) trim() error {
	var errs error
	for cpu := range s.queue.MaxEntries() {
		if slices.Contains(s.cores, int(cpu)) {
			continue
		}
		if err := s.queue.Delete(&cpu); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			errs = errors.Join(errs, fmt.Errorf("take away the queue on CPU %d: %w", cpu, err))
		}
	}
	return errs
}

// attachSecond puts the second stage's program to the VXLAN devices if it is wanted, and
// takes it away if not. Such devices have generic XDP only.
func (f *Fastpath) attachSecond() error {
	wanted := f.settings.Flags&bpf.FalconFlagFLAG_PIPELINE != 0
	var errs error
	for index := range f.devices {
		l, err := netlink.LinkByIndex(index)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err == nil && wanted {
			err = f.placeSecond(l)
		} else if err == nil {
			err = detachXDP(l)
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("the second stage, at VXLAN device %d: %w", index, err))
		}
	}
	return errs
}

func (f *Fastpath) placeSecond(l netlink.Link) error {
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		own, err := oursByID(ebpf.ProgramID(x.ProgId))
		if err != nil {
			return err
		}
		if !own {
			return fmt.Errorf("%s has another XDP program (%d); detach it, or set pipeline.mode to off: %w", l.Attrs().Name, x.ProgId, errdefs.ErrAlreadyExists)
		}
		info, err := f.objects.FalconSecond.Info()
		if err != nil {
			return err
		}
		if id, _ := info.ID(); uint32(id) == x.ProgId {
			return nil
		}
	}
	return netlink.LinkSetXdpFdWithFlags(l, f.objects.FalconSecond.FD(), nl.XDP_FLAGS_SKB_MODE)
}

// SetLoads tells the programs how busy cores are. Those beyond what they know of count as
// idle.
func (f *Fastpath) SetLoads(l pipeline.Load) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs error
	for cpu, load := range l.Core {
		if uint32(cpu) < f.objects.FalconLoads.MaxEntries() {
			errs = errors.Join(errs, put(f.objects.FalconLoads, uint32(cpu), load))
		}
	}
	if f.settings.Average != l.Average {
		f.settings.Average = l.Average
		errs = errors.Join(errs, f.write())
	}
	return errs
}

// Received counts the packets that came out of tunnels, by the shortcut or by the VXLAN
// devices: before GRO joins them, and after the queues that drop what is too much for the
// first stage. It is for differences: it falls when a device goes.
func (f *Fastpath) Received() (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var each []bpf.FalconCount
	if err := f.objects.FalconCounts.Lookup(uint32(bpf.FalconReasonREASON_WIRE), &each); err != nil {
		return 0, fmt.Errorf("read the counters of the programs: %w", err)
	}
	var sum uint64
	for _, one := range each {
		sum += one.Packets
	}
	for index := range f.devices {
		l, err := netlink.LinkByIndex(index)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read the counters of VXLAN device %d: %w", index, err)
		}
		if s := l.Attrs().Statistics; s != nil {
			sum += s.RxPackets
		}
	}
	return sum, nil
}
