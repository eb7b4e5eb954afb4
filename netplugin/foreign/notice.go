package foreign

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// ruleNotice says what a message of the group of nftables tells that matters, or "".
func ruleNotice(m netlink.Message) string {
	const unknown = "rules of nftables"
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
		return "" // each transaction has one of these at its end
	}
	if len(m.Data) < nfgenmsg {
		return unknown
	}
	a, err := decode(m.Data[nfgenmsg:])
	if err != nil {
		return unknown
	}
	// The first attribute is the table's name in messages about whatever (NFTA_CHAIN_TABLE,
	// NFTA_RULE_TABLE, NFTA_SET_ELEM_LIST_TABLE, ...).
	family, name := m.Data[0], text(a[unix.NFTA_TABLE_NAME])
	if ours(family, name) {
		return ""
	}
	return fmt.Sprintf("nftables: table %s %s", familyName(family), name)
}

// linkNames are the names of links by index.
type linkNames map[int]string

var ownLink = regexp.MustCompile(`^(f[bx][0-9]+|fv[0-9a-f]{11})$`)

// own tells whether a link is one of the overlay's.
func (n linkNames) own(index int) bool { return ownLink.MatchString(n[index]) }

// notice says what a message of rtnetlink tells that matters, or "". It learns names.
func (n linkNames) notice(m netlink.Message) string {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		n.learn(m)
		return ""
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return n.routeNotice(m.Data)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return "rules of policy routing"
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		return "next hops"
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
		return n.qdiscNotice(m)
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
		return n.filterNotice(m)
	default:
		return "" // classes, chains and actions of traffic control: qdiscs and filters decide
	}
}

func (n linkNames) learn(m netlink.Message) {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return
	}
	a, err := decode(m.Data[unix.SizeofIfInfomsg:])
	index := int(binary.NativeEndian.Uint32(m.Data[4:])) // struct ifinfomsg
	switch {
	case err != nil:
	case m.Header.Type == unix.RTM_NEWLINK:
		n[index] = text(a[unix.IFLA_IFNAME])
	case m.Data[0] == unix.AF_UNSPEC: // of the family of bridges it is a port that is taken out
		delete(n, index)
	}
}

// routeNotice leaves out our own routes, those that the kernel makes for the overlay's own
// links, those it caches, and what no packet between containers goes by.
func (n linkNames) routeNotice(b []byte) string {
	if len(b) < unix.SizeofRtMsg {
		return "routes"
	}
	bits, protocol, flags := b[1], b[5], binary.NativeEndian.Uint32(b[8:]) // struct rtmsg
	a, err := decode(b[unix.SizeofRtMsg:])
	if err != nil {
		return "routes"
	}
	to := "default"
	if destination, ok := netip.AddrFromSlice(a[unix.RTA_DST]); ok {
		if destination.Is6() && (destination.IsLinkLocalUnicast() && bits >= 10 || destination.IsMulticast() && bits >= 8) {
			return ""
		}
		to = netip.PrefixFrom(destination, int(bits)).String()
	}
	var out int
	if oif := a[unix.RTA_OIF]; len(oif) == 4 {
		out = int(binary.NativeEndian.Uint32(oif))
	}
	if protocol == overlay.Protocol || flags&unix.RTM_F_CLONED != 0 || protocol == unix.RTPROT_KERNEL && n.own(out) {
		return ""
	}
	return "routes: " + to
}

// qdiscNotice leaves out those that hold nothing but filters: the filters tell.
func (n linkNames) qdiscNotice(m netlink.Message) string {
	c, err := decodeControl(m.Data)
	if err == nil {
		q := c.qdisc()
		if m.Header.Type == unix.RTM_NEWQDISC && q.holdsFilters() && !q.shared {
			return ""
		}
	}
	return "queueing disciplines" + n.of(c)
}

func (n linkNames) filterNotice(m netlink.Message) string {
	c, err := decodeControl(m.Data)
	if err == nil && c.filter().own() {
		return ""
	}
	return "filters of traffic control" + n.of(c)
}

func (n linkNames) of(c control) string {
	if name := n[int(c.Ifindex)]; name != "" {
		return " of " + name
	}
	return ""
}
