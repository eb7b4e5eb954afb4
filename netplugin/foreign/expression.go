package foreign

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// expression is a part of a rule (struct nft_expr): its kind and the kernel's attributes
// of it, numbers in network order.
type expression struct {
	name       string
	attributes attributes
	chain      string // where an immediate verdict leads, "" for accept, drop and return
	queue      bool   // an immediate verdict hands the packet out
}

func (x expression) has(kind uint16) bool { _, ok := x.attributes[kind]; return ok }

func (x expression) number(kind uint16) uint32 { return number(x.attributes[kind]) }

func (x expression) text(kind uint16) string { return text(x.attributes[kind]) }

// fine are expressions that decide by nothing but what is the same for all packets of a
// flow, that translate, or that count without deciding.
var fine = map[string]bool{
	"bitwise": true, "byteorder": true, "cmp": true, "range": true, "hash": true,
	"fib": true, "rt": true,
	"counter": true, "last": true, "notrack": true,
	"nat": true, "masq": true, "redir": true, "reject": true,
}

// busy are expressions that need every packet, and what a rule with one does.
var busy = map[string]string{
	"limit":        "limits rates",
	"quota":        "counts towards a quota",
	"connlimit":    "limits the number of connections",
	"log":          "logs packets",
	"queue":        "hands packets to a program",
	"dup":          "copies packets",
	"fwd":          "forwards packets to another link",
	"tproxy":       "puts a proxy in between",
	"synproxy":     "puts a proxy in between",
	"flow_offload": "offloads connections to a flowtable",
	"numgen":       "chooses by turns or by chance",
	"dynset":       "remembers what it saw",
	"exthdr":       "looks at, or changes, options of packets",
	"socket":       "asks for the sockets of the host",
	"osf":          "guesses operating systems",
	"xfrm":         "asks for IPsec",
	"inner":        "looks into tunnels",
}

const (
	asksState = "asks for the state of connections"
	perPacket = "looks at what differs between packets of a flow"
	marks     = "sets more than marks"
)

// objection says what a rule with the expression does that needs every packet, or "".
// First tells that only first packets of connections come by it (chains of type nat).
func (t table) objection(x expression, first bool) string {
	if why, ok := busy[x.name]; ok {
		return why
	}
	if fine[x.name] {
		return ""
	}
	switch x.name {
	case "immediate":
		if x.queue {
			return busy["queue"]
		}
		return ""
	case "meta":
		return metaObjection(x)
	case "ct":
		return ctObjection(x, first)
	case "payload":
		return payloadObjection(x, t.family)
	case "lookup":
		return t.setObjection(x.text(unix.NFTA_LOOKUP_SET), first)
	case "objref":
		return t.objectObjection(x, first)
	case "match":
		return matchObjection(x.text(unix.NFTA_MATCH_NAME), x.attributes[unix.NFTA_MATCH_INFO], first)
	case "target":
		return targetObjection(x.text(unix.NFTA_TARGET_NAME))
	default:
		return fmt.Sprintf("uses the expression %q that is not known here", x.name)
	}
}

// Keys that unix has no names for (include/uapi/linux/netfilter/nf_tables.h).
const (
	metaIIFKind  = 26
	metaOIFKind  = 27
	metaBRIPVID  = 28
	metaBRIProto = 29
	metaTimeNS   = 30
	metaTimeDay  = 31
	metaTimeHour = 32
	metaSDIF     = 33
	metaSDIFName = 34
)

func metaObjection(x expression) string {
	key := x.number(unix.NFTA_META_KEY)
	if x.has(unix.NFTA_META_SREG) {
		if key == unix.NFT_META_MARK {
			return ""
		}
		if key == unix.NFT_META_NFTRACE {
			return "traces packets"
		}
		return marks
	}
	switch key {
	case unix.NFT_META_PROTOCOL, unix.NFT_META_NFPROTO, unix.NFT_META_L4PROTO, unix.NFT_META_MARK, unix.NFT_META_PKTTYPE,
		unix.NFT_META_IIF, unix.NFT_META_OIF, unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME,
		unix.NFT_META_IIFTYPE, unix.NFT_META_OIFTYPE, unix.NFT_META_IIFGROUP, unix.NFT_META_OIFGROUP,
		metaIIFKind, metaOIFKind, metaSDIF, metaSDIFName,
		unix.NFT_META_BRI_IIFNAME, unix.NFT_META_BRI_OIFNAME, metaBRIPVID, metaBRIProto,
		unix.NFT_META_SKUID, unix.NFT_META_SKGID, unix.NFT_META_CGROUP, // of the host's own sockets
		unix.NFT_META_RTCLASSID:
		return ""
	case unix.NFT_META_PRANDOM:
		return busy["numgen"]
	case metaTimeNS, metaTimeDay, metaTimeHour:
		return "goes by the time"
	case unix.NFT_META_LEN, unix.NFT_META_PRIORITY, unix.NFT_META_CPU:
		return perPacket
	default:
		return fmt.Sprintf("asks for the property %d of packets that is not known here", key)
	}
}

func ctObjection(x expression, first bool) string {
	switch {
	case x.has(unix.NFTA_CT_SREG) && x.number(unix.NFTA_CT_KEY) != unix.NFT_CT_MARK:
		return marks
	case x.has(unix.NFTA_CT_SREG), first:
		return ""
	default:
		return asksState
	}
}

// payloadObjection lets link layers, addresses, the next protocol and ports be read.
func payloadObjection(x expression, family byte) string {
	if x.has(unix.NFTA_PAYLOAD_SREG) {
		return "changes packets"
	}
	begin, length := x.number(unix.NFTA_PAYLOAD_OFFSET), x.number(unix.NFTA_PAYLOAD_LEN)
	var same bool
	switch x.number(unix.NFTA_PAYLOAD_BASE) {
	case unix.NFT_PAYLOAD_LL_HEADER:
		same = true
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		same = sameInFlow(family, begin, length)
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		same = begin+length <= 4
	}
	if !same {
		return perPacket
	}
	return ""
}

// sameInFlow tells whether bytes of an IP header are the next protocol or addresses. In
// families that have both versions the version isn't known: the first bytes of an IPv6
// source are an IPv4 packet's TTL and protocol.
func sameInFlow(family byte, begin, length uint32) bool {
	v4 := begin == 9 && length == 1 || begin >= 12 && begin+length <= 20
	v6 := begin == 6 && length == 1 || begin >= 8 && begin+length <= 40
	switch family {
	case unix.NFPROTO_IPV4:
		return v4
	case unix.NFPROTO_IPV6:
		return v6
	default:
		return v4 || v6 && (begin != 8 || length > 2)
	}
}

func (t table) setObjection(name string, first bool) string {
	s := t.sets[name]
	switch {
	case s == nil:
		return fmt.Sprintf("looks into the set %s that could not be read", name)
	case s.fleeting:
		return fmt.Sprintf("looks into the set %s, whose elements come and go by themselves", name)
	}
	for _, x := range s.expressions {
		if why := t.objection(x, first); why != "" {
			return why
		}
	}
	return ""
}

func (t table) objectObjection(x expression, first bool) string {
	kind := x.number(unix.NFTA_OBJREF_IMM_TYPE)
	if name := x.text(unix.NFTA_OBJREF_SET_NAME); name != "" {
		if why := t.setObjection(name, first); why != "" {
			return why
		}
		kind = t.sets[name].object
	}
	switch kind {
	case unix.NFT_OBJECT_COUNTER:
		return ""
	case unix.NFT_OBJECT_QUOTA:
		return busy["quota"]
	case unix.NFT_OBJECT_LIMIT:
		return busy["limit"]
	case unix.NFT_OBJECT_CONNLIMIT:
		return busy["connlimit"]
	case unix.NFT_OBJECT_CT_HELPER:
		return "has a helper follow connections"
	default:
		return fmt.Sprintf("uses an object of kind %d", kind)
	}
}
