package fastpath

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// xdpState is what XDP is wanted for, and where it is.
type xdpState struct {
	priority Priority
	link     int    // where the program of the underlay's link is; 0: nowhere
	mode     string // "native", "generic"
	problem  error  // why it is not where it is wanted
	favoured bool   // the queues' threads go before programs
}

// queue is how many packets wait for a thread of a cpumap, at most; the kernel drops more.
const queue = 4096

// fitCPUs gives the maps by CPU their size: the kernel takes no CPU that can't be there.
func fitCPUs(spec *ebpf.CollectionSpec) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the CPUs: %w", err)
	}
	for _, m := range spec.Maps {
		if m.Type == ebpf.CPUMap {
			m.MaxEntries = uint32(cpus)
		}
	}
	return nil
}

// makeQueues makes a queue on each core: the kernel starts a thread for each, so it is done
// when they are needed.
func (f *Fastpath) makeQueues(maps ...*ebpf.Map) error {
	for _, m := range maps {
		for cpu := range min(m.MaxEntries(), uint32(runtime.NumCPU())) {
			var there bpf.FalconBpfCpumapVal
			if err := m.Lookup(&cpu, &there); err == nil && there.Qsize == queue {
				continue
			}
			if err := put(m, cpu, bpf.FalconBpfCpumapVal{Qsize: queue}); err != nil {
				return err
			}
		}
	}
	return nil
}

// attachXDP puts the program to the underlay's link if anything wants it, and takes it away
// if nothing does.
func (f *Fastpath) attachXDP() error {
	wanted := f.settings.Flags&(bpf.FalconFlagFLAG_PRIORITY|bpf.FalconFlagFLAG_PIPELINE) != 0
	if f.xdp.link != 0 && (!wanted || f.xdp.link != f.wire) {
		l, err := netlink.LinkByIndex(f.xdp.link)
		if err == nil {
			err = detachXDP(l)
		}
		if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
			return fmt.Errorf("detach XDP: %w", err)
		}
		f.xdp.link, f.xdp.mode = 0, ""
	}
	f.xdp.problem = nil
	if !wanted || f.wire == 0 {
		return nil
	}
	if f.xdp.problem = errors.Join(f.features.XDP, f.features.CPUMap); f.xdp.problem != nil {
		return nil // it is told by status
	}
	if err := f.makeQueues(f.objects.FalconHigh, f.objects.FalconNormal, f.objects.FalconLow); err != nil {
		return err
	}
	if f.xdp.problem = f.placeXDP(); f.xdp.problem != nil || f.xdp.favoured {
		return f.xdp.problem
	}
	f.xdp.problem = favour(map[*ebpf.Map]int{f.objects.FalconHigh: -20, f.objects.FalconNormal: -19, f.objects.FalconLow: -15})
	f.xdp.favoured = f.xdp.problem == nil
	return f.xdp.problem
}

// findXDP notes the program of an earlier process, which may be there.
func (f *Fastpath) findXDP() {
	if f.xdp.link != 0 || f.wire == 0 {
		return
	}
	l, err := netlink.LinkByIndex(f.wire)
	if err != nil || l.Attrs().Xdp == nil || !l.Attrs().Xdp.Attached {
		return
	}
	if own, err := oursByID(ebpf.ProgramID(l.Attrs().Xdp.ProgId)); err == nil && own {
		f.xdp.link = f.wire
	}
}

func (f *Fastpath) placeXDP() error {
	l, err := netlink.LinkByIndex(f.wire)
	if err != nil {
		return fmt.Errorf("find the underlay's link: %w", err)
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		own, err := oursByID(ebpf.ProgramID(x.ProgId))
		if err != nil {
			return err
		}
		if !own {
			return fmt.Errorf("link %s has another XDP program (%d); detach it, or set priority.mode and pipeline.mode to off: %w", l.Attrs().Name, x.ProgId, errdefs.ErrAlreadyExists)
		}
		info, err := f.objects.FalconFirst.Info()
		if err != nil {
			return err
		}
		if id, _ := info.ID(); uint32(id) == x.ProgId {
			f.xdp.link = f.wire
			f.xdp.mode = modeOf(x.AttachMode)
			return nil
		}
	}
	type mode struct {
		name  string
		flags int
	}
	modes := []mode{{"native", nl.XDP_FLAGS_DRV_MODE}, {"generic", nl.XDP_FLAGS_SKB_MODE}}
	// In place of ours, if that is there: no packet goes by.
	for _, mode := range modes {
		if err = netlink.LinkSetXdpFdWithFlags(l, f.objects.FalconFirst.FD(), mode.flags); err == nil {
			f.xdp.link, f.xdp.mode = f.wire, mode.name
			return nil
		}
	}
	return fmt.Errorf("attach XDP to %s: %w", l.Attrs().Name, err)
}

func modeOf(attached uint32) string {
	if attached == nl.XDP_ATTACHED_SKB {
		return "generic"
	}
	return "native"
}

func oursByID(id ebpf.ProgramID) (bool, error) {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return false, err
	}
	return len(info.Name) >= len(programPrefix) && info.Name[:len(programPrefix)] == programPrefix, nil
}

// detachXDP takes our program from a link, in whatever mode it is there.
func detachXDP(l netlink.Link) error {
	x := l.Attrs().Xdp
	if x == nil || !x.Attached {
		return nil
	}
	own, err := oursByID(ebpf.ProgramID(x.ProgId))
	if err != nil || !own {
		return err
	}
	flags := nl.XDP_FLAGS_DRV_MODE
	if modeOf(x.AttachMode) == "generic" {
		flags = nl.XDP_FLAGS_SKB_MODE
	}
	return netlink.LinkSetXdpFdWithFlags(l, -1, flags)
}
