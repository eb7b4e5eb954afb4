package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/peers/etcdtest"
)

// store is an etcd that nodes can reach, at 192.0.2.253.
type store struct {
	*etcdtest.Server
	host *netnstest.NS
}

// withEtcd makes a cluster that is to know of itself by etcd, with TLS, and starts etcd.
func withEtcd(t *testing.T, count int) (*cluster, *store) {
	t.Helper()
	s := &store{host: netnstest.New(t)} // before the nodes: etcd ends before its namespace
	c := newCluster(t, count, false)
	c.plug(s.host, 253)
	s.Server = etcdtest.Start(t, etcdtest.Config{
		Host: node.Underlay(253).String(), TLS: true,
		Enter: func() error { return unix.Setns(int(s.host.File().Fd()), unix.CLONE_NEWNET) },
	})
	for _, n := range c.nodes {
		n.Config.Peers.Etcd = config.Etcd{
			Endpoints: []string{s.Endpoint}, Prefix: "/test",
			CA: s.PKI.CA, Cert: s.PKI.ClientCert, Key: s.PKI.ClientKey,
		}
	}
	return c, s
}

// client is one of etcd, in its namespace.
func (s *store) client(t *testing.T) *clientv3.Client {
	t.Helper()
	dial := func(_ context.Context, address string) (net.Conn, error) {
		return s.host.Dial("tcp", address, patience)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{s.Endpoint}, Logger: zap.NewNop(), TLS: s.PKI.ClientConfig(t),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// unreachable waits until the container is told that nobody has the other's address.
func unreachable(t *testing.T, from, to *member) {
	t.Helper()
	for _, echo := range []string{to.echo[0], to.echo[2]} {
		from.n.Eventually(func() error {
			// The kernel may have noted the first answer only, and gives up with the second,
			// to what it sends again after a second.
			_, err := from.NS.Dial("tcp", echo, patience)
			if !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EACCES) {
				return fmt.Errorf("%s to %s: %w, want it to be unreachable", from.ID, to.ID, err)
			}
			return nil
		})
	}
}

// move gives a node's eth0 another address of IPv4, and the default route again, which
// goes with the old one.
func move(n *node.Node, from, to int) {
	n.NS.Unaddress("eth0", node.Underlay(from).String()+"/24")
	n.NS.Address("eth0", node.Underlay(to).String()+"/24")
	_, _ = n.Run("ip", "route", "del", "default") // if it has stayed
	n.NS.Route("0.0.0.0/0", "192.0.2.254")
}

// Nodes join, leave and move, and etcd goes and comes back, while connections of others go on.
func TestClusterMembership(t *testing.T) {
	t.Parallel()
	c, etcd := withEtcd(t, 3)
	node1, node2, node3 := c.nodes[0], c.nodes[1], c.nodes[2]
	node1.Start()
	node2.Start()
	c.know(2)
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	reach(t, "a", a.NS, b)
	streams := []*stream{flow(t, a, b, 0), flow(t, b, a, 1)}
	goOn := func(when string) {
		t.Helper()
		for _, s := range streams {
			s.goOn(when)
		}
	}

	// A node joins that finds its own address.
	node3.Config.Address = netip.Addr{}
	node3.Start()
	node3.Config.Address = node.Underlay(3) // what the others are to know
	c.know(3)
	d := c.contain(3, "falcon", "d")
	reach(t, "d", d.NS, a, b)
	reach(t, "a", a.NS, d)
	goOn("after a node joined")

	// It leaves, and comes back.
	node3.Config.Address = netip.Addr{}
	if out, err := node3.Falcond("leave"); err == nil || !strings.Contains(err.Error(), "come back") {
		t.Errorf("it left while its agent ran: %s, %v", out, err)
	}
	node3.Stop()
	if out, err := node3.Falcond("leave"); err != nil {
		t.Errorf("leave: %v\n%s", err, out)
	}
	c.know(2)
	unreachable(t, a, d)
	goOn("after a node left")
	if _, err := node3.Falcond("leave"); err != nil {
		t.Errorf("leave again: %v", err)
	}
	node3.Start()
	node3.Config.Address = node.Underlay(3)
	c.know(3)
	reach(t, "a", a.NS, d)

	// etcd forgets what was. Watches live on, and so do those that begin now.
	client := etcd.client(t)
	got, err := client.Get(t.Context(), "/test", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || got.Count != 3 {
		t.Fatalf("etcd has %v, %v", got, err)
	}
	if _, err := client.Compact(t.Context(), got.Header.Revision); err != nil {
		t.Fatal(err)
	}

	// A node moves: with another address in its configuration, under its connections.
	node2.Stop()
	move(node2, 2, 22)
	node2.Config.Address = node.Underlay(22)
	node2.Start()
	c.know(3)
	goOn("after a node moved")
	reach(t, "d", d.NS, b)
	reach(t, "b", b.NS, a, d)
	// And with an address that it finds by itself.
	move(node3, 3, 33)
	node3.Config.Address = node.Underlay(33)
	c.know(3)
	reach(t, "a", a.NS, d)
	reach(t, "d", d.NS, b)
	goOn("after another node moved")

	for _, s := range streams {
		s.end()
	}
	leave(a, b, d)
}

func TestClusterEtcdOutage(t *testing.T) {
	t.Parallel()
	c, etcd := withEtcd(t, 3)
	node1, node2, node3 := c.nodes[0], c.nodes[1], c.nodes[2]
	node1.Start()
	node2.Start()
	c.know(2)
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	streams := []*stream{flow(t, a, b, 0), flow(t, b, a, 1)}
	goOn := func(when string) {
		t.Helper()
		for _, s := range streams {
			s.goOn(when)
		}
	}
	goOn("in peace")

	etcd.Kill()
	goOn("without etcd")
	// Agents that start now know the nodes of the last run.
	node1.Kill()
	node1.Start()
	goOn("after an agent was killed and started without etcd")
	c.know(2)
	more := c.contain(1, "falcon", "more")
	reach(t, "more", more.NS, b)
	node1.Eventually(func() error {
		out, err := node1.Falcond("status")
		if err == nil && !strings.Contains(out, "as of") {
			return errors.New("it says nothing of etcd:\n" + out)
		}
		return err
	})
	if err := node1.Status(t.Context(), a.list); err != nil {
		t.Errorf("STATUS without etcd: %v", err)
	}
	// Meanwhile a node moves and another begins: nobody can know.
	node2.Stop()
	move(node2, 2, 22)
	node2.Config.Address = node.Underlay(22)
	node2.Start()
	node3.Start()
	d := c.contain(3, "falcon", "d")
	unreachable(t, d, b)

	etcd.Restart()
	c.know(3)
	goOn("with etcd back")
	reach(t, "d", d.NS, a, b, more)
	reach(t, "b", b.NS, more, d)
	for _, s := range streams {
		s.end()
	}
	leave(a, more, b, d)
}

// A second node of a name is told, and harms nobody.
func TestClusterNameTaken(t *testing.T) {
	t.Parallel()
	c, _ := withEtcd(t, 2)
	node1, other := c.nodes[0], c.nodes[1]
	node1.Start()
	other.Config.Node = node1.Config.Node
	other.Launch()
	other.Eventually(func() error {
		out, err := other.Falcond("status")
		if err == nil && !strings.Contains(out, "this node is not published") {
			return errors.New(out)
		}
		return err
	})
	if out, err := node1.Falcond("status"); err != nil || !strings.Contains(out, "up to date") || strings.Contains(out, "not published") {
		t.Errorf("the first node of the name: %v\n%s", err, out)
	}
	other.Stop()
	if out, err := other.Falcond("leave"); err == nil {
		t.Errorf("it took the other out: %s", out)
	}
}
