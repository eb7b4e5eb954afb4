package firewall

import (
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Reasons for drops in the bridge table. A reason has at most 15 bytes.
const (
	UnknownLink   = "unknown-link"   // by a link that was not allowed, or in no bridge
	SpoofedMAC    = "spoofed-mac"    // with another's Ethernet source
	SpoofedIPv4   = "spoofed-ipv4"   // with another's source
	SpoofedIPv6   = "spoofed-ipv6"   // with another's source
	SpoofedARP    = "spoofed-arp"    // as another, or no IPv4 over Ethernet
	SpoofedND     = "spoofed-nd"     // a neighbour message for another's address
	ForgedRouter  = "forged-router"  // a router advertisement or a redirect
	EtherType     = "ethertype"      // neither IPv4 nor ARP nor IPv6, or in a VLAN
	Malformed     = "malformed"      // IPv6 headers that can't be followed to their end
	ReservedGroup = "reserved-group" // to a group bridges keep for themselves
)

var bridgeReasons = []string{
	UnknownLink, SpoofedMAC, SpoofedIPv4, SpoofedIPv6, SpoofedARP, SpoofedND,
	ForgedRouter, EtherType, Malformed, ReservedGroup,
}

// endpointSets are the bridge table's sets that Allow and Deny change.
var endpointSets = []set{
	{name: setLinks, key: []nftables.SetDatatype{nftables.TypeIFName}},
	{name: setMACs, key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr}},
	{name: setIPv4, key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIPAddr}},
	{name: setIPv6, key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIP6Addr}},
}

// ICMPv6 types (RFC 4861, RFC 2710, RFC 3810).
const (
	listenerReport       = 131
	listenerDone         = 132
	routerAdvertisement  = 134
	neighbourSolicit     = 135
	neighbourAdvertise   = 136
	redirect             = 137
	listenerReport2      = 143
	arpRequest           = 1
	priorityBridgeBefore = -400 // before the bridge's DNAT (-300) and br_netfilter (0)
)

// bridgeTable is the bridge table; whom it applies to is in the sets.
func bridgeTable() table {
	container := fromLinkLike(linkPrefix)
	chains := dropChains(bridgeReasons)
	chains = append(chains, chain{name: "sender", rules: []rule{
		when(fromLinkWith(etherSource, setMACs), to("type")),
		when(fromLink(setLinks), refuse(SpoofedMAC)),
		refuse(UnknownLink),
	}}, chain{name: "type", rules: []rule{
		when(is(etherType, 0x08, 0x00), to("ipv4")),
		when(is(etherType, 0x86, 0xdd), to("ipv6")),
		when(is(etherType, 0x08, 0x06), to("arp")),
		refuse(EtherType),
	}}, chain{name: "ipv4", rules: []rule{
		when(fromLinkWith(ip4Source, setIPv4), accept()),
		refuse(SpoofedIPv4),
	}}, chain{name: "arp", rules: []rule{
		when(
			is(arpFormat, 0, 1, 0x08, 0x00, 6, 4),
			fromLinkWith(arpSenderMAC, setMACs), fromLinkWith(arpSenderIP, setIPv4), accept(),
		),
		when( // a probe, which nobody learns from (RFC 5227)
			is(arpFormat, 0, 1, 0x08, 0x00, 6, 4), is(arpOperation, 0, arpRequest),
			fromLinkWith(arpSenderMAC, setMACs), is(arpSenderIP, 0, 0, 0, 0), accept(),
		),
		refuse(SpoofedARP),
	}}, chain{name: "ipv6", rules: []rule{
		when(fromLinkWith(ip6Source, setIPv6), to("transport")),
		when(is(ip6Source, make([]byte, 16)...), protocol(unix.IPPROTO_ICMPV6), to("unspecified")),
		refuse(SpoofedIPv6),
	}}, chain{name: "transport", rules: []rule{
		when(otherProtocol(unix.IPPROTO_ICMPV6), accept()),
		when(protocol(unix.IPPROTO_ICMPV6), to("icmpv6")),
		refuse(Malformed),
	}}, chain{name: "icmpv6", rules: []rule{
		when(laterFragment(), accept()), // whose first byte is data and no type
		when(is(icmp6Type, neighbourAdvertise), to("advertise")),
		when(is(icmp6Type, routerAdvertisement), refuse(ForgedRouter)),
		when(is(icmp6Type, redirect), refuse(ForgedRouter)),
		when(readable(icmp6Type), accept()),
		refuse(Malformed),
	}}, chain{name: "advertise", rules: []rule{
		when(fromLinkWith(neighbourTarget, setIPv6), accept()),
		refuse(SpoofedND),
	}}, chain{name: "unspecified", rules: []rule{
		when(is(icmp6Type, neighbourSolicit), to("advertise")), // detection of duplicates: one's own only
		when(is(icmp6Type, listenerReport2), accept()),
		when(is(icmp6Type, listenerReport), accept()),
		when(is(icmp6Type, listenerDone), accept()),
		refuse(SpoofedIPv6),
	}})
	reserved := masked(etherDestination,
		[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}, []byte{0x01, 0x80, 0xc2, 0, 0, 0})
	return table{
		family: nftables.TableFamilyBridge,
		sets:   append([]set{drops}, endpointSets...),
		chains: append(
			chains,
			filter("prerouting", nftables.ChainHookPrerouting, priorityBridgeBefore,
				when(container, to("sender")),
			),
			// Frames to reserved groups come to this hook without the other, and the
			// bridge learns their source.
			filter("input", nftables.ChainHookInput, priorityBridgeBefore,
				when(container, reserved, refuse(ReservedGroup)),
			),
		),
	}
}
