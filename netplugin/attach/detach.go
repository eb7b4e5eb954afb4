package attach

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Detach deletes a container's link by the host's end, and so both ends, and waits for
// it: tens of milliseconds, nearly all of them the kernel's grace periods (net/core/dev.c,
// netdev_run_todo). Use a Detacher where that matters. A link that is gone already is no
// error.
func Detach(link string) error {
	if err := ours(link); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	req := request(unix.RTM_DELLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(link)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", link, err)
	}
	return nil
}

func request(kind int, data ...nl.NetlinkRequestData) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK)
	for _, d := range data {
		req.AddData(d)
	}
	return req
}
