package attach

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

// Links are the host's ends of all containers that are attached, in the calling thread's
// network namespace, by name with the index of the bridge that each is a port of, 0 if of
// none. Those that a Detacher has unplugged are not among them.
func Links() (map[string]int, error) {
	messages, err := dump.All(func() ([][]byte, error) {
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
	links := map[string]int{}
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("list the containers' links: %w", err)
		}
		if a := link.Attrs(); IsLinkName(a.Name) && a.Group == 0 {
			links[a.Name] = a.MasterIndex
		}
	}
	return links, nil
}

// Replug makes the host's end of a container's link a port of the bridge again.
func Replug(link, bridge string) error {
	if err := ours(link); err != nil {
		return err
	}
	port, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", link, err)
	}
	to, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	if err := netlink.LinkSetMaster(port, to); err != nil {
		return fmt.Errorf("make %s a port of %s: %w", link, bridge, err)
	}
	return hairpin(link)
}
