package fastpath

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

// programPrefix begins the names of all programs of package bpf.
const programPrefix = "falcon_"

// hook is a place at tc of one link.
type hook struct {
	ifindex int
	egress  bool
}

func (h hook) attachType() ebpf.AttachType {
	if h.egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

func (h hook) parent() uint32 {
	if h.egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

// attach puts a program in its place, where one of that name is replaced in one step.
func (f *Fastpath) attach(h hook, p *ebpf.Program, name string) error {
	var err error
	if f.features.TCX == nil {
		err = attachTCX(h, p)
	} else {
		err = attachClsact(h, p, name)
	}
	if err != nil {
		return fmt.Errorf("attach %s to link %d: %w", name, h.ifindex, err)
	}
	return nil
}

func attachTCX(h hook, p *ebpf.Program) error {
	own, err := p.Info()
	if err != nil {
		return err
	}
	id, _ := own.ID()
	attached, err := ours(h)
	if err != nil {
		return err
	}
	var old *ebpf.Program
	for _, a := range attached {
		if a.ID == id {
			return nil
		}
		if a.Name == own.Name {
			if old, err = ebpf.NewProgramFromID(a.ID); err != nil {
				return err
			}
			defer old.Close()
		}
	}
	options := link.RawAttachProgramOptions{Target: h.ifindex, Program: p, Attach: h.attachType()}
	if old != nil {
		options.Anchor = link.ReplaceProgram(old)
	}
	return link.RawAttachProgram(options)
}

type attached struct {
	ID   ebpf.ProgramID
	Name string
}

// ours lists the programs of package bpf at a hook of tcx, by whatever process.
func ours(h hook) ([]attached, error) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: h.ifindex, Attach: h.attachType()})
	if err != nil {
		return nil, fmt.Errorf("ask which programs are attached: %w", err)
	}
	var all []attached
	for _, a := range result.Programs {
		p, err := ebpf.NewProgramFromID(a.ID)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(info.Name, programPrefix) {
			all = append(all, attached{a.ID, info.Name})
		}
	}
	return all, nil
}

// filterHandle and filterPriority are our filters' at clsact: first, so that nobody's
// filter sees a packet of the shortcut only in part.
const (
	filterHandle   = 0xfa1c
	filterPriority = 1
)

// attachClsact is for kernels before tcx. The qdisc stays when it was there before.
func attachClsact(h hook, p *ebpf.Program, name string) error {
	qdisc := &netlink.GenericQdisc{
		QdiscType:  "clsact",
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: h.ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
	}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	return netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: h.ifindex, Parent: h.parent(), Handle: filterHandle, Protocol: unix.ETH_P_ALL, Priority: filterPriority},
		Fd:          p.FD(), Name: name, DirectAction: true,
	})
}

// filters lists the programs of package bpf at a hook of clsact.
func filters(h hook) ([]*netlink.BpfFilter, error) {
	all, err := dump.All(func() ([]netlink.Filter, error) {
		return netlink.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: h.ifindex}}, h.parent())
	})
	if err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // no clsact
			return nil, nil
		}
		return nil, fmt.Errorf("list filters: %w", err)
	}
	var found []*netlink.BpfFilter
	for _, one := range all {
		if b, ok := one.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, programPrefix) {
			found = append(found, b)
		}
	}
	return found, nil
}

// detach takes all of our programs from a hook. A link that is gone has none.
func (f *Fastpath) detach(h hook) error {
	var err error
	if f.features.TCX == nil {
		err = detachTCX(h)
	} else {
		err = detachClsact(h)
	}
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("detach the programs of link %d: %w", h.ifindex, err)
	}
	return nil
}

func detachTCX(h hook) error {
	all, err := ours(h)
	if err != nil {
		return err
	}
	for _, a := range all {
		p, err := ebpf.NewProgramFromID(a.ID)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: h.ifindex, Program: p, Attach: h.attachType()})
		p.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func detachClsact(h hook) error {
	all, err := filters(h)
	for _, one := range all {
		err = errors.Join(err, netlink.FilterDel(one))
	}
	return err
}

// programIDs are those of our programs at a hook.
func (f *Fastpath) programIDs(h hook) ([]ebpf.ProgramID, error) {
	var ids []ebpf.ProgramID
	if f.features.TCX == nil {
		all, err := ours(h)
		for _, a := range all {
			ids = append(ids, a.ID)
		}
		return ids, err
	}
	all, err := filters(h)
	for _, one := range all {
		ids = append(ids, ebpf.ProgramID(one.Id))
	}
	return ids, err
}

// The hooks of a container's link, of a VXLAN device, and of the underlay's link.
func (f *Fastpath) attachEndpoint(ifindex int) error {
	// First where flows end: the other program makes them.
	if err := f.attach(hook{ifindex, true}, f.objects.FalconIn, bpf.FalconProgFalconIn); err != nil {
		return err
	}
	return f.attach(hook{ifindex, false}, f.objects.FalconOut, bpf.FalconProgFalconOut)
}

func (f *Fastpath) attachDevice(ifindex int) error {
	if err := f.attach(hook{ifindex, true}, f.objects.FalconSent, bpf.FalconProgFalconSent); err != nil {
		return err
	}
	return f.attach(hook{ifindex, false}, f.objects.FalconTunnel, bpf.FalconProgFalconTunnel)
}

func (f *Fastpath) attachWire(ifindex int) error {
	return f.attach(hook{ifindex, false}, f.objects.FalconWire, bpf.FalconProgFalconWire)
}
