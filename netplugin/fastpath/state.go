package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

// State is what the programs know of the overlay besides containers.
type State struct {
	Node     netip.Addr // this node's, in the underlay
	Port     uint16     // of VXLAN
	Networks []Network
	Peers    []Peer
}

// Network is a network of this node.
type Network struct {
	VNI    uint32
	Device string // the VXLAN device
}

// Peer is another node.
type Peer struct {
	Address netip.Addr
	Subnets map[uint32][]netip.Prefix // of its containers, by VNI
}

// node is a peer's place in the maps.
type node struct {
	index      uint32
	generation uint32
	prefixes   map[bpf.FalconPrefixKey]struct{}
}

// Sync makes the maps those of s, and attaches the programs of the VXLAN devices and of the
// underlay's link. What is right is not touched; flows of a peer that lost a subnet, or is
// gone, leave the shortcut at once. It goes on after what fails.
func (f *Fastpath) Sync(s State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := f.syncPeers(s.Peers)
	errs = errors.Join(errs, f.syncDevices(s.Networks))
	wire, err := Underlay(s.Node)
	if err == nil {
		err = f.attachWire(wire)
	}
	if f.wire != 0 && f.wire != wire {
		errs = errors.Join(errs, f.detach(hook{f.wire, false}))
	}
	f.wire = wire
	want := f.settings
	want.Node, want.Port = addressOf(s.Node), binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, s.Port))
	want.Flags &^= bpf.FalconFlagFLAG_WIRE | bpf.FalconFlagFLAG_VETH
	if err == nil {
		want.Flags |= bpf.FalconFlagFLAG_WIRE
	}
	if l, err := netlink.LinkByIndex(wire); err == nil && l.Type() == "veth" {
		want.Flags |= bpf.FalconFlagFLAG_VETH
	}
	if want != f.settings {
		f.settings = want
		errs = errors.Join(errs, f.write())
	}
	f.findXDP()
	return errors.Join(errs, err, f.attachXDP(), f.attachSecond())
}

// Underlay is the index of the link that has the node's address; errdefs.ErrNotFound if none
// has.
func Underlay(a netip.Addr) (int, error) {
	all, err := dump.All(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, one := range all {
		if ip, ok := netip.AddrFromSlice(one.IP); ok && ip.Unmap() == a {
			return one.LinkIndex, nil
		}
	}
	return 0, fmt.Errorf("no link has the node's address %v: %w", a, errdefs.ErrNotFound)
}

func (f *Fastpath) syncDevices(networks []Network) error {
	var errs error
	want := map[int]uint32{}
	for _, n := range networks {
		l, err := netlink.LinkByName(n.Device)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue // it could not be made
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("find %s: %w", n.Device, err))
			continue
		}
		index := l.Attrs().Index
		want[index] = n.VNI
		if err := f.attachDevice(index); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		errs = errors.Join(errs, put(f.objects.FalconDevices, uint32(index), n.VNI))
	}
	for index := range f.devices {
		if _, there := want[index]; !there {
			errs = errors.Join(errs, remove(f.objects.FalconDevices, uint32(index)), f.detach(hook{index, false}), f.detach(hook{index, true}))
		}
	}
	f.devices = want
	return errs
}

func (f *Fastpath) syncPeers(peers []Peer) error {
	var errs error
	want := map[netip.Addr]map[bpf.FalconPrefixKey]struct{}{}
	for _, p := range peers {
		prefixes := map[bpf.FalconPrefixKey]struct{}{}
		for vni, subnets := range p.Subnets {
			for _, s := range subnets {
				prefixes[prefixKey(vni, s)] = struct{}{}
			}
		}
		want[p.Address] = prefixes
	}
	// First what goes: a subnet may move from one node to another.
	for address, n := range f.peers {
		moved := want[address] == nil
		for key := range n.prefixes {
			if _, stays := want[address][key]; !stays {
				errs = errors.Join(errs, remove(f.objects.FalconPrefixes, key))
				delete(n.prefixes, key)
				moved = true
			}
		}
		if !moved {
			continue
		}
		n.generation += 2
		if want[address] == nil {
			n.generation-- // even: nobody's
			delete(f.peers, address)
			f.unused = append(f.unused, n.index)
		}
		errs = errors.Join(errs, put(f.objects.FalconPeers, n.index, bpf.FalconPeer{Generation: n.generation, Address: addressOf(address)}))
	}
	for address, prefixes := range want {
		n := f.peers[address]
		if n == nil {
			var err error
			if n, err = f.newPeer(address); err != nil {
				errs = errors.Join(errs, err)
				continue
			}
		}
		for key := range prefixes {
			if _, there := n.prefixes[key]; !there {
				if err := put(f.objects.FalconPrefixes, key, n.index); err != nil {
					errs = errors.Join(errs, err)
					continue
				}
				n.prefixes[key] = struct{}{}
			}
		}
	}
	return errs
}

func (f *Fastpath) newPeer(address netip.Addr) (*node, error) {
	index := f.nextPeer
	if last := len(f.unused) - 1; last >= 0 {
		index, f.unused = f.unused[last], f.unused[:last]
	} else if f.nextPeer == f.objects.FalconPeers.MaxEntries() {
		return nil, fmt.Errorf("there is room for %d nodes; flows of %v stay on the kernel's path: %w", f.nextPeer-1, address, errdefs.ErrResourceExhausted)
	} else {
		f.nextPeer++
	}
	var old bpf.FalconPeer
	if err := f.objects.FalconPeers.Lookup(index, &old); err != nil {
		return nil, fmt.Errorf("read node %d: %w", index, err)
	}
	n := &node{index: index, generation: old.Generation + 1, prefixes: map[bpf.FalconPrefixKey]struct{}{}}
	if err := put(f.objects.FalconPeers, index, bpf.FalconPeer{Generation: n.generation, Address: addressOf(address)}); err != nil {
		return nil, err
	}
	f.peers[address] = n
	return n, nil
}

// recoverPeers takes over what an earlier process put there.
func (f *Fastpath) recoverPeers() error {
	by := map[uint32]*node{}
	for index := uint32(1); index < f.objects.FalconPeers.MaxEntries(); index++ {
		var p bpf.FalconPeer
		if err := f.objects.FalconPeers.Lookup(index, &p); err != nil {
			return fmt.Errorf("read node %d: %w", index, err)
		}
		if p.Generation == 0 { // never used, as all after it
			break
		}
		f.nextPeer = index + 1
		if p.Generation&1 == 0 {
			f.unused = append(f.unused, index)
			continue
		}
		by[index] = &node{index: index, generation: p.Generation, prefixes: map[bpf.FalconPrefixKey]struct{}{}}
		f.peers[netipOf(p.Address)] = by[index]
	}
	var key bpf.FalconPrefixKey
	var index uint32
	entries := f.objects.FalconPrefixes.Iterate()
	for entries.Next(&key, &index) {
		if n := by[index]; n != nil {
			n.prefixes[key] = struct{}{}
		}
	}
	devices := f.objects.FalconDevices.Iterate()
	var device, vni uint32
	for devices.Next(&device, &vni) {
		f.devices[int(device)] = vni
	}
	return errors.Join(entries.Err(), devices.Err())
}

func put[K, V any](m *ebpf.Map, key K, value V) error {
	err := m.Put(&key, &value)
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		err = errors.Join(err, errdefs.ErrResourceExhausted)
	}
	if err != nil {
		return fmt.Errorf("write to %v: %w", m, err)
	}
	return nil
}

// remove deletes a key; that it is gone already is no error.
func remove[K any](m *ebpf.Map, key K) error {
	if err := m.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from %v: %w", m, err)
	}
	return nil
}

// addressOf is an address as the programs have it: IPv4 mapped into IPv6, in network order.
func addressOf(a netip.Addr) bpf.FalconAddress { return rawAddress(netip.AddrFrom16(a.As16())) }

func rawAddress(a netip.Addr) (out bpf.FalconAddress) {
	b := a.As16()
	for i := range out.Word {
		out.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}

func netipOf(a bpf.FalconAddress) netip.Addr {
	var b [16]byte
	for i, w := range a.Word {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

func prefixKey(vni uint32, p netip.Prefix) bpf.FalconPrefixKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return bpf.FalconPrefixKey{
		Bits: uint32(32 + bits), Vni: binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, vni)),
		Address: addressOf(p.Addr()),
	}
}

// Remove detaches all programs of the network namespace; the maps go with them.
func (f *Fastpath) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Detach(f.features)
}

// Detach takes the programs of package bpf, of whatever process, from all links.
func Detach(features Features) error {
	f := &Fastpath{features: features}
	links, err := dump.All(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	links = slices.DeleteFunc(links, func(l netlink.Link) bool { return l.Attrs().Flags&net.FlagLoopback != 0 })
	var errs error
	for _, l := range links {
		for _, egress := range []bool{false, true} {
			errs = errors.Join(errs, f.detach(hook{l.Attrs().Index, egress}))
		}
		errs = errors.Join(errs, detachXDP(l))
	}
	return errs
}
