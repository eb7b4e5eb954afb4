package foreign

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
)

// qdisc is a queueing discipline of a link.
type qdisc struct {
	link           int
	parent, handle uint32
	kind           string
	shared         bool // its filters are those of a block that several links have
}

// filter is a filter at a link's ingress or egress.
type filter struct {
	link   int
	handle uint32 // 0 for what holds filters of one kind and priority
	kind   string
	name   string // of a BPF program
}

// program is a BPF program that is attached to a link without traffic control.
type program struct {
	link  int
	name  string
	place string // tcx ingress, tcx egress or XDP
}

// ownPrefix is what names of our programs begin with.
const ownPrefix = "falcon_"

func (q qdisc) holdsFilters() bool { return q.kind == "ingress" || q.kind == "clsact" }

// objects tells whether somebody wants packets queued his own way. A discipline that the
// kernel gave a link by itself has no handle. The NIC's is passed in any case.
func (q qdisc) objects(nic bool) bool {
	return !nic && q.parent == netlink.HANDLE_ROOT && q.handle != 0 && q.kind != "noqueue"
}

func (f filter) own() bool { return f.kind == "bpf" && strings.HasPrefix(f.name, ownPrefix) }

func (f filter) objects() bool {
	// Those of kind bpf each have a handle; of others it isn't sure.
	return !f.own() && (f.kind != "bpf" || f.handle != 0)
}

func (p program) objects() bool { return !strings.HasPrefix(p.name, ownPrefix) }

// linkObjection says what at a link needs every packet, or "".
func linkObjection(l Link, qdiscs []qdisc, filters []filter, programs []program) string {
	for _, q := range qdiscs {
		if q.link == l.Index && q.objects(l.NIC) {
			return fmt.Sprintf("link %s: its queueing discipline %s needs every packet", l.Name, q.kind)
		}
	}
	for _, f := range filters {
		if f.link == l.Index && f.objects() {
			return fmt.Sprintf("link %s: a filter of traffic control (%s) may need every packet", l.Name, strings.TrimSpace(f.kind+" "+f.name))
		}
	}
	for _, p := range programs {
		if p.link == l.Index && p.objects() {
			return fmt.Sprintf("link %s: the BPF program %q (%s) may need every packet", l.Name, p.name, p.place)
		}
	}
	return ""
}
