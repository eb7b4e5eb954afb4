package foreign

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestLinkObjection(t *testing.T) {
	const root, handle = netlink.HANDLE_ROOT, 0x10000
	container, nic := Link{Index: 7, Name: "fv0123456789a"}, Link{Index: 2, Name: "eth0", NIC: true}
	for name, test := range map[string]struct {
		link Link
		q    qdisc
		f    filter
		p    program
		want string
	}{
		"none":                   {link: container, q: qdisc{7, root, 0, "noqueue", false}},
		"the kernel's":           {link: container, q: qdisc{7, root, 0, "fq_codel", false}},
		"noqueue by name":        {link: container, q: qdisc{7, root, handle, "noqueue", false}},
		"tbf":                    {link: container, q: qdisc{7, root, handle, "tbf", false}, want: "tbf"},
		"tbf of another":         {link: container, q: qdisc{8, root, handle, "tbf", false}},
		"tbf of the NIC":         {link: nic, q: qdisc{2, root, handle, "tbf", false}},
		"fq_codel that was put":  {link: container, q: qdisc{7, root, handle, "fq_codel", false}, want: "fq_codel"},
		"clsact":                 {link: container, q: qdisc{7, netlink.HANDLE_CLSACT, 0xffff0000, "clsact", false}},
		"our filter":             {link: container, f: filter{7, 1, "bpf", "falcon_from_container"}},
		"our filters' holder":    {link: container, f: filter{7, 0, "bpf", ""}},
		"a BPF filter":           {link: nic, f: filter{2, 1, "bpf", "cil_from_netdev"}, want: "bpf cil_from_netdev"},
		"a nameless BPF filter":  {link: container, f: filter{7, 1, "bpf", ""}, want: "(bpf)"},
		"flower":                 {link: nic, f: filter{2, 1, "flower", ""}, want: "flower"},
		"fw, of all marks":       {link: container, f: filter{7, 0, "fw", ""}, want: "fw"},
		"our program":            {link: nic, p: program{2, "falcon_from_wir", "tcx ingress"}},
		"a program":              {link: container, p: program{7, "meter", "tcx egress"}, want: `"meter" (tcx egress)`},
		"a program without name": {link: container, p: program{7, "", "XDP"}, want: "XDP"},
		"a program of another":   {link: container, p: program{8, "meter", "tcx egress"}},
	} {
		t.Run(name, func(t *testing.T) {
			var qdiscs []qdisc
			var filters []filter
			var programs []program
			if test.q.link != 0 {
				qdiscs = append(qdiscs, test.q)
			}
			if test.f.link != 0 {
				filters = append(filters, test.f)
			}
			if test.p.link != 0 {
				programs = append(programs, test.p)
			}
			got := linkObjection(test.link, qdiscs, filters, programs)
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if got != "" && !strings.HasPrefix(got, "link "+test.link.Name) {
				t.Errorf("got %q", got)
			}
		})
	}
}
