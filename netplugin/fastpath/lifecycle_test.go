package fastpath

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// attachedAt has, by "link direction program", the program's ID, and the IDs of all their maps.
func (l *lab) attachedAt() (programs map[string]ebpf.ProgramID, owned map[string][]ebpf.MapID) {
	l.t.Helper()
	programs, owned = map[string]ebpf.ProgramID{}, map[string][]ebpf.MapID{}
	note := func(place string, id ebpf.ProgramID) {
		p, err := ebpf.NewProgramFromID(id)
		l.must(err)
		defer p.Close()
		info, err := p.Info()
		l.must(err)
		if _, twice := programs[place+info.Name]; twice {
			l.t.Errorf("%s%s is there twice", place, info.Name)
		}
		programs[place+info.Name] = id
		ids, _ := info.MapIDs()
		for _, id := range ids {
			m, err := ebpf.NewMapFromID(id)
			l.must(err)
			info, err := m.Info()
			m.Close()
			l.must(err)
			if !slices.Contains(owned[info.Name], id) {
				owned[info.Name] = append(owned[info.Name], id)
			}
		}
	}
	l.Do(func() {
		links, err := netlink.LinkList()
		l.must(err)
		for _, one := range links {
			at := one.Attrs()
			for _, h := range []hook{{at.Index, false}, {at.Index, true}} {
				place := fmt.Sprintf("%s %t ", at.Name, h.egress)
				result, err := link.QueryPrograms(link.QueryOptions{Target: at.Index, Attach: h.attachType()})
				l.must(err)
				for _, p := range result.Programs {
					note(place, p.ID)
				}
				all, err := filters(h)
				l.must(err)
				for _, one := range all {
					note(place+"clsact ", ebpf.ProgramID(one.Id))
				}
			}
			if at.Xdp != nil && at.Xdp.Attached {
				note(at.Name+" XDP ", ebpf.ProgramID(at.Xdp.ProgId))
			}
		}
	})
	return programs, owned
}

// next opens the programs as another process does, and puts them where they belong. spec is
// nil, or changes what is loaded.
func (l *lab) next(features Features, spec func(*ebpf.CollectionSpec)) *Fastpath {
	l.t.Helper()
	var f *Fastpath
	l.Do(func() {
		s, err := read()
		l.must(err)
		if spec != nil {
			spec(s)
		}
		f, err = openWith(features, s)
		l.must(err)
	})
	l.t.Cleanup(func() { f.Close() })
	l.place(f)
	return f
}

func (l *lab) place(f *Fastpath) {
	l.t.Helper()
	l.Do(func() {
		l.must(f.Sync(l.state()))
		for _, c := range l.model.containers {
			l.must(errors.Join(f.Add(l.endpoint(c)), f.Attach(l.t.Context(), false)))
		}
		l.must(f.Shortcut(true))
		l.must(f.Renew())
	})
}

func (l *lab) state() State {
	s := State{Node: l.model.node, Port: l.model.port, Peers: l.model.peers}
	for vni := range l.fx {
		s.Networks = append(s.Networks, Network{vni, fmt.Sprintf("fx%d", vni)})
	}
	return s
}

// others tells what differs between maps.
func others(before, after map[string][]ebpf.MapID) (names []string) {
	for name, ids := range after {
		if !slices.Equal(ids, before[name]) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// The next process replaces all programs, each in one step, and goes on with the maps and
// what is in them.
func TestAdopt(t *testing.T) {
	l := newLab(t, false, nil)
	packet := l.from(l.container("a"), false, protoUDP)
	key := l.fast(packet.inner, 1, nil)
	programs, owned := l.attachedAt()
	want := slices.Sorted(maps.Keys(programs))
	l.must(l.path.Close())
	f := l.next(Probe(), nil)
	if !f.adopted {
		t.Error("it has not adopted the maps")
	}
	now, maps2 := l.attachedAt()
	if got := slices.Sorted(maps.Keys(now)); !slices.Equal(got, want) {
		t.Errorf("attached are %v, before %v", got, want)
	}
	for place, id := range now {
		if id == programs[place] {
			t.Errorf("%s was not replaced", place)
		}
	}
	if names := others(owned, maps2); len(names) > 0 {
		t.Errorf("other maps: %v", names)
	}
	var flow bpf.FalconFlow
	l.must(f.objects.FalconFlows.Lookup(&key, &flow))
	slot, peer := bpf.FalconSlot{}, bpf.FalconPeer{}
	l.must(f.objects.FalconSlots.Lookup(&flow.Endpoint, &slot))
	l.must(f.objects.FalconPeers.Lookup(&flow.Source, &peer))
	if flow.State != bpf.FalconStateSTATE_FAST || slot.Generation != flow.EndpointGeneration || peer.Generation != flow.SourceGeneration {
		t.Errorf("the flow holds no longer: %+v %+v %+v", flow, slot, peer)
	}
}

// Maps of another schema, or of two processes, one of which was cut short, are not gone on
// with; they go with the last program that has them.
func TestOtherMaps(t *testing.T) {
	change := func(s *ebpf.CollectionSpec) { s.Maps[bpf.FalconMapFalconPairs].MaxEntries /= 2 }
	for name, disturb := range map[string]func(*lab) func(*ebpf.CollectionSpec){
		"schema": func(l *lab) func(*ebpf.CollectionSpec) {
			l.path.settings.Schema = bpf.Schema + 1
			l.must(l.path.write())
			return nil
		},
		"another size": func(*lab) func(*ebpf.CollectionSpec) { return change },
		"cut short": func(l *lab) func(*ebpf.CollectionSpec) {
			l.Do(func() {
				s, err := read()
				l.must(err)
				change(s)
				f, err := openWith(Probe(), s)
				l.must(err)
				l.must(f.attachWire(int(l.eth0)))
				l.must(f.Close())
			})
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, false, nil)
			programs, owned := l.attachedAt()
			spec := disturb(l)
			l.must(l.path.Close())
			f := l.next(Probe(), spec)
			if f.adopted {
				t.Error("it has adopted the maps")
			}
			now, maps2 := l.attachedAt()
			if got, want := slices.Sorted(maps.Keys(now)), slices.Sorted(maps.Keys(programs)); !slices.Equal(got, want) {
				t.Errorf("attached are %v, before %v", got, want)
			}
			if names := others(owned, maps2); !slices.Contains(names, bpf.FalconMapFalconFlows) || !slices.Contains(names, bpf.FalconMapFalconSettings) {
				t.Errorf("other maps are %v only", names)
			}
			for name, ids := range maps2 {
				if len(ids) != 1 {
					t.Errorf("there are %d maps %s", len(ids), name)
				}
			}
			packet := l.from(l.container("a"), false, protoUDP)
			l.path = f
			l.fast(packet.inner, 1, nil)
			if v, _ := l.judge(packet.bytes()); v.action != redirected {
				t.Errorf("the next programs: action %d", v.action)
			}
		})
	}
}

// What the kernel refuses is told, and nothing of it is left.
func TestRefused(t *testing.T) {
	for name, test := range map[string]struct {
		spec func(*ebpf.CollectionSpec)
		says string
	}{
		"verifier": {func(s *ebpf.CollectionSpec) {
			s.Programs[bpf.FalconProgFalconWire].Instructions = asm.Instructions{
				asm.LoadMem(asm.R0, asm.R1, 4000, asm.Word), // outside of the context
				asm.Return(),
			}
		}, "verifier refuses"},
		"map": {func(s *ebpf.CollectionSpec) { s.Maps[bpf.FalconMapFalconSlots].MaxEntries = 1 << 31 }, bpf.FalconMapFalconSlots},
	} {
		t.Run(name, func(t *testing.T) {
			netnstest.New(t).Do(func() {
				s, err := read()
				if err != nil {
					t.Fatal(err)
				}
				test.spec(s)
				f, err := openWith(Probe(), s)
				if f != nil || !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%v, %v", f, err)
				}
			})
		})
	}
}

// There is no shortcut without what it can't be made of.
func TestLacking(t *testing.T) {
	missing := errors.New("missing")
	for _, features := range []Features{{Programs: missing}, {RedirectPeer: missing}, {CheckMTU: missing}} {
		if f, err := Open(features); f != nil || !errors.Is(err, missing) {
			t.Errorf("%v, %v", f, err)
		}
	}
}

// Detach leaves nothing, of what has been attached by whatever means, but what is others'.
func TestDetach(t *testing.T) {
	clsact := Probe()
	clsact.TCX = errors.New("missing")
	for name, features := range map[string]Features{"tcx": Probe(), "clsact": clsact} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, false, nil)
			l.Do(func() { l.must(Detach(Probe())) })
			f := l.next(features, nil)
			first := l.endpoint(l.container("a"))
			first.Policy = priority.Policy{Default: priority.High}
			l.Do(func() {
				l.must(f.SetPriority(Priority{On: true, HighRate: 1000}))
				if err := f.Add(first); err != nil && !errdefs.IsNotFound(err) { // of threads
					t.Fatal(err)
				}
			})
			programs, _ := l.attachedAt()
			if want := 2*3 + 2*2 + 1 + 1; len(programs) != want { // three containers, two devices, the NIC twice
				t.Errorf("attached are %v, want %d", slices.Sorted(maps.Keys(programs)), want)
			}
			other, err := ebpf.NewProgram(&ebpf.ProgramSpec{
				Name: "somebody", Type: ebpf.SchedCLS, License: "MIT",
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
			})
			l.must(err)
			defer other.Close()
			l.Do(func() {
				l.must(link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(l.eth0), Program: other, Attach: ebpf.AttachTCXIngress}))
				l.must(f.Remove())
				l.must(Detach(features)) // again
			})
			if left, _ := l.attachedAt(); len(left) != 1 || left["eth0 false somebody"] == 0 {
				t.Errorf("left are %v", left)
			}
		})
	}
}

// An endpoint can go whatever has become of its link and of the NIC's XDP.
func TestDropInAnyCase(t *testing.T) {
	l := newLab(t, false, nil)
	var first Endpoint
	l.Do(func() {
		other, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "somebody", Type: ebpf.XDP, License: "MIT",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		})
		l.must(err)
		defer other.Close()
		eth0, err := netlink.LinkByIndex(int(l.eth0))
		l.must(err)
		l.must(netlink.LinkSetXdpFdWithFlags(eth0, other.FD(), nl.XDP_FLAGS_SKB_MODE))
		l.must(l.path.SetPriority(Priority{On: true, HighRate: 1000}))
		for _, name := range []string{"a", "b"} {
			e := l.endpoint(l.container(name))
			e.Policy = priority.Policy{Default: priority.High}
			l.must(l.path.Add(e)) // it takes the shortcut nevertheless
			first = e
		}
		if x := l.path.XDP(); !errdefs.IsAlreadyExists(x.Problem) || x.Mode != "" {
			t.Errorf("XDP is %+v", x)
		}
		l.must(l.path.Drop(l.endpoint(l.container("a")).Link))
		gone, err := netlink.LinkByName(first.Link)
		l.must(err)
		l.must(netlink.LinkDel(gone))
		l.must(l.path.Drop(first.Link))
		l.must(l.path.Drop(first.Link))
		l.must(l.path.Keep(nil))
		if err := l.path.Add(first); err == nil {
			t.Error("a link that is gone was added")
		}
	})
	for _, c := range l.model.containers {
		for _, a := range c.addresses {
			key := bpf.FalconEndpointKey{Vni: c.vni, Address: addressOf(a)}
			var slot uint32
			if err := l.path.objects.FalconIps.Lookup(&key, &slot); !errors.Is(err, ebpf.ErrKeyNotExist) {
				t.Errorf("%v of %s leads to slot %d, %v", a, c.name, slot, err)
			}
		}
	}
}
