package overlay

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The netlink library doesn't know these options of a bridge.

// options of a bridge that are other than they have to be.
type options struct {
	// stp is the spanning tree protocol, which would keep a new port silent for 30 seconds
	// (forward_delay twice).
	stp bool
	// learnReserved is that the bridge learns who is where from frames to the groups that
	// it doesn't forward (01:80:c2:00:00:0x). It does so ahead of every filter: a container
	// could take another's traffic by a frame with its address.
	learnReserved bool
}

const (
	multiBoolopt = 46     // IFLA_BR_MULTI_BOOLOPT, a struct br_boolopt_multi: values and which are meant
	noLLLearn    = 1 << 0 // BR_BOOLOPT_NO_LL_LEARN, include/uapi/linux/if_bridge.h
)

// readOptions reads those of the bridge of an index.
func readOptions(index int) (o options, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return o, fmt.Errorf("read a bridge's options: %w", err)
	}
	for _, answer := range answers {
		data, err := nested(answer[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA)
		if err != nil {
			return o, fmt.Errorf("read a bridge's options: %w", err)
		}
		attrs, err := nl.ParseRouteAttr(data)
		if err != nil {
			return o, fmt.Errorf("read a bridge's options: %w", err)
		}
		for _, a := range attrs {
			switch {
			case a.Attr.Type == nl.IFLA_BR_STP_STATE && len(a.Value) == 4:
				o.stp = binary.NativeEndian.Uint32(a.Value) != 0
			case a.Attr.Type == multiBoolopt && len(a.Value) == 8:
				o.learnReserved = binary.NativeEndian.Uint32(a.Value)&noLLLearn == 0
			}
		}
	}
	return o, nil
}

// nested finds an attribute by the types on the way to it; nil: it is not there.
func nested(data []byte, path ...uint16) ([]byte, error) {
	for _, want := range path {
		attrs, err := nl.ParseRouteAttr(data)
		if err != nil {
			return nil, err
		}
		data = nil
		for _, a := range attrs {
			if a.Attr.Type&^uint16(unix.NLA_F_NESTED) == want {
				data = a.Value
			}
		}
	}
	return data, nil
}

func (c setOptions) apply() error {
	return on(c.name, func(l netlink.Link) error {
		req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(l.Attrs().Index)
		req.AddData(msg)
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
		data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
		data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
		data.AddRtAttr(multiBoolopt, slices.Concat(nl.Uint32Attr(noLLLearn), nl.Uint32Attr(noLLLearn)))
		req.AddData(info)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}
