// Package node runs nodes of the network plugin for tests: each is a network namespace
// with the real falcond in it, and containers are namespaces that libcni attaches by the
// real falcon, executed inside the node's namespace. Nothing of the host's network is
// touched, and nothing outside a directory of the node.
//
//	n := node.New(t, 1)            // node1: 192.0.2.1, containers 10.88.1.0/24, fd00:88:0:1::/64
//	out := n.Outside()             // 192.0.2.254 on the other end of the node's eth0
//	n.Start()                      // falcond, until its networks are ready
//	c := n.Container("c1")
//	list := n.List("1.1.0", node.Network("falcon"))
//	result := n.MustAdd(list, c)   // Add, Del, Check, GC, Status with errors
//	c.NS.Try("tcp", out.Echo("tcp", "192.0.2.254:0"), time.Second)
//	n.MustHold(c)                  // what there is of containers is c's, to the last rule
//
// Several nodes are joined by [Join] in place of Outside. They differ in what [New] makes
// of their number; change Config before Start for more. The binaries are those that
// `make build` puts into bin. A test that needs something of `make stock` fails without.
package node

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// Node is a node of a cluster. It ends with its test. Its methods may be called by several
// goroutines, those that can end the test by the test's own only; starting, stopping and
// killing is for one goroutine at a time.
type Node struct {
	NS     *netnstest.NS
	Config config.Config // written down by Start
	Dir    string        // of the node alone
	// Bin has falcon and falcond. It may be changed, for an upgrade, while the agent is
	// not running.
	Bin string
	// Stock is where `make stock` unpacked Debian's packages.
	Stock string

	t     testing.TB
	agent *process // nil before the first start
}

// New makes node i, from 1 to 250, with a network "falcon" (VNI 1) of both families, and
// starts nothing. Its link to others is eth0, which Outside or Join makes; see [Underlay].
func New(t testing.TB, i int) *Node {
	t.Helper()
	cache, err := harness.Cache()
	if err != nil {
		t.Fatal(err)
	}
	// Not the test's directory: the names of sockets have at most 107 bytes.
	dir, err := os.MkdirTemp("", "node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	n := &Node{NS: netnstest.New(t), Config: config.Default(), Dir: dir, Bin: bin(), Stock: filepath.Join(cache, "debian"), t: t}
	n.Config.Node = fmt.Sprintf("node%d", i)
	n.Config.Address = Underlay(i)
	n.Config.Networks = []config.Network{NewNetwork("falcon", 1, i)}
	t.Cleanup(func() {
		if n.agent == nil {
			return
		}
		if err := n.agent.stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", n.Config.Node, n.agent.tail(60))
		}
	})
	return n
}

// Underlay is the address of node i, in 192.0.2.0/24.
func Underlay(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }

// NewNetwork is node i's part of a network: of VNI 1 it is 10.88.i.0/24 of 10.88.0.0/16
// and fd00:88:0:i::/64 of fd00:88::/48, and of VNI n 10.(87+n) and fd00:(87+n). It is
// masqueraded.
func NewNetwork(name string, vni uint32, i int) config.Network {
	v := 87 + vni
	return config.Network{
		Name: name, VNI: vni, Masquerade: true,
		Subnets: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", v, i)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:%d:0:%d::/64", v, i)),
		},
		Cluster: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", v)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/48", v)),
		},
	}
}

// Outside wires the node's eth0 to a namespace that is no node: 192.0.2.254/24 and
// fd00:2::fe/64, where the node has fd00:2::1/64 and its default routes lead to.
func (n *Node) Outside() *netnstest.NS {
	n.t.Helper()
	out := netnstest.New(n.t)
	netnstest.Wire(netnstest.End{NS: n.NS, Link: "eth0"}, netnstest.End{NS: out, Link: "eth0"}, 1500)
	out.Address("eth0", "192.0.2.254/24")
	out.Address("eth0", "fd00:2::fe/64")
	n.NS.Address("eth0", n.Config.Address.String()+"/24")
	n.NS.Address("eth0", "fd00:2::1/64")
	n.NS.Route("0.0.0.0/0", "192.0.2.254")
	n.NS.Route("::/0", "fd00:2::fe")
	return out
}

// Join connects the nodes' eth0 by a switch, of which it returns the namespace: the port
// of nodes[i] is p<i>.
func Join(nodes ...*Node) *netnstest.NS {
	nodes[0].t.Helper()
	var ends []netnstest.End
	for _, n := range nodes {
		ends = append(ends, netnstest.End{NS: n.NS, Link: "eth0"})
	}
	sw := netnstest.Switch(1500, ends...)
	for _, n := range nodes {
		n.NS.Address("eth0", n.Config.Address.String()+"/24")
	}
	return sw
}

// Root is the agent's directory.
func (n *Node) Root() string { return filepath.Join(n.Dir, "root") }

// IPAM is the directory of host-local's files.
func (n *Node) IPAM() string { return filepath.Join(n.Dir, "ipam") }

func (n *Node) configFile() string { return filepath.Join(n.Dir, "config.toml") }

// env is what programs find the node by. The stock programs need more: see stockEnv.
func (n *Node) env() []string {
	return []string{
		"FALCON_ROOT=" + n.Root(), "FALCON_CONFIG=" + n.configFile(),
		"FALCON_STATE=" + filepath.Join(n.Dir, "state"), "FLASHCUBE_ROOT=" + filepath.Join(n.Dir, "flashcube"),
	}
}

func (n *Node) writeConfig() error {
	text, err := n.Config.Write()
	return errors.Join(err, os.WriteFile(n.configFile(), text, 0o600))
}

// bin is where `make build` puts the bundle.
func bin() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../../bin")
}
