package agent

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// Flow is one direction of a connection of TCP or UDP to or from a container of this node.
type Flow struct {
	Network     string         `json:"network"` // "" once the node has none of that VNI
	VNI         uint32         `json:"vni"`
	Protocol    string         `json:"protocol"` // tcp, udp
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// The containers whose the addresses are now, if they are this node's.
	SourceContainer      string `json:"sourceContainer,omitempty"`
	DestinationContainer string `json:"destinationContainer,omitempty"`
	Direction            string `json:"direction"`        // in, out, local: between containers of this node
	Class                string `json:"class"`            // high, normal, low
	Path                 string `json:"path"`             // fast: it takes the shortcut; slow
	Reason               string `json:"reason,omitempty"` // of slow, as in ShortcutReport.Left
	// Packets and Bytes are since the flow was first seen, by both paths, as far as the
	// shortcut was on. Of what the kernel put together, or has yet to take apart, each packet
	// counts, and the headers once. Bytes count from the IP header on.
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Pair counts TCP and UDP from one container to another, by both paths, as far as this node
// sees it and as far as the shortcut was on: Sent is what a container of this node sent,
// Received what reached one. Between containers of one node it has both. The counters never
// run backwards; they begin again at 0 with a reboot, and with an upgrade that changes what
// programs share. A pair is one of addresses: a container that is given an address that
// another had goes on with its counters. Packets and bytes are counted as in Flow.
type Pair struct {
	Network              string     `json:"network"` // "" once the node has none of that VNI
	VNI                  uint32     `json:"vni"`
	Source               netip.Addr `json:"source"`
	Destination          netip.Addr `json:"destination"`
	SourceContainer      string     `json:"sourceContainer,omitempty"` // as in Flow
	DestinationContainer string     `json:"destinationContainer,omitempty"`
	SentPackets          uint64     `json:"sentPackets"`
	SentBytes            uint64     `json:"sentBytes"`
	ReceivedPackets      uint64     `json:"receivedPackets"`
	ReceivedBytes        uint64     `json:"receivedBytes"`
}

// flowsRequest is the CONFIG of protocol.Flows.
type flowsRequest struct {
	Limit int `json:"limit"`
}

// defaultFlows is how many flows are listed if nobody says how many.
const defaultFlows = 1000

// Flows asks the agent whose directory is root for the flows with the most packets, limit of
// them at most; 0 stands for 1000. errdefs.ErrUnavailable: nobody counts them, and the error
// says why.
func Flows(ctx context.Context, root string, limit int) ([]Flow, error) {
	var list []Flow
	err := command(ctx, root, protocol.Flows, flowsRequest{limit}, &list)
	return list, err
}

// Pairs asks the agent whose directory is root for what passed between containers. Errors are
// as those of Flows.
func Pairs(ctx context.Context, root string) ([]Pair, error) {
	var list []Pair
	err := command(ctx, root, protocol.Pairs, nil, &list)
	return list, err
}

func (r *Request) readFlows(config []byte) error {
	var q flowsRequest
	if len(config) > 0 {
		if err := readStrictly(config, &q); err != nil {
			return err
		}
	}
	if q.Limit < 0 {
		return types.NewError(types.ErrInvalidNetworkConfig, "limit of the flows is negative", "")
	}
	r.limit = cmp.Or(q.Limit, defaultFlows)
	return nil
}

// counting are the programs that count flows.
func (a *Agent) counting() (*fastpath.Fastpath, error) {
	s := &a.shortcut
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == nil {
		return nil, types.NewError(types.ErrTryAgainLater, "the programs that count flows are not in the kernel", cmp.Or(s.why, "the agent has just begun"))
	}
	return s.path, nil
}

func (a *Agent) flows(limit int) ([]Flow, error) {
	path, err := a.counting()
	if err != nil {
		return nil, err
	}
	all, err := path.Flows()
	if err != nil && !errors.Is(err, ebpf.ErrIterationAborted) { // many came meanwhile
		return nil, err
	}
	slices.SortStableFunc(all, func(x, y fastpath.Flow) int { return cmp.Compare(y.Packets, x.Packets) })
	all = all[:min(len(all), limit)]
	names := a.names()
	list := make([]Flow, 0, len(all))
	for _, f := range all {
		list = append(list, names.flow(f))
	}
	return list, nil
}

func (a *Agent) pairs() ([]Pair, error) {
	path, err := a.counting()
	if err != nil {
		return nil, err
	}
	all, err := path.Pairs()
	if err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, err
	}
	names := a.names()
	list := make([]Pair, 0, len(all))
	for _, p := range all {
		list = append(list, names.pair(p))
	}
	slices.SortFunc(list, func(x, y Pair) int {
		return cmp.Or(cmp.Compare(y.SentBytes+y.ReceivedBytes, x.SentBytes+x.ReceivedBytes),
			cmp.Compare(x.VNI, y.VNI), x.Source.Compare(y.Source), x.Destination.Compare(y.Destination))
	})
	return list, nil
}

// names are what numbers and addresses are called on this node.
type names struct {
	networks   map[uint32]string
	containers map[home]string
}

// home is an address in a network.
type home struct {
	vni     uint32
	address netip.Addr
}

func (a *Agent) names() names {
	n := names{map[uint32]string{}, map[home]string{}}
	for _, network := range a.networks() {
		n.networks[network.VNI] = network.Name
	}
	for _, r := range a.records() {
		n.add(r)
	}
	return n
}

// add names a container by its addresses. Offers that nobody took are none's.
func (n names) add(r *endpoint.Record) {
	if !r.Complete || r.Offer == r.ContainerID {
		return
	}
	for _, p := range r.Addresses {
		n.containers[home{r.VNI, p.Addr()}] = r.ContainerID
	}
}

func (n names) flow(f fastpath.Flow) Flow {
	flow := Flow{
		Network: n.networks[f.VNI], VNI: f.VNI, Protocol: f.Protocol, Source: f.Source, Destination: f.Destination,
		SourceContainer: n.containers[home{f.VNI, f.Source.Addr()}], DestinationContainer: n.containers[home{f.VNI, f.Destination.Addr()}],
		Direction: f.Direction, Class: f.Class, Path: "slow", Packets: f.Packets, Bytes: f.Bytes,
	}
	switch f.State {
	case "fast":
		flow.Path = f.State
	case "slow":
		flow.Reason = f.Reason
	case "seen":
		flow.Reason = "settling"
	default:
		flow.Reason = f.State
	}
	return flow
}

func (n names) pair(p fastpath.Pair) Pair {
	return Pair{
		Network: n.networks[p.VNI], VNI: p.VNI, Source: p.Source, Destination: p.Destination,
		SourceContainer: n.containers[home{p.VNI, p.Source}], DestinationContainer: n.containers[home{p.VNI, p.Destination}],
		SentPackets: p.SentPackets, SentBytes: p.SentBytes, ReceivedPackets: p.ReceivedPackets, ReceivedBytes: p.ReceivedBytes,
	}
}

// PriorityReport is what the node does with classes.
type PriorityReport struct {
	Mode      string // of the configuration: sync, batch, off
	TrustDSCP bool
	HighRate  int // packets in a second, on each core
	// XDP is how the program that orders packets is attached to the underlay's link: "native",
	// "generic" or, where it isn't, "".
	XDP string `json:",omitempty"`
	// Off is why nothing is ordered; "" if packets are.
	Off string `json:",omitempty"`
	// Problem is what could not be done of it.
	Problem string `json:",omitempty"`
}

func (a *Agent) reportPriority() PriorityReport {
	c := a.config.Priority
	r := PriorityReport{Mode: c.Mode, TrustDSCP: c.TrustDSCP, HighRate: c.HighRate}
	path, err := a.counting()
	if err != nil {
		r.Off = "the programs are not in the kernel, for the reason that the shortcut has"
		return r
	}
	x := path.XDP()
	r.XDP = x.Mode
	switch {
	case c.Mode == "off":
		r.Off = "off by the configuration"
	case !x.Priority:
		r.Off = "no container has class high"
	case x.Mode == "" && x.Problem != nil:
		r.Off = x.Problem.Error()
	case x.Mode == "":
		r.Off = "the underlay's link is not known"
	case x.Problem != nil:
		r.Problem = x.Problem.Error()
	}
	return r
}
