package firewall

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Reasons for drops in the inet table, besides UnknownLink. A reason has at most 15 bytes.
const (
	UnknownVTEP   = "unknown-vtep"   // to the VXLAN port, by no known node
	ForgedVXLAN   = "forged-vxlan"   // to a VXLAN port, from inside a network
	Crossed       = "crossed"        // from one network to another
	SpoofedSource = "spoofed-source" // by a device its source is not behind
)

var inetReasons = []string{UnknownLink, UnknownVTEP, ForgedVXLAN, Crossed, SpoofedSource}

// inetSets are the inet table's sets.
var inetSets = []set{
	{name: setDevices, key: []nftables.SetDatatype{nftables.TypeIFName}},
	{name: setTunnels, key: []nftables.SetDatatype{nftables.TypeIFName}},
	{name: setSame, key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIFName}},
	{name: setVTEPs4, key: []nftables.SetDatatype{nftables.TypeIPAddr}},
	{name: setVTEPs6, key: []nftables.SetDatatype{nftables.TypeIP6Addr}},
	{name: setSubnets4, key: []nftables.SetDatatype{nftables.TypeIPAddr}, interval: true},
	{name: setSubnets6, key: []nftables.SetDatatype{nftables.TypeIP6Addr}, interval: true},
	{name: setOwn4, key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIPAddr}, interval: true},
	{name: setOwn6, key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIP6Addr}, interval: true},
	{name: setMasq4, key: []nftables.SetDatatype{nftables.TypeIPAddr}, interval: true},
	{name: setMasq6, key: []nftables.SetDatatype{nftables.TypeIP6Addr}, interval: true},
	{name: setInside4, key: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIPAddr}, interval: true},
	{name: setInside6, key: []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeIP6Addr}, interval: true},
	drops,
}

// Priorities (include/uapi/linux/netfilter_ipv4.h): sources are judged before connection
// tracking sees the packet, and masquerading comes after everybody's source NAT (100).
const (
	priorityRaw    = -300
	priorityFilter = 0
	priorityMasq   = 110
)

// inetTable is the inet table for a VXLAN port; what it applies to is in the sets.
func inetTable(port uint16) table {
	toVXLAN := when(protocol(unix.IPPROTO_UDP), is(udpDestination, binary.BigEndian.AppendUint16(nil, port)...))
	chains := dropChains(inetReasons)
	chains = append(chains, chain{name: "source", rules: []rule{
		// Link-local sources and duplicate address detection stay on their link.
		when(family6(), masked(ip6Source, prefixMask(10), append([]byte{0xfe, 0x80}, make([]byte, 14)...)), accept()),
		when(family6(), is(ip6Source, make([]byte, 16)...), accept()),
		when(routedBack(), accept()),
		// Without masquerading another node answers a container by the tunnel, as itself.
		when(fromLink(setTunnels), family4(), in(ip4Source, setVTEPs4), accept()),
		when(fromLink(setTunnels), family6(), in(ip6Source, setVTEPs6), accept()),
		refuse(SpoofedSource),
	}}, chain{name: "vxlan", rules: []rule{
		when(fromLink(setDevices), refuse(ForgedVXLAN)),
		when(family4(), in(ip4Source, setVTEPs4), accept()),
		when(family6(), in(ip6Source, setVTEPs6), accept()),
		refuse(UnknownVTEP),
	}}, chain{name: "local", rules: []rule{
		when(family4(), fromLinkWith(ip4Destination, setOwn4), accept()),
		when(family4(), in(ip4Destination, setSubnets4), refuse(Crossed)),
		when(family6(), fromLinkWith(ip6Destination, setOwn6), accept()),
		when(family6(), in(ip6Destination, setSubnets6), refuse(Crossed)),
	}}, chain{name: "leaving4", rules: []rule{
		when(rule{ip4Source.load(first), ip4Destination.load(second4), lookup(setInside4)}, accept()),
		when(below(ip4Destination, 224, 0, 0, 0), masquerade()), // no multicast, no broadcast
	}}, chain{name: "leaving6", rules: []rule{
		when(rule{ip6Source.load(first), ip6Destination.load(second), lookup(setInside6)}, accept()),
		when(below(ip6Destination, append([]byte{0xff}, make([]byte, 15)...)...), masquerade()),
	}})
	return table{
		family: nftables.TableFamilyINet,
		sets:   inetSets,
		chains: append(
			chains,
			filter("prerouting", nftables.ChainHookPrerouting, priorityRaw,
				// A container's link that is in no bridge comes to no hook of the bridge
				// table. What a bridge took in comes with the bridge as its link.
				when(fromLinkLike(linkPrefix), refuse(UnknownLink)),
				// Bridges too: a container was judged at its port, but nobody judged what
				// comes by a port that isn't a container's, and no match tells it here.
				when(fromLink(setDevices), to("source")),
			),
			filter("input", nftables.ChainHookInput, priorityFilter,
				when(toVXLAN, to("vxlan")),
				when(fromLink(setDevices), to("local")),
			),
			filter("forward", nftables.ChainHookForward, priorityFilter,
				// What stays in its network can't be taken for a node's packet: the
				// overlay listens on the underlay only, and on this side of a tunnel the
				// input chain refuses it. Bridged packets end here too.
				when(between(setSame), accept()),
				// Masqueraded, it would come from this node, whom the others know.
				when(fromLink(setDevices), toVXLAN, refuse(ForgedVXLAN)),
				when(fromLink(setDevices), toLink(setDevices), refuse(Crossed)),
			),
			chain{
				name: "postrouting", kind: nftables.ChainTypeNAT,
				hook: nftables.ChainHookPostrouting, priority: nftables.ChainPriorityRef(priorityMasq),
				rules: []rule{
					when(toLink(setDevices), accept()),
					when(family4(), in(ip4Source, setMasq4), to("leaving4")),
					when(family6(), in(ip6Source, setMasq6), to("leaving6")),
				},
			},
		),
	}
}

// masquerade gives a connection the address of the link it leaves by. Ports are drawn at
// random: connections made at the same time on several processors would else choose the
// same one and lose their first packet.
func masquerade() rule { return rule{&expr.Masq{FullyRandom: true}} }

// prefixMask is the mask of an IPv6 prefix.
func prefixMask(bits int) []byte {
	mask := make([]byte, 16)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}
