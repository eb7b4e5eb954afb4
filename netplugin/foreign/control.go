package foreign

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	vnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

// readQdiscs lists the queueing disciplines of all links. Messages are decoded here, here
// and for the watcher: the library decodes all parameters of the kinds that it knows, and
// fails for those that it half knows.
func readQdiscs() ([]qdisc, error) {
	all, err := dumpControl(unix.RTM_GETQDISC, unix.RTM_NEWQDISC, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("list queueing disciplines: %w", err)
	}
	qdiscs := make([]qdisc, 0, len(all))
	for _, b := range all {
		m, err := decodeControl(b)
		if err != nil {
			return nil, fmt.Errorf("a queueing discipline: %w", err)
		}
		qdiscs = append(qdiscs, m.qdisc())
	}
	return qdiscs, nil
}

// readFilters lists the filters of a link that has an ingress or clsact qdisc.
func readFilters(q qdisc, nic bool) ([]filter, error) {
	parents := []uint32{vnl.HANDLE_MIN_INGRESS}
	if q.kind == "clsact" && !nic {
		parents = append(parents, vnl.HANDLE_MIN_EGRESS)
	}
	var filters []filter
	for _, parent := range parents {
		all, err := dumpControl(unix.RTM_GETTFILTER, unix.RTM_NEWTFILTER, q.link, parent)
		if err != nil {
			return nil, fmt.Errorf("list filters: %w", err)
		}
		for _, b := range all {
			m, err := decodeControl(b)
			if err != nil {
				return nil, fmt.Errorf("a filter: %w", err)
			}
			f := m.filter()
			f.link = q.link // a shared block's are of no link
			filters = append(filters, f)
		}
	}
	return filters, nil
}

func dumpControl(ask int, answer uint16, index int, parent uint32) ([][]byte, error) {
	return dump.All(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(ask, unix.NLM_F_DUMP)
		req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(index), Parent: parent})
		return req.Execute(unix.NETLINK_ROUTE, answer)
	})
}

// control is a message about a qdisc or a filter (struct tcmsg, include/uapi/linux/rtnetlink.h).
type control struct {
	nl.TcMsg
	attributes attributes
}

func decodeControl(b []byte) (control, error) {
	if len(b) < nl.SizeofTcMsg {
		return control{}, errors.New("a message is too short")
	}
	a, err := decode(b[nl.SizeofTcMsg:])
	return control{*nl.DeserializeTcMsg(b), a}, err
}

func (c control) qdisc() qdisc {
	return qdisc{
		link: int(c.Ifindex), parent: c.Parent, handle: c.Handle, kind: text(c.attributes[unix.TCA_KIND]),
		shared: c.attributes[unix.TCA_INGRESS_BLOCK] != nil || c.attributes[unix.TCA_EGRESS_BLOCK] != nil,
	}
}

func (c control) filter() filter {
	f := filter{link: int(c.Ifindex), handle: c.Handle, kind: text(c.attributes[unix.TCA_KIND])}
	if f.kind == "bpf" {
		options, _ := decode(c.attributes[unix.TCA_OPTIONS]) // without a name it isn't ours
		f.name = text(options[nl.TCA_BPF_NAME])
	}
	return f
}

// readPrograms lists BPF programs that are attached to a link by tcx, which came with
// Linux 6.6. A link that has gone has none.
func readPrograms(l Link) ([]program, error) {
	places := []string{"tcx ingress"}
	if !l.NIC {
		places = append(places, "tcx egress")
	}
	var programs []program
	for _, place := range places {
		at := ebpf.AttachTCXIngress
		if place == "tcx egress" {
			at = ebpf.AttachTCXEgress
		}
		found, err := link.QueryPrograms(link.QueryOptions{Target: l.Index, Attach: at})
		switch {
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EINVAL), errors.Is(err, ebpf.ErrNotSupported):
			continue
		case err != nil:
			return nil, fmt.Errorf("list BPF programs of %s: %w", l.Name, err)
		}
		for _, p := range found.Programs {
			name, err := programName(p.ID)
			if errors.Is(err, os.ErrNotExist) {
				continue // detached meanwhile
			}
			if err != nil {
				return nil, err
			}
			programs = append(programs, program{link: l.Index, name: name, place: place})
		}
	}
	return programs, nil
}

// readXDP lists the XDP programs of all links.
func readXDP() ([]program, error) {
	links, err := dump.All(vnl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var programs []program
	for _, l := range links {
		xdp := l.Attrs().Xdp
		if xdp == nil || !xdp.Attached {
			continue
		}
		name, err := programName(ebpf.ProgramID(xdp.ProgId))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		programs = append(programs, program{link: l.Attrs().Index, name: name, place: "XDP"})
	}
	return programs, nil
}

func programName(id ebpf.ProgramID) (string, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", fmt.Errorf("BPF program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", fmt.Errorf("BPF program %d: %w", id, err)
	}
	return info.Name, nil
}
