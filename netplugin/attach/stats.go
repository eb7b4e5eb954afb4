package attach

import (
	"errors"
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

// Stats reads the counters of the links named: where they are by one netlink dump, and what
// each counted at the container's end, by one message. The host's end doesn't count what BPF
// programs hand to the container (bpf_redirect_peer); Linux before 6.8 counts that nowhere.
// Links that are not there are not in the answer.
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
		if !wanted[a.Name] || a.Statistics == nil {
			continue
		}
		t := Traffic{
			SentPackets: a.Statistics.RxPackets, SentBytes: a.Statistics.RxBytes,
			// The host's end sends what the container receives.
			ReceivedPackets: a.Statistics.TxPackets, ReceivedBytes: a.Statistics.TxBytes,
		}
		inside, err := peerStats(a)
		if err != nil {
			return nil, fmt.Errorf("read the counters of the container's end of %s: %w", a.Name, err)
		}
		if inside != nil {
			t.ReceivedPackets, t.ReceivedBytes = inside.RxPackets, inside.RxBytes
		}
		traffic[a.Name] = t
	}
	return traffic, nil
}

// peerStats reads the counters of a veth's other end, in whatever namespace that is; nil if
// it is going.
func peerStats(a *netlink.LinkAttrs) (*netlink.LinkStatistics, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(a.ParentIndex)
	req.AddData(msg)
	if a.NetNsID >= 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(a.NetNsID))))
	}
	answer, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) { // no such link, no such namespace
		return nil, nil
	}
	if err != nil || len(answer) != 1 || len(answer[0]) < unix.SizeofIfInfomsg {
		return nil, err
	}
	link, err := netlink.LinkDeserialize(nil, answer[0])
	if err != nil {
		return nil, err
	}
	return link.Attrs().Statistics, nil
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
