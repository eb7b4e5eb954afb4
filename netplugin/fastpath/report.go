package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// Counts are packets by what the programs decided, since they were first attached.
type Counts struct {
	// Taken took the shortcut, by where: "wire", "tunnel", "out", "local".
	Taken map[string]uint64
	// Left went on by the kernel's path, by the reason.
	Left map[string]uint64
	// Steered were moved by XDP: "deferred", "promoted", "capped", "steered", "second".
	Steered map[string]uint64
}

// names of enum reason in package bpf's maps.h.
var names = map[bpf.FalconReason]string{
	bpf.FalconReasonREASON_WIRE: "wire", bpf.FalconReasonREASON_TUNNEL: "tunnel",
	bpf.FalconReasonREASON_OUT: "out", bpf.FalconReasonREASON_LOCAL: "local",
	bpf.FalconReasonREASON_OFF: "off", bpf.FalconReasonREASON_NEW: "new", bpf.FalconReasonREASON_SETTLING: "settling",
	bpf.FalconReasonREASON_UNKNOWN: "unknown", bpf.FalconReasonREASON_PEER: "peer", bpf.FalconReasonREASON_PROTOCOL: "protocol",
	bpf.FalconReasonREASON_FRAGMENT: "fragment", bpf.FalconReasonREASON_OPTIONS: "options", bpf.FalconReasonREASON_MALFORMED: "malformed",
	bpf.FalconReasonREASON_TTL: "ttl", bpf.FalconReasonREASON_MTU: "mtu", bpf.FalconReasonREASON_ECN: "ecn",
	bpf.FalconReasonREASON_CHECKSUM: "checksum", bpf.FalconReasonREASON_SHAPED: "shaped", bpf.FalconReasonREASON_ADDRESS: "address",
	bpf.FalconReasonREASON_FULL: "full", bpf.FalconReasonREASON_PAIRS: "pairs", bpf.FalconReasonREASON_UNSUPPORTED: "unsupported",
	bpf.FalconReasonREASON_DEFERRED: "deferred", bpf.FalconReasonREASON_PROMOTED: "promoted", bpf.FalconReasonREASON_CAPPED: "capped",
	bpf.FalconReasonREASON_STEERED: "steered", bpf.FalconReasonREASON_SECOND: "second",
}

// meanings are what packets that are counted by a name have in common, for people.
var meanings = map[string]string{
	"wire":   "UDP from other nodes, from the NIC to the container",
	"tunnel": "TCP and large UDP from other nodes, from the VXLAN device to the container",
	"out":    "to other nodes, from the container to the VXLAN device",
	"local":  "between containers of this node",

	"off":         "came while the shortcut was off",
	"new":         "their flow was not seen to come through unchanged yet; it may be refused or translated",
	"settling":    "earlier packets of their flow were still under way",
	"unknown":     "source or destination is no container that this node knows",
	"peer":        "came from another node than the source's",
	"protocol":    "neither TCP nor UDP",
	"fragment":    "fragments, or of a flow that had some",
	"options":     "IPv4 options or IPv6 extension headers",
	"malformed":   "lengths, versions or checksums that are for the kernel to judge",
	"ttl":         "their TTL ends here, which the kernel answers",
	"mtu":         "too long for the next link, which the kernel answers",
	"ecn":         "congestion marks that are for the kernel to judge",
	"checksum":    "UDP without a checksum, or whose tunnel has one that doesn't hold",
	"shaped":      "something at a container's link needs every packet",
	"address":     "Ethernet addresses other than their flow's",
	"full":        "there was no room for their flow",
	"pairs":       "counted for no pair of containers: there was no room",
	"unsupported": "this kernel can't take them out of a tunnel over the other version of IP at the NIC",

	"deferred": "waited until those of class high had gone",
	"promoted": "were of class high, and went first",
	"capped":   "were of class high beyond its rate, and waited",
	"steered":  "were moved to another core",
	"second":   "chose a core again, the first being loaded",
}

// Meaning is a line on the packets that Counts has by a name; "" if it has none of that name.
func Meaning(name string) string { return meanings[name] }

// XDP is how the program stands that orders packets and moves them to other cores.
type XDP struct {
	Priority bool   // somebody asks for class high, so packets are to be ordered
	Mode     string // how it is attached: "native", "generic", or "" where it isn't
	Problem  error  // why it isn't attached though it is wanted, or doesn't do all of it
}

// XDP tells it.
func (f *Fastpath) XDP() XDP {
	f.mu.Lock()
	defer f.mu.Unlock()
	return XDP{f.settings.Flags&bpf.FalconFlagFLAG_PRIORITY != 0, f.xdp.mode, f.xdp.problem}
}

// Counts reads the counters.
func (f *Fastpath) Counts() (Counts, error) {
	c := Counts{Taken: map[string]uint64{}, Left: map[string]uint64{}, Steered: map[string]uint64{}}
	for reason, name := range names {
		var each []bpf.FalconCount
		if err := f.objects.FalconCounts.Lookup(uint32(reason), &each); err != nil {
			return c, fmt.Errorf("read the counters of the programs: %w", err)
		}
		var sum uint64
		for _, one := range each {
			sum += one.Packets
		}
		if sum == 0 {
			continue
		}
		switch {
		case reason <= bpf.FalconReasonREASON_LOCAL:
			c.Taken[name] = sum
		case reason < bpf.FalconReasonREASON_DEFERRED:
			c.Left[name] = sum
		default:
			c.Steered[name] = sum
		}
	}
	return c, nil
}

// Flow is one direction of a connection, as the programs know it.
type Flow struct {
	VNI                           uint32
	Protocol                      string // "tcp", "udp"
	Source, Destination           netip.AddrPort
	Direction                     string // "in", "out", "local": seen from this node
	State                         string // "new", "seen", "fast" (it takes the shortcut), "slow"
	Reason                        string `json:",omitempty"` // of slow
	Class                         string
	Packets, Bytes, Sent, Arrived uint64
	Seen                          time.Duration `json:"-"` // since boot, the last packet on the kernel's path
}

// Flows lists flows, those of earlier epochs among them; old ones may be missing, for the
// table has room for some only. A flow that changes meanwhile may be there twice or not at all.
func (f *Fastpath) Flows() ([]Flow, error) {
	var all []Flow
	var key bpf.FalconFlowKey
	var value bpf.FalconFlow
	entries := f.objects.FalconFlows.Iterate()
	for entries.Next(&key, &value) {
		all = append(all, flowOf(key, value))
	}
	if err := entries.Err(); err != nil {
		return all, fmt.Errorf("read the flows: %w", err)
	}
	return all, nil
}

func flowOf(key bpf.FalconFlowKey, value bpf.FalconFlow) Flow {
	flow := Flow{
		VNI: key.Network >> 8, Protocol: "udp",
		Source:      netip.AddrPortFrom(netipOf(key.Source), port(key.SourcePort)),
		Destination: netip.AddrPortFrom(netipOf(key.Destination), port(key.DestinationPort)),
		Direction:   []string{"in", "out", "local"}[value.Direction%3],
		State:       []string{"new", "seen", "fast", "slow"}[value.State%4],
		Class:       []string{"normal", "high", "low"}[value.Class%3],
		Packets:     value.Packets, Bytes: value.Bytes, Sent: value.Sent, Arrived: value.Arrived,
		Seen: time.Duration(value.Seen),
	}
	if key.Network&0xff == 6 {
		flow.Protocol = "tcp"
	}
	if value.State == bpf.FalconStateSTATE_SLOW {
		flow.Reason = names[value.Reason]
	}
	return flow
}

// port is in network order, in the maps.
func port(p uint16) uint16 { return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, p)) }

// Pair counts TCP and UDP between two containers, by whatever path, as far as this node sees
// it: what its own containers sent, and what they got. Bytes count from the IP header on.
type Pair struct {
	VNI                            uint32
	Source, Destination            netip.Addr
	SentPackets, SentBytes         uint64
	ReceivedPackets, ReceivedBytes uint64
}

// Pairs lists the pairs.
func (f *Fastpath) Pairs() ([]Pair, error) {
	var all []Pair
	var key bpf.FalconPairKey
	var each []bpf.FalconPair
	entries := f.objects.FalconPairs.Iterate()
	for entries.Next(&key, &each) {
		p := Pair{VNI: key.Vni, Source: netipOf(key.Source), Destination: netipOf(key.Destination)}
		for _, one := range each {
			p.SentPackets += one.SentPackets
			p.SentBytes += one.SentBytes
			p.ReceivedPackets += one.ReceivedPackets
			p.ReceivedBytes += one.ReceivedBytes
		}
		all = append(all, p)
	}
	if err := entries.Err(); err != nil {
		return all, fmt.Errorf("read the counters of pairs: %w", err)
	}
	return all, nil
}

// Prune forgets the counters of pairs of whose containers none is on this node any more.
func (f *Fastpath) Prune() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var key bpf.FalconPairKey
	var each []bpf.FalconPair
	var gone []bpf.FalconPairKey
	entries := f.objects.FalconPairs.Iterate()
	for entries.Next(&key, &each) {
		var slot uint32
		here := false
		for _, a := range []bpf.FalconAddress{key.Source, key.Destination} {
			here = here || f.objects.FalconIps.Lookup(&bpf.FalconEndpointKey{Vni: key.Vni, Address: a}, &slot) == nil
		}
		if !here {
			gone = append(gone, key)
		}
	}
	err := entries.Err()
	for _, key := range gone {
		err = errors.Join(err, remove(f.objects.FalconPairs, key))
	}
	return err
}
