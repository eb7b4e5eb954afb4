package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

// patience is how long anything may take that is about to happen.
const patience = time.Minute

// cluster is nodes on a switch. Node i, from 1, has 192.0.2.i/24 and 2001:db8::i/64, and
// default routes to outside, which is no node.
type cluster struct {
	nodes   []*node.Node
	sw      *netnstest.NS // the port of nodes[i] is p<i>
	outside *netnstest.NS // 192.0.2.254 and 2001:db8::fe
	hosts   int           // that are no nodes
	t       *testing.T
}

// underlays runs f for each family that nodes can reach each other by.
func underlays(t *testing.T, f func(t *testing.T, v6 bool)) {
	t.Run("IPv4 underlay", func(t *testing.T) { t.Parallel(); f(t, false) })
	t.Run("IPv6 underlay", func(t *testing.T) { t.Parallel(); f(t, true) })
}

// newCluster makes nodes and starts nothing.
func newCluster(t *testing.T, count int, v6 bool) *cluster {
	t.Helper()
	c := &cluster{t: t}
	var ends []netnstest.End
	for i := 1; i <= count; i++ {
		n := node.New(t, i)
		if v6 {
			n.Config.Address = underlay6(i)
		}
		c.nodes = append(c.nodes, n)
		ends = append(ends, netnstest.End{NS: n.NS, Link: "eth0"})
	}
	c.sw = netnstest.Switch(1500, ends...)
	c.outside = netnstest.New(t)
	c.plug(c.outside, 254)
	for i, n := range c.nodes {
		n.NS.Address("eth0", node.Underlay(i+1).String()+"/24")
		n.NS.Address("eth0", underlay6(i+1).String()+"/64")
		n.NS.Route("0.0.0.0/0", "192.0.2.254")
		n.NS.Route("::/0", "2001:db8::fe")
	}
	return c
}

func underlay6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(i)})
}

// plug puts a host that is no node on the switch, with the addresses of node i.
func (c *cluster) plug(host *netnstest.NS, i int) {
	c.t.Helper()
	c.hosts++
	port := fmt.Sprintf("h%d", c.hosts)
	netnstest.Wire(netnstest.End{NS: c.sw, Link: port}, netnstest.End{NS: host, Link: "eth0"}, 1500)
	c.sw.Port("br0", port)
	host.Address("eth0", node.Underlay(i).String()+"/24")
	host.Address("eth0", underlay6(i).String()+"/64")
}

// start has the nodes know each other by a file, and starts them.
func (c *cluster) start() *cluster {
	c.t.Helper()
	var text strings.Builder
	for _, n := range c.nodes {
		writeNode(&text, n.Config)
	}
	for _, n := range c.nodes {
		n.Config.Peers.File = filepath.Join(n.Dir, "peers.toml")
		if err := os.WriteFile(n.Config.Peers.File, []byte(text.String()), 0o600); err != nil {
			c.t.Fatal(err)
		}
		n.Start()
	}
	c.know(len(c.nodes))
	return c
}

func writeNode(w *strings.Builder, of config.Config) {
	fmt.Fprintf(w, "[[node]]\nname = %q\naddress = %q\n", of.Node, of.Address)
	for _, n := range of.Networks {
		fmt.Fprintf(w, "[[node.network]]\nvni = %d\nsubnets = [", n.VNI)
		for _, s := range n.Subnets {
			fmt.Fprintf(w, "%q, ", s)
		}
		w.WriteString("]\n")
	}
}

// know waits until the first nodes, so many, know each other and nobody else, and what they
// know has come into force.
func (c *cluster) know(count int) {
	c.t.Helper()
	for _, n := range c.nodes[:count] {
		n.Eventually(func() error {
			r, err := n.Report()
			if err != nil {
				return err
			}
			if len(r.Peers) != count-1 {
				return fmt.Errorf("it knows %v, want %d", r.Peers, count-1)
			}
			for i, p := range others(c.nodes[:count], n) {
				if r.Peers[i].Name != p.Config.Node || p.Config.Address.IsValid() && r.Peers[i].Address != p.Config.Address {
					return fmt.Errorf("it knows %v, want %s at %s", r.Peers[i], p.Config.Node, p.Config.Address)
				}
			}
			return inForce(n, r.Peers)
		})
	}
}

// inForce is an error unless the kernel sends to all peers, and to nobody else.
func inForce(n *node.Node, all []peers.Node) error {
	var want, got []string
	for _, p := range all {
		for vni, subnets := range p.Networks {
			want = append(want, fmt.Sprintf("%s at %s", overlay.VTEPMAC(p.Address, vni), p.Address))
			for _, s := range subnets {
				want = append(want, "route to "+s.String())
			}
		}
	}
	h := n.NS.Netlink()
	for _, network := range n.Config.Networks {
		link, err := h.LinkByName(overlay.Device(network.VNI))
		if err != nil {
			return err
		}
		entries, err := h.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
		if err != nil {
			return err
		}
		for _, e := range entries {
			got = append(got, fmt.Sprintf("%s at %s", e.HardwareAddr, e.IP))
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := h.RouteList(link, family)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Protocol == overlay.Protocol {
					got = append(got, "route to "+r.Dst.String())
				}
			}
		}
	}
	return node.Differ(got, want)
}

func others(nodes []*node.Node, but *node.Node) (all []*node.Node) {
	for _, n := range nodes {
		if n != but {
			all = append(all, n)
		}
	}
	return all
}

// member is a container of a cluster, with an echo server on each of its addresses.
type member struct {
	*node.Container
	n    *node.Node
	list *libcni.NetworkConfigList
	echo [4]string // TCP and UDP over IPv4, TCP and UDP over IPv6
}

// contain attaches a container to a network of node i, from 1.
func (c *cluster) contain(i int, network, id string) *member {
	c.t.Helper()
	n := c.nodes[i-1]
	m := &member{Container: n.Container(id), n: n, list: n.NamedList(network, "1.1.0", node.Network(network))}
	n.MustAdd(m.list, m.Container)
	for j := range m.echo {
		address := net.JoinHostPort(m.Address(j/2), "0")
		m.echo[j] = m.NS.Echo([]string{"tcp", "udp"}[j%2], address)
	}
	return m
}

// reach tries TCP and UDP over both families to members.
func reach(t *testing.T, who string, from *netnstest.NS, to ...*member) {
	t.Helper()
	for _, m := range to {
		for j, echo := range m.echo {
			network := []string{"tcp", "udp"}[j%2]
			if err := from.Try(network, echo, patience); err != nil {
				t.Errorf("%s to %s by %s %s: %v", who, m.ID, network, echo, err)
			}
		}
	}
}

// deaf fails the test if a member answers.
func deaf(t *testing.T, who string, from *netnstest.NS, to *member) {
	t.Helper()
	for j, echo := range to.echo {
		network := []string{"tcp", "udp"}[j%2]
		if err := from.Try(network, echo, 150*time.Millisecond); err == nil {
			t.Errorf("%s reaches %s by %s %s", who, to.ID, network, echo)
		}
	}
}

// leave detaches members and wants nothing of them left.
func leave(members ...*member) {
	for _, m := range members {
		m.n.MustDel(m.list, m.Container)
	}
	for _, m := range members {
		m.n.MustHold()
	}
}

// dropped is how many packets a node has dropped for a reason, by a link.
func dropped(t *testing.T, n *node.Node, reason, link string) (packets uint64) {
	t.Helper()
	r, err := n.Report()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range r.Drops {
		if d.Reason == reason && d.Link == link {
			packets += d.Packets
		}
	}
	return packets
}

// seen is the address by which a server in to sees one in from that connects to it.
func seen(t *testing.T, from, to *netnstest.NS, address string) netip.Addr {
	t.Helper()
	l := to.Listen("tcp", net.JoinHostPort(address, "0"))
	got := make(chan netip.Addr, 1)
	go func() {
		defer close(got)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		got <- netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap()
	}()
	c, err := from.Dial("tcp", l.Addr().String(), patience)
	if err != nil {
		t.Errorf("to %s: %v", address, err)
		l.Close() // nobody comes
		return <-got
	}
	defer c.Close()
	return <-got
}
