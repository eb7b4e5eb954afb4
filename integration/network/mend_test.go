package network

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// What somebody else breaks is mended, and meanwhile nothing that isn't checked passes.
func TestMend(t *testing.T) {
	n := oneNode(t)
	list := n.List("1.1.0", node.Network("falcon"))
	a, b := n.Container("a"), n.Container("b")
	n.MustAdd(list, a)
	n.MustAdd(list, b)
	to := b.NS.Echo("tcp", b.Address(0)+":0")
	link := a.Result.Interfaces[1].Name
	for name, harm := range map[string]func(h *netlink.Handle) error{
		"bridge gone": func(h *netlink.Handle) error {
			return h.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "fb1"}})
		},
		"link without a bridge": func(h *netlink.Handle) error {
			l, err := h.LinkByName(link)
			if err != nil {
				return err
			}
			return h.LinkSetNoMaster(l)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := harm(n.NS.Netlink()); err != nil {
				t.Fatal(err)
			}
			// What makes an agent look.
			n.Stop()
			n.Start()
			n.Eventually(func() error { return a.NS.Try("tcp", to, patience) })
			for _, c := range []*node.Container{a, b} {
				if err := n.Check(t.Context(), list, c); err != nil {
					t.Error(err)
				}
			}
			n.MustHold(a, b)
		})
	}
}

// A network that is taken out of the configuration goes with its last container.
func TestNetworkLeaves(t *testing.T) {
	n := node.New(t, 1)
	n.Outside()
	n.Config.Networks = append(n.Config.Networks, node.NewNetwork("green", 2, 1))
	n.Start()
	blue, green := n.NamedList("blue", "1.1.0", node.Network("falcon")), n.NamedList("green", "1.1.0", node.Network("green"))
	a, b := n.Container("a"), n.Container("b")
	n.MustAdd(blue, a)
	n.MustAdd(green, b)
	to := b.NS.Echo("udp", b.Address(0)+":0")

	n.Stop()
	n.Config.Networks = n.Config.Networks[:1]
	n.Start()
	if err := a.NS.Try("udp", to, patience/10); err == nil {
		t.Error("a network that leaves is no longer apart")
	}
	if err := n.Add(t.Context(), green, n.Container("c")); err == nil || !strings.Contains(err.Error(), "no network") {
		t.Errorf("attached to a network that leaves: %v", err)
	}
	n.MustDel(green, b)
	n.Stop()
	n.Start() // what makes an agent look
	n.Eventually(func() error {
		if _, err := n.NS.Netlink().LinkByName("fb2"); err == nil {
			return fmt.Errorf("its bridge is still there")
		}
		return nil
	})
	n.MustHold(a)

	// The same subnets under another number.
	n.MustDel(blue, a)
	n.Stop()
	n.Config.Networks[0].VNI = 7
	n.Start()
	n.MustAdd(blue, a)
	n.MustHold(a)
	n.MustDel(blue, a)
}

// Two configurations that give out one address don't both get it.
func TestOneAddressOnce(t *testing.T) {
	n := oneNode(t)
	usual := n.List("1.1.0", node.Network("falcon"))
	own := node.Network("falcon")
	own["ipam"] = map[string]any{"type": "host-local", "dataDir": n.IPAM() + "-own", "ranges": [][]map[string]string{{{"subnet": "10.88.1.0/24"}}}}
	other := n.NamedList("other", "1.1.0", own)
	a, b := n.Container("a"), n.Container("b")
	n.MustAdd(usual, a)
	if err := n.Add(t.Context(), other, b); err == nil || !strings.Contains(err.Error(), "another container") {
		t.Errorf("%+v, %v", b.Result, err)
	}
	n.MustHold(a)
	n.MustDel(usual, a)
}
