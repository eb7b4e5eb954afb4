// Package fastpath takes packets of the overlay off the kernel's path where it knows that
// the result is the same: it loads the programs of package bpf, attaches them to the
// node's links, and keeps the maps that they decide by.
//
// The kernel's path stays whole and is always right. A flow takes the shortcut only after
// one of its packets was seen to come through unchanged, so what somebody's rules refuse or
// translate never does. What was seen counts for one epoch; Invalidate begins another.
//
// Programs and maps belong to the links, in the network namespace that they were attached
// in: they stay when the process goes, and the next one adopts the maps, with all flows,
// and replaces the programs in place. Nothing is pinned, so no file system is needed and
// nothing is left behind when the links go. A process that is gone is noticed: unless Renew
// is called, everything is back on the kernel's path after Lease.
package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// Lease is how long the shortcut outlives the process that keeps it.
const Lease = 30 * time.Second

// Fastpath is that of one network namespace: the calling thread's of Open, and of every
// call that attaches or detaches. Its methods may be called concurrently.
type Fastpath struct {
	mu       sync.Mutex
	features Features
	objects  bpf.FalconObjects
	settings bpf.FalconSettings
	adopted  bool

	slots    map[string]*slot     // by link
	free     []uint32             // slots that were used before
	next     uint32               // the first slot that never was
	peers    map[netip.Addr]*node // by address
	unused   []uint32
	nextPeer uint32
	devices  map[int]uint32 // VNIs by the VXLAN device's index
	wire     int            // index of the underlay's link; 0: none
	xdp      xdpState
}

// Open loads the programs, with the maps of programs that are attached already. The caller
// closes it. errdefs.ErrNotImplemented: this kernel can't run them, and the error says why;
// the network does without.
func Open(features Features) (*Fastpath, error) {
	if err := features.shortcut(); err != nil {
		return nil, err
	}
	spec, err := read()
	if err != nil {
		return nil, err
	}
	return openWith(features, spec)
}

// read reads the programs and what maps they want.
func read() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadFalcon()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	delete(spec.Maps, ".bss") // it has nothing but types
	clear(spec.Variables)
	return spec, fitCPUs(spec)
}

func openWith(features Features, spec *ebpf.CollectionSpec) (*Fastpath, error) {
	f := &Fastpath{
		features: features, slots: map[string]*slot{}, peers: map[netip.Addr]*node{},
		devices: map[int]uint32{}, next: 1, nextPeer: 1, // 0 is nobody in both
	}
	maps, err := f.findMaps(spec)
	if err != nil {
		return nil, err
	}
	defer maps.close()
	f.adopted = len(maps) > 0
	if err := load(spec, &f.objects, maps); err != nil {
		return nil, err
	}
	if err := f.recover(); err != nil {
		return nil, errors.Join(err, f.objects.Close())
	}
	return f, nil
}

func load(spec *ebpf.CollectionSpec, objects *bpf.FalconObjects, maps map[string]*ebpf.Map) error {
	err := spec.LoadAndAssign(objects, &ebpf.CollectionOptions{MapReplacements: maps})
	var refused *ebpf.VerifierError
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("the kernel's verifier refuses a program: %w: %w", errdefs.ErrNotImplemented, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("load programs (needs CAP_BPF, or root): %w: %w", errdefs.ErrPermissionDenied, err)
	case err != nil:
		return fmt.Errorf("load the programs: %w: %w", errdefs.ErrNotImplemented, err)
	}
	return nil
}

// recover takes over what the maps have.
func (f *Fastpath) recover() error {
	var zero uint32
	if err := f.objects.FalconSettings.Lookup(&zero, &f.settings); err != nil {
		return fmt.Errorf("read the settings of the programs: %w", err)
	}
	if !f.adopted {
		f.settings.Schema = bpf.Schema
		return f.write()
	}
	return errors.Join(f.recoverSlots(), f.recoverPeers())
}

// write puts the settings into force.
func (f *Fastpath) write() error {
	var zero uint32
	if err := f.objects.FalconSettings.Put(&zero, &f.settings); err != nil {
		return fmt.Errorf("write the settings of the programs: %w", err)
	}
	return nil
}

// Close gives up what the process holds. What is attached goes on for as long as Lease.
func (f *Fastpath) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.objects.Close()
}

// Renew tells the programs that there is somebody who hears of changes.
func (f *Fastpath) Renew() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := monotonic()
	if err != nil {
		return err
	}
	f.settings.ValidUntil = now + uint64(Lease)
	return f.write()
}

// Invalidate puts every flow back on the kernel's path until it is seen to come through
// again: rules, routes or queueing have changed.
func (f *Fastpath) Invalidate() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settings.Epoch++
	return f.write()
}

// Shortcut switches the shortcut on or off, for all flows at once.
func (f *Fastpath) Shortcut(on bool) error { return f.flag(bpf.FalconFlagFLAG_SHORTCUT, on) }

func (f *Fastpath) flag(flag bpf.FalconFlag, on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.setFlag(flag, on)
}

func (f *Fastpath) setFlag(flag bpf.FalconFlag, on bool) error {
	before := f.settings.Flags
	if f.settings.Flags &^= flag; on {
		f.settings.Flags |= flag
	}
	if f.settings.Flags == before {
		return nil
	}
	return f.write()
}

// monotonic is the programs' clock (bpf_ktime_get_ns), in ns.
func monotonic() (uint64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint64(t.Nano()), nil
}
