package attach

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

// Traffic is what passed a container's interface since it was attached, as the container
// sees it: received is what it got.
type Traffic struct {
	ReceivedPackets, ReceivedBytes uint64
	SentPackets, SentBytes         uint64
}

// Stats reads the counters of the links named, all by one netlink dump. Links that are
// not there are not in the answer.
func Stats(links []string) (map[string]Traffic, error) {
	messages, err := dump.All(func() ([][]byte, error) {
		var got [][]byte
		// Iter, as the library's Execute hides that a dump was interrupted.
		err := vethDump().ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWLINK, func(m []byte) bool {
			got = append(got, m)
			return true
		})
		return got, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the counters of the containers' links: %w", err)
	}
	wanted := make(map[string]bool, len(links))
	for _, l := range links {
		wanted[l] = true
	}
	traffic := make(map[string]Traffic, len(links))
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("read the counters of a link: %w", err)
		}
		a := link.Attrs()
		if c := a.Statistics; c != nil && wanted[a.Name] {
			// The host's end sends what the container receives.
			traffic[a.Name] = Traffic{
				ReceivedPackets: c.TxPackets, ReceivedBytes: c.TxBytes,
				SentPackets: c.RxPackets, SentBytes: c.RxBytes,
			}
		}
	}
	return traffic, nil
}

// vethDump asks for all veths of the namespace and no other links.
func vethDump() *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	kind := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	kind.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	req.AddData(kind)
	return req
}
