package foreign

import "fmt"

// Extensions of iptables that rules of iptables-nft use as they are (net/netfilter/nft_compat.c).

// fineMatches decide by what is the same for all packets of a flow. Not among them is set:
// members of an IP set change without any notice.
var fineMatches = map[string]bool{
	"comment": true, "addrtype": true, "multiport": true, "mark": true, "physdev": true,
	"iprange": true, "mac": true, "pkttype": true, "devgroup": true, "rpfilter": true,
	"udp": true, "udplite": true, "sctp": true, "icmp": true, "icmp6": true,
}

// stateMatches ask connection tracking.
var stateMatches = map[string]bool{"conntrack": true, "state": true, "connmark": true}

var busyMatches = map[string]string{
	"limit": busy["limit"], "hashlimit": busy["limit"], "rateest": busy["limit"],
	"quota": busy["quota"], "connlimit": busy["connlimit"], "connbytes": "counts the bytes of connections",
	"statistic": busy["numgen"], "recent": busy["dynset"], "time": "goes by the time",
	"socket": busy["socket"], "osf": busy["osf"], "policy": busy["xfrm"],
	"set":    "looks into an IP set, whose members change without notice",
	"length": perPacket, "ttl": perPacket, "hl": perPacket, "tos": perPacket, "dscp": perPacket, "ecn": perPacket,
	"tcpmss": perPacket, "string": perPacket, "u32": perPacket,
}

func matchObjection(name string, info []byte, first bool) string {
	switch {
	case fineMatches[name], stateMatches[name] && first:
		return ""
	case stateMatches[name]:
		return asksState
	case name == "tcp":
		return tcpObjection(info)
	case busyMatches[name] != "":
		return busyMatches[name]
	default:
		return fmt.Sprintf("uses the match %q that is not known here", name)
	}
}

// tcpObjection lets ports be read, not flags and options (struct xt_tcp,
// include/uapi/linux/netfilter/xt_tcpudp.h).
func tcpObjection(info []byte) string {
	const option, mask = 8, 9
	if len(info) <= mask || info[option] != 0 || info[mask] != 0 {
		return perPacket
	}
	return ""
}

// fineTargets translate, refuse or mark.
var fineTargets = map[string]bool{
	"MASQUERADE": true, "DNAT": true, "SNAT": true, "REDIRECT": true, "NETMAP": true,
	"REJECT": true, "MARK": true,
}

var busyTargets = map[string]string{
	"LOG": busy["log"], "NFLOG": busy["log"], "NFQUEUE": busy["queue"], "TEE": busy["dup"],
	"TPROXY": busy["tproxy"], "SYNPROXY": busy["synproxy"], "TRACE": "traces packets",
	"SET": busy["dynset"], "RATEEST": busy["limit"], "FLOWOFFLOAD": busy["flow_offload"],
	"CONNMARK": asksState, "CT": "directs connection tracking",
	"TCPMSS": "changes packets", "TCPOPTSTRIP": "changes packets", "TOS": "changes packets", "DSCP": "changes packets",
	"ECN": "changes packets", "TTL": "changes packets", "HL": "changes packets", "CHECKSUM": "changes packets",
}

func targetObjection(name string) string {
	switch {
	case fineTargets[name]:
		return ""
	case busyTargets[name] != "":
		return busyTargets[name]
	default:
		return fmt.Sprintf("uses the target %q that is not known here", name)
	}
}
