package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// Endpoint is a container's interface on this node.
type Endpoint struct {
	Link      string // the host's end
	VNI       uint32
	MAC       net.HardwareAddr // the container's end's
	Addresses []netip.Addr
	MTU       int  // bytes
	Slow      bool // its link needs every packet
	Policy    priority.Policy
}

// slot is an endpoint's place in the maps.
type slot struct {
	index    uint32
	ifindex  uint32
	endpoint Endpoint
	value    bpf.FalconSlot
	attached bool // the programs are at its link, as far as is known
}

// Add lets a container's flows take the shortcut once Attach was called, or changes what is
// known of it. The link is there and has the firewall's leave to send. Without tcx the programs
// are attached here: making a clsact qdisc drops what the link is sending (qdisc_graft stops it),
// and there is nothing yet.
func (f *Fastpath) Add(e Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.Addresses = slices.SortedFunc(slices.Values(e.Addresses), netip.Addr.Compare)
	ifindex, err := indexOf(e.Link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", e.Link, err)
	}
	s := f.slots[e.Link]
	if s != nil && (s.ifindex != ifindex || !sameHome(s.endpoint, e)) {
		if err := f.drop(e.Link); err != nil {
			return err
		}
		s = nil
	}
	if s != nil && reflect.DeepEqual(s.endpoint, e) {
		return nil
	}
	if s == nil {
		if s, err = f.newSlot(ifindex); err != nil {
			return fmt.Errorf("%s stays on the kernel's path: %w", e.Link, err)
		}
		f.slots[e.Link] = s
	}
	s.endpoint = e
	if err := f.fill(s); err != nil {
		return errors.Join(err, f.drop(e.Link))
	}
	if f.features.TCX != nil && !s.attached {
		if err := f.attachEndpoint(int(s.ifindex)); err != nil {
			return err
		}
		s.attached = true
	}
	return f.reclassify()
}

// Waiting is how many containers' links have no programs yet.
func (f *Fastpath) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.slots {
		if !s.attached {
			n++
		}
	}
	return n
}

// Attach puts the programs at the links of containers that were added since the last time; with
// again, at those where somebody took them away, too. For each link the kernel waits until no
// packet passes the hook, some 20 ms: other methods go on meanwhile.
func (f *Fastpath) Attach(ctx context.Context, again bool) error {
	f.mu.Lock()
	var waiting []*slot
	for _, s := range f.slots {
		if again || !s.attached {
			waiting = append(waiting, s)
		}
	}
	f.mu.Unlock()
	var errs error
	for _, s := range waiting {
		if ctx.Err() != nil {
			return errs
		}
		err := f.attachEndpoint(int(s.ifindex))
		f.mu.Lock()
		s.attached = err == nil
		if err != nil && f.slots[s.endpoint.Link] == s { // it has not gone meanwhile
			errs = errors.Join(errs, err)
		}
		f.mu.Unlock()
	}
	return errs
}

// sameHome tells whether two endpoints differ only in what flows need not know.
func sameHome(a, b Endpoint) bool {
	a.Slow, a.MTU, a.Policy = b.Slow, b.MTU, b.Policy
	return reflect.DeepEqual(a, b)
}

func (f *Fastpath) newSlot(ifindex uint32) (*slot, error) {
	index := f.next
	if last := len(f.free) - 1; last >= 0 {
		index, f.free = f.free[last], f.free[:last]
	} else if index == f.objects.FalconSlots.MaxEntries() {
		return nil, fmt.Errorf("there is room for %d containers: %w", index-1, errdefs.ErrResourceExhausted)
	} else {
		f.next++
	}
	s := &slot{index: index, ifindex: ifindex}
	if err := f.objects.FalconSlots.Lookup(index, &s.value); err != nil {
		return nil, fmt.Errorf("read slot %d: %w", index, err)
	}
	s.value.Generation++ // odd
	return s, nil
}

// fill writes what a slot's endpoint is, the addresses last: by them others find it.
func (f *Fastpath) fill(s *slot) error {
	e := s.endpoint
	was := s.value
	s.value = bpf.FalconSlot{Generation: was.Generation, Ifindex: s.ifindex, Vni: e.VNI, Mtu: uint32(e.MTU), Mac: [6]uint8(e.MAC)}
	if e.Slow {
		s.value.Slow = 1
	}
	if err := f.fillPolicy(s); err != nil {
		return err
	}
	if was.Slow != s.value.Slow {
		s.value.Generation += 2 // what was decided for its flows holds no longer
	}
	if err := put(f.objects.FalconSlots, s.index, s.value); err != nil {
		return err
	}
	if err := put(f.objects.FalconLinks, s.ifindex, s.index); err != nil {
		return err
	}
	for _, a := range e.Addresses {
		if err := put(f.objects.FalconIps, bpf.FalconEndpointKey{Vni: e.VNI, Address: addressOf(a)}, s.index); err != nil {
			return err
		}
	}
	return nil
}

// Drop puts the flows of a container's link back on the kernel's path, and forgets it: call
// it before the link goes, so that no packet is sent to who has its place next. One that is
// not known is no error.
func (f *Fastpath) Drop(link string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drop(link)
}

func (f *Fastpath) drop(link string) error {
	s := f.slots[link]
	if s == nil {
		return nil
	}
	delete(f.slots, link)
	err := f.release(s)
	// What others do to XDP keeps no container from going: status tells, and Sync tries again.
	_ = f.reclassify()
	return err
}

// release makes a slot nobody's.
func (f *Fastpath) release(s *slot) error {
	s.value = bpf.FalconSlot{Generation: s.value.Generation + 1} // even
	err := put(f.objects.FalconSlots, s.index, s.value)
	for _, a := range s.endpoint.Addresses {
		key := bpf.FalconEndpointKey{Vni: s.endpoint.VNI, Address: addressOf(a)}
		err = errors.Join(err, removeOwn(f.objects.FalconIps, key, s.index))
	}
	err = errors.Join(err, removeOwn(f.objects.FalconLinks, s.ifindex, s.index))
	f.free = append(f.free, s.index)
	return errors.Join(err, remove(f.objects.FalconRules, s.index))
}

// removeOwn deletes a key that leads to a slot, unless another slot has it by now.
func removeOwn[K any](m *ebpf.Map, key K, slot uint32) error {
	var has uint32
	if m.Lookup(&key, &has) != nil || has != slot {
		return nil
	}
	return remove(m, key)
}

// Keep forgets all endpoints but those of the links named: what an earlier process knew
// and nobody does now.
func (f *Fastpath) Keep(links map[string]bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs error
	for link := range f.slots {
		if !links[link] {
			errs = errors.Join(errs, f.drop(link))
		}
	}
	return errs
}

// recoverSlots takes over what an earlier process put there.
func (f *Fastpath) recoverSlots() error {
	used := map[uint32]uint32{} // ifindex by slot
	links := f.objects.FalconLinks.Iterate()
	var ifindex, index uint32
	for links.Next(&ifindex, &index) {
		used[index] = ifindex
	}
	addresses := map[uint32][]netip.Addr{}
	ips := f.objects.FalconIps.Iterate()
	var key bpf.FalconEndpointKey
	for ips.Next(&key, &index) {
		addresses[index] = append(addresses[index], netipOf(key.Address))
	}
	for _, a := range addresses {
		slices.SortFunc(a, netip.Addr.Compare)
	}
	if err := errors.Join(links.Err(), ips.Err()); err != nil {
		return fmt.Errorf("read the containers' links: %w", err)
	}
	for index := uint32(1); index < f.objects.FalconSlots.MaxEntries(); index++ {
		s := &slot{index: index}
		if err := f.objects.FalconSlots.Lookup(index, &s.value); err != nil {
			return fmt.Errorf("read slot %d: %w", index, err)
		}
		if s.value.Generation == 0 { // never used, as all after it
			break
		}
		f.next = index + 1
		if s.value.Generation&1 == 0 {
			f.free = append(f.free, index)
			continue
		}
		s.ifindex = s.value.Ifindex
		s.endpoint = Endpoint{VNI: s.value.Vni, Addresses: addresses[index]} // its policy comes with Add
		link, err := net.InterfaceByIndex(int(s.ifindex))
		if err != nil || used[index] != s.ifindex { // it went, or came only in part
			if err := f.release(s); err != nil {
				return err
			}
			continue
		}
		s.endpoint.Link, s.endpoint.MAC, s.endpoint.MTU = link.Name, s.value.Mac[:], int(s.value.Mtu)
		s.endpoint.Slow = s.value.Slow != 0
		f.slots[link.Name] = s
	}
	return nil
}

// indexOf asks by ioctl (netdevice(7)), which is quicker than netlink.
func indexOf(link string) (uint32, error) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(link)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFINDEX, r); err != nil {
		return 0, err
	}
	return r.Uint32(), nil
}
