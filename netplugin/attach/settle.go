package attach

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// questions is how often a kernel before 6.8 is asked for the state of a link: for some
// milliseconds in all.
const questions = 100

// skipStats is RTEXT_FILTER_SKIP_STATS of include/uapi/linux/rtnetlink.h.
const skipStats = 1 << 3

// settle returns when links that got a carrier can pass packets.
//
// A veth has a carrier only when both ends are up, so one end always learns of it from
// the other, and the kernel puts that into effect (the port forwards, the queue is
// active) from a work item, later. What is sent before is lost: a container's first ARP
// request, say, which costs it a second. Since 6.8 the kernel does that work at once for
// who asks for the link's state (net/core/rtnetlink.c, rtnl_getlink); older ones are asked
// until the work is done. A link that doesn't get up is no error: its bridge may be down.
func settle(links ...string) error {
	for _, link := range links {
		for range questions {
			state, err := operState(link)
			if err != nil {
				return fmt.Errorf("ask for the state of link %s: %w", link, err)
			}
			if state == netlink.OperUp || state == netlink.OperUnknown {
				break
			}
		}
	}
	return nil
}

// operState is the link's RFC 2863 state, without all the rest that netlink tells of one.
func operState(link string) (netlink.LinkOperState, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(link)))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		attributes, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return 0, err
		}
		for _, a := range attributes {
			if a.Attr.Type == unix.IFLA_OPERSTATE && len(a.Value) == 1 {
				return netlink.LinkOperState(a.Value[0]), nil
			}
		}
	}
	return netlink.OperUnknown, nil
}
