package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/netlab"
)

// A node that isn't there: packets to it and to its containers end at the switch.
var (
	voidAddress   = netip.MustParseAddr("192.0.2.9")
	voidMAC       = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	voidSubnet    = netip.MustParsePrefix("10.88.32.0/20")
	voidContainer = netip.MustParseAddr("10.88.32.2")
)

// switched joins two nodes by a switch, which stands for the hardware between them: what a
// node receives comes on the node's core, as from a NIC with one queue whose interrupts go
// there. Without it a veth's receiver works on the core of the sender.
func switched(near, far, sw *netlab.NS) error {
	err := errors.Join(
		netlab.Wire(netlab.End{NS: near, Link: "eth0"}, netlab.End{NS: sw, Link: "near"}, networkMTU),
		netlab.Wire(netlab.End{NS: far, Link: "eth0"}, netlab.End{NS: sw, Link: "far"}, networkMTU),
		near.Address("eth0", nearAddress.String()+"/24"), far.Address("eth0", farAddress.String()+"/24"),
		sw.Bridge("switch", networkMTU), sw.Port("switch", "near"), sw.Port("switch", "far"),
	)
	if err != nil {
		return err
	}
	return errors.Join(
		void(near, sw),
		steer(sw, "near", farCore), steer(sw, "far", nearCore),
	)
}

// void makes a port of the switch where packets end: an ifb drops what isn't redirected to
// it. They cost what the way to a node costs.
func void(near, sw *netlab.NS) error {
	h, err := sw.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "void", networkMTU
	link := &netlink.Ifb{LinkAttrs: attrs}
	if err := h.LinkAdd(link); err != nil {
		return fmt.Errorf("add a link that drops: %w", err)
	}
	if err := errors.Join(sw.Port("switch", "void"), sw.Up("void")); err != nil {
		return err
	}
	if err := h.NeighAdd(&netlink.Neigh{
		LinkIndex: link.Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, HardwareAddr: voidMAC,
	}); err != nil {
		return fmt.Errorf("tell the switch of a port: %w", err)
	}
	n, err := near.Netlink()
	if err != nil {
		return err
	}
	defer n.Close()
	nic, err := n.LinkByName("eth0")
	if err != nil {
		return err
	}
	return n.NeighAdd(&netlink.Neigh{
		LinkIndex: nic.Attrs().Index, IP: voidAddress.AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: voidMAC,
	})
}

// splitting makes links send each packet of what was one on its way to them, as a NIC
// receives packets: each in one piece of memory.
//
// Streams would pay for it: whole ends it.
func splitting(ns *netlab.NS, links ...string) error { return features(ns, false, links...) }

func whole(ns *netlab.NS, links ...string) error { return features(ns, true, links...) }

func features(ns *netlab.NS, on bool, links ...string) error {
	wanted := map[string]bool{
		"tx-udp-segmentation": on, "tx-udp_tnl-segmentation": on, "tx-udp_tnl-csum-segmentation": on, "tx-scatter-gather": on,
	}
	return ns.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		for _, link := range links {
			if err := e.Change(link, wanted); err != nil {
				return fmt.Errorf("change what %s leaves to its device: %w", link, err)
			}
		}
		return nil
	})
}

// steer has what a link receives worked on by one core, by receive packet steering.
func steer(ns *netlab.NS, link string, core int) error {
	sys, err := sysfs(ns)
	if err != nil {
		return err
	}
	defer sys.Close()
	name := "class/net/" + link + "/queues/rx-0/rps_cpus"
	fd, err := unix.Openat(int(sys.Fd()), name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, fmt.Appendf(nil, "%x", 1<<core))
		err = errors.Join(err, unix.Close(fd))
	}
	if err != nil {
		return fmt.Errorf("steer what %s receives to core %d: %w", link, core, err)
	}
	return nil
}

// sysfs is that of a namespace, mounted nowhere. The caller closes it.
func sysfs(ns *netlab.NS) (dir *os.File, err error) {
	err = ns.Do(func() error {
		fs, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(fs)
		if err := unix.FsconfigCreate(fs); err != nil {
			return err
		}
		fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
		if err == nil {
			dir = os.NewFile(uintptr(fd), "sysfs")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a namespace's sysfs: %w", err)
	}
	return dir, nil
}
