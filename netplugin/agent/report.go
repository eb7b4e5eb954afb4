package agent

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/internal/version"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
	"github.com/peregrine-dev/peregrine/netplugin/peers"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// Report is how the agent is.
type Report struct {
	Node     string
	Address  netip.Addr // in the underlay
	Version  string
	Networks []NetworkReport
	Peers    []peers.Node // the other nodes
	// Source is where the other nodes are known from; nil on a node by itself.
	Source    *SourceReport `json:",omitempty"`
	Endpoints []EndpointReport
	Drops     []firewall.Drop
	Shortcut  ShortcutReport
	Priority  PriorityReport
	Pipeline  PipelineReport
}

// ShortcutReport is what becomes of packets that may leave the kernel's path.
type ShortcutReport struct {
	// Off is why none does; "" if they do.
	Off string `json:",omitempty"`
	// Problem is what could not be attached or told the programs.
	Problem string `json:",omitempty"`
	// Slow is why packets of a container's link don't.
	Slow map[string]string `json:",omitempty"`
	// Waiting is how many containers came so lately that their links have no programs yet.
	Waiting int `json:",omitempty"`
	fastpath.Counts
}

// SourceReport is how the source of the other nodes is.
type SourceReport struct {
	Connected bool      // the list of peers is the present one
	Since     time.Time // when that became so
	Problem   string    `json:",omitempty"`
	// Rejected are nodes that can't be right, with the reason.
	Rejected map[string]string `json:",omitempty"`
}

// NetworkReport is how a network is on this node.
type NetworkReport struct {
	Name           string
	VNI            uint32
	Bridge, Device string // the links
	Subnets        []netip.Prefix
	Endpoints      int
	Problem        string `json:",omitempty"` // what could not be set up
	// Leaving is that the network isn't in the configuration any more and goes with its last
	// container.
	Leaving bool `json:",omitempty"`
}

// EndpointReport is an attachment.
type EndpointReport struct {
	Container, Interface, Network string
	Addresses                     []netip.Prefix
	MAC, Link, Namespace          string
	Created                       time.Time
	// Pooled is whether its namespace was made ahead.
	Pooled bool `json:",omitempty"`
	// Class is that of packets which no rule gives another, and Rules is how many of these
	// there are; with a reservation there is none that counts.
	Class priority.Class
	Rules int `json:",omitempty"`
	// Reserved are the reservations for it, the one in force last.
	Reserved []Reservation `json:",omitempty"`
}

// Report tells how the agent is.
func (a *Agent) Report() Report {
	networks := a.networks()
	a.mu.Lock()
	r := Report{Node: a.config.Node, Address: a.address, Version: version.Version}
	r.Peers = slices.Clone(a.nodes)
	count := map[uint32]int{}
	for _, e := range a.endpoints {
		count[e.VNI]++
	}
	for i, n := range networks {
		report := NetworkReport{
			Name: n.Name, VNI: n.VNI, Bridge: overlay.Bridge(n.VNI), Device: overlay.Device(n.VNI),
			Subnets: n.Subnets, Endpoints: count[n.VNI],
		}
		if c, known := a.state[n.VNI]; !known {
			report.Problem = "being set up"
		} else if c.problem != nil {
			report.Problem = c.problem.Error()
		}
		report.Leaving = i >= len(a.config.Networks)
		r.Networks = append(r.Networks, report)
	}
	a.mu.Unlock()
	if source, ok := a.source.(peers.Reporter); ok {
		r.Source = reportSource(source.Status())
	}
	reserved := a.reserved(time.Now())
	for _, e := range a.records() {
		r.Endpoints = append(r.Endpoints, a.reportOf(e, reserved))
	}
	slices.SortFunc(r.Endpoints, func(x, y EndpointReport) int {
		return strings.Compare(x.Container+"/"+x.Interface, y.Container+"/"+y.Interface)
	})
	drops, err := a.firewall.Drops()
	if err != nil {
		log.L.WithError(err).Warn("read what the firewall dropped")
	}
	r.Drops = drops
	r.Shortcut, r.Priority, r.Pipeline = a.shortcut.report(), a.reportPriority(), a.pipeline.get()
	return r
}

func reportSource(s peers.Status) *SourceReport {
	r := &SourceReport{Connected: s.Connected, Since: s.Since}
	if s.Err != nil {
		r.Problem = s.Err.Error()
	}
	for _, bad := range s.Rejected {
		if r.Rejected == nil {
			r.Rejected = map[string]string{}
		}
		r.Rejected[bad.Name] = bad.Err.Error()
	}
	return r
}

func (a *Agent) reportOf(e *endpoint.Record, reserved []Reservation) EndpointReport {
	policy := a.policyOf(e)
	r := EndpointReport{
		Container: e.ContainerID, Interface: e.IfName, Network: e.Network, Addresses: e.Addresses,
		MAC: e.MAC.String(), Link: e.Link, Namespace: e.Namespace, Created: e.Created, Pooled: e.Offer != "",
		Class: policy.Default, Rules: len(policy.Rules),
	}
	for _, s := range reserved {
		if s.covers(keyOf(e)) {
			r.Reserved = append(r.Reserved, s)
		}
	}
	return r
}
