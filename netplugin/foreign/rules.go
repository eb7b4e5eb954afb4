package foreign

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// table is a table of nftables as far as it matters here.
type table struct {
	family byte // NFPROTO_*
	name   string
	idle   bool // dormant: its chains hook nothing
	chains []*chain
	sets   map[string]*set
}

type chain struct {
	name    string
	kind    string // filter, nat or route
	hook    int    // NF_INET_*, or of bridge and netdev alike; noHook if it is no base chain
	devices []string
	rules   [][]expression
}

const noHook = -1

type set struct {
	fleeting    bool         // elements come and go without notice: by time, or with packets
	object      uint32       // NFT_OBJECT_* of a map to objects
	expressions []expression // evaluated for each packet that is found
	chains      []string     // of a verdict map
}

// What every link of interest is to netfilter: its name, and whether it's the NIC.
type place struct {
	name string
	nic  bool
}

// objectionOf says what in a set of tables needs every packet, or "".
func objectionOf(tables []table, places []place) string {
	for _, t := range tables {
		if t.idle || ours(t.family, t.name) {
			continue
		}
		w := walk{table: t, seen: make(map[visit]bool)}
		for _, c := range t.chains {
			if !onPath(t.family, c, places) {
				continue
			}
			if why := w.chain(c, c.kind == "nat" || takesTunnels(t.family, c)); why != "" {
				return why
			}
		}
	}
	return ""
}

// tableName is that of our two tables, in the families inet and bridge.
const tableName = "falcon"

func ours(family byte, name string) bool {
	return name == tableName && (family == unix.NFPROTO_INET || family == unix.NFPROTO_BRIDGE)
}

// Hooks that unix has no names for (include/uapi/linux/netfilter.h).
const (
	inetIngress  = 5
	netdevEgress = 1
)

// onPath tells whether a base chain sees packets that the shortcut would take from it. In
// output there are the host's own only, and outer ones that pass there in any case. A
// bridge's output however is passed by all that is routed to its containers.
func onPath(family byte, c *chain, places []place) bool {
	switch {
	case c.hook == noHook:
		return false
	case family == unix.NFPROTO_BRIDGE:
		return true
	case family == unix.NFPROTO_NETDEV, family == unix.NFPROTO_INET && c.hook == inetIngress:
		// The shortcut's packets leave by the NIC as others do.
		egress := family == unix.NFPROTO_NETDEV && c.hook == netdevEgress
		return slices.ContainsFunc(places, func(p place) bool {
			return !(egress && p.nic) && slices.ContainsFunc(c.devices, p.is)
		})
	case family == unix.NFPROTO_IPV4, family == unix.NFPROTO_IPV6, family == unix.NFPROTO_INET:
		return c.hook != unix.NF_INET_LOCAL_OUT
	case family == unix.NFPROTO_ARP:
		return false // never on the shortcut
	default:
		return true
	}
}

// takesTunnels tells whether a chain sees none of the shortcut's packets but outer ones, as
// they come to this node. Those of a tunnel's flow have no answers: what was let in as a new
// connection once is let in as one again.
func takesTunnels(family byte, c *chain) bool {
	return c.hook == unix.NF_INET_LOCAL_IN && (family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6 || family == unix.NFPROTO_INET)
}

// is tells whether a device's name, or its beginning with a star, is this one's.
func (p place) is(device string) bool {
	if begin, ok := strings.CutSuffix(device, "*"); ok {
		return strings.HasPrefix(p.name, begin)
	}
	return device == p.name
}

// walk follows a table's chains, each once where the state of connections makes no
// difference (in nat, which sees their first packets, and in input) and once for all.
type walk struct {
	table table
	seen  map[visit]bool
}

type visit struct {
	chain string
	first bool
}

func (w walk) chain(c *chain, first bool) string {
	if w.seen[visit{c.name, first}] {
		return ""
	}
	w.seen[visit{c.name, first}] = true
	for _, rule := range c.rules {
		for _, x := range rule {
			if why := w.table.objection(x, first); why != "" {
				return fmt.Sprintf("table %s %s, chain %s: a rule %s, which needs every packet", familyName(w.table.family), w.table.name, c.name, why)
			}
			for _, name := range w.table.targets(x) {
				i := slices.IndexFunc(w.table.chains, func(c *chain) bool { return c.name == name })
				if i < 0 {
					continue // to be deleted
				}
				if why := w.chain(w.table.chains[i], first); why != "" {
					return why
				}
			}
		}
	}
	return ""
}

// targets are the chains that an expression may lead to.
func (t table) targets(x expression) []string {
	switch x.name {
	case "immediate":
		if x.chain != "" {
			return []string{x.chain}
		}
	case "lookup":
		if s := t.sets[x.text(unix.NFTA_LOOKUP_SET)]; s != nil {
			return s.chains
		}
	}
	return nil
}

func familyName(family byte) string {
	switch family {
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_NETDEV:
		return "netdev"
	case unix.NFPROTO_ARP:
		return "arp"
	default:
		return fmt.Sprintf("family %d", family)
	}
}
