package fastpath

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

// findMaps looks for the maps of programs that an earlier process attached in this network
// namespace. Those of another schema are left where they are: their programs go on with
// them until they are replaced. The caller closes the maps.
func (f *Fastpath) findMaps(spec *ebpf.CollectionSpec) (found, error) {
	links, err := dump.All(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	maps := found{}
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			continue
		}
		for _, egress := range []bool{false, true} {
			ids, err := f.programIDs(hook{a.Index, egress})
			if errors.Is(err, unix.ENODEV) {
				continue
			}
			if err != nil {
				return nil, errors.Join(err, maps.close())
			}
			for _, id := range ids {
				if err := maps.add(id); err != nil {
					return nil, errors.Join(err, maps.close())
				}
			}
		}
		if a.Xdp == nil || !a.Xdp.Attached {
			continue
		}
		if own, err := oursByID(ebpf.ProgramID(a.Xdp.ProgId)); err == nil && own {
			if err := maps.add(ebpf.ProgramID(a.Xdp.ProgId)); err != nil {
				return nil, errors.Join(err, maps.close())
			}
		}
	}
	if !maps.usable(spec) {
		return nil, maps.close()
	}
	return maps, nil
}

// found are maps by name; nil where programs have different ones, of an upgrade that was
// cut short.
type found map[string]*ebpf.Map

// add adds the maps of a program.
func (maps found) add(id ebpf.ProgramID) error {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open map %d: %w", id, err)
		}
		info, err := m.Info()
		if err != nil {
			return errors.Join(err, m.Close())
		}
		other, known := maps[info.Name]
		if !known && strings.HasPrefix(info.Name, programPrefix) {
			maps[info.Name] = m
			continue
		}
		m.Close()
		if other != nil && !same(other, id) {
			maps[info.Name] = nil
			other.Close()
		}
	}
	return nil
}

func same(m *ebpf.Map, id ebpf.MapID) bool {
	info, err := m.Info()
	if err != nil {
		return false
	}
	own, _ := info.ID()
	return own == id
}

// usable tells whether maps are of this schema.
func (maps found) usable(spec *ebpf.CollectionSpec) bool {
	for name, m := range maps {
		if s := spec.Maps[name]; m == nil || s == nil || s.Compatible(m) != nil {
			return false
		}
	}
	settings := maps[bpf.FalconMapFalconSettings]
	if settings == nil {
		return false
	}
	var zero uint32
	var s bpf.FalconSettings
	return settings.Lookup(&zero, &s) == nil && s.Schema == bpf.Schema
}

func (maps found) close() error {
	var errs error
	for _, m := range maps {
		if m != nil {
			errs = errors.Join(errs, m.Close())
		}
	}
	return errs
}
