package attach

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links are the host's ends of all containers that are attached, in the calling thread's
// network namespace, but for those that a Detacher has unplugged.
func Links() ([]string, error) {
	messages, err := dump(func() ([][]byte, error) {
		var got [][]byte
		err := vethDump().ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWLINK, func(m []byte) bool {
			got = append(got, m)
			return true
		})
		return got, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the containers' links: %w", err)
	}
	var links []string
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("list the containers' links: %w", err)
		}
		if a := link.Attrs(); IsLinkName(a.Name) && a.Group == 0 {
			links = append(links, a.Name)
		}
	}
	return links, nil
}
