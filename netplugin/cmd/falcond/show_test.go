package main

import (
	"net/netip"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

func table(print func(w *tabwriter.Writer)) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	print(w)
	w.Flush()
	return text.String()
}

// TestPrintStatus has each decision with its reason.
func TestPrintStatus(t *testing.T) {
	r := agent.Report{
		Node: "a", Address: netip.MustParseAddr("192.0.2.1"), Version: "v1",
		Endpoints: []agent.EndpointReport{{Container: "c1", Link: "fv1"}},
		Shortcut: agent.ShortcutReport{
			Problem: "attach falcon_wire\nattach falcon_first",
			Slow:    map[string]string{"fv1": "link fv1: its queueing discipline tbf needs every packet", "fv2": "why"},
			Counts: fastpath.Counts{
				Taken: map[string]uint64{"wire": 3, "out": 12}, Left: map[string]uint64{"new": 2},
				Steered: map[string]uint64{"deferred": 1},
			},
		},
		Priority: agent.PriorityReport{Mode: "sync", HighRate: 100, XDP: "native", TrustDSCP: true, Problem: "no threads"},
		Pipeline: agent.PipelineReport{On: true, Why: "on: why", Cores: "driver 0, vxlan 1, veth 2", Loads: map[int]uint32{1: 996, 0: 14}},
	}
	const want = `node      a
address   192.0.2.1
version   v1
peers     none are configured
shortcut  on
          problem: attach falcon_wire; attach falcon_first
          not for c1: link fv1: its queueing discipline tbf needs every packet
          not for fv2: why
priority  sync, by native XDP; up to 100 packets/s of class high on each core, DSCP is trusted
          problem: no threads
pipeline  on: why
          cores: driver 0, vxlan 1, veth 2
          busy: 0: 1 %, 1: 100 %

NETWORK  VNI  BRIDGE  SUBNETS  ENDPOINTS  STATE

TOOK THE SHORTCUT  PACKETS  WHICH
out                12       to other nodes, from the container to the VXLAN device
wire               3        UDP from other nodes, from the NIC to the container

KERNEL'S PATH  PACKETS  WHICH
new            2        their flow was not seen to come through unchanged yet; it may be refused or translated

AT THE NIC  PACKETS  WHICH
deferred    1        waited until those of class high had gone
`
	if got := table(func(w *tabwriter.Writer) { printStatus(w, r) }); got != want {
		t.Errorf("printed\n%s, want\n%s", got, want)
	}
	r.Shortcut = agent.ShortcutReport{Off: "off by the configuration"}
	r.Priority = agent.PriorityReport{Mode: "sync", Off: "no container has class high"}
	r.Pipeline = agent.PipelineReport{Why: "off: 2 cores"}
	got := table(func(w *tabwriter.Writer) { printStatus(w, r) })
	for _, line := range []string{"shortcut  off: off by the configuration\n", "priority  off: no container has class high\n", "pipeline  off: 2 cores\n"} {
		if !strings.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
}

func TestClassOf(t *testing.T) {
	now := time.Now()
	for want, e := range map[string]agent.EndpointReport{
		"normal":                            {},
		"low, 1 rule":                       {Class: priority.Low, Rules: 1},
		"high, 3 rules":                     {Class: priority.High, Rules: 3},
		"high, reserved by plasma for 1m0s": {Class: priority.High, Reserved: []agent.Reservation{{Owner: "o"}, {Owner: "plasma", Expires: now.Add(time.Minute)}}},
		"low, reserved by operator":         {Class: priority.Low, Reserved: []agent.Reservation{{Owner: "operator"}}},
	} {
		if got := classOf(e, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestPrintPairs(t *testing.T) {
	got := table(func(w *tabwriter.Writer) {
		printPairs(w, []agent.Pair{{
			VNI: 7, Source: netip.MustParseAddr("10.88.1.2"), Destination: netip.MustParseAddr("10.88.2.2"),
			SourceContainer: "c1", SentPackets: 2, SentBytes: 120,
		}})
	})
	const want = `SOURCE          DESTINATION  NETWORK  SENT  BYTES  RECEIVED  BYTES
10.88.1.2 (c1)  10.88.2.2    VNI 7    2     120    0         0
`
	if got != want {
		t.Errorf("printed\n%s, want\n%s", got, want)
	}
}
