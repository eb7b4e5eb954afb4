package network

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// What VXLAN adds: outer IP, UDP and VXLAN headers, inner Ethernet header.
const (
	header4 = 20 + 8 + 8 + 14
	header6 = 40 + 8 + 8 + 14
)

func TestClusterTraffic(t *testing.T) {
	t.Parallel()
	underlays(t, func(t *testing.T, v6 bool) {
		c := newCluster(t, 3, v6).start()
		a, beside := c.contain(1, "falcon", "a"), c.contain(1, "falcon", "beside")
		b, d := c.contain(2, "falcon", "b"), c.contain(3, "falcon", "d")
		reach(t, "a", a.NS, beside, b, d)
		reach(t, "b", b.NS, a, d)
		reach(t, "d", d.NS, beside)
		reach(t, "node 1", c.nodes[0].NS, a, b)
		for i := range 2 {
			transfer(t, a.NS, b.NS, b.Address(i), 16<<20)
		}
		sources(t, c, a, b)
		mtu := 1500 - header4
		if v6 {
			mtu = 1500 - header6
		}
		for i := range 2 {
			whole(t, a.NS, b.echo[2*i+1], mtu-[]int{20, 40}[i]-8, true)
		}
		for i, n := range c.nodes {
			if r, err := n.Report(); err != nil || len(r.Drops) > 0 {
				t.Errorf("node %d dropped %+v, %v", i+1, r.Drops, err)
			}
		}
		leave(a, beside, b, d)
	})
}

// sources tells who is seen as whom.
func sources(t *testing.T, c *cluster, a, b *member) {
	t.Helper()
	node1, node2 := c.nodes[0].NS, c.nodes[1].NS
	for _, s := range []struct {
		what     string
		from, to *netnstest.NS
		address  string
		want     string
	}{
		{"container to container", a.NS, b.NS, b.Address(0), a.Address(0)},
		{"container to container", a.NS, b.NS, b.Address(1), a.Address(1)},
		{"container to a node's gateway", a.NS, node2, "10.88.2.1", a.Address(0)},
		{"container to a node's gateway", a.NS, node2, "fd00:88:0:2::1", a.Address(1)},
		{"container to a node", a.NS, node2, "192.0.2.2", "192.0.2.1"},
		{"container to a node", a.NS, node2, "2001:db8::2", "2001:db8::1"},
		{"container to outside", a.NS, c.outside, "192.0.2.254", "192.0.2.1"},
		{"container to outside", a.NS, c.outside, "2001:db8::fe", "2001:db8::1"},
		{"container to its node", a.NS, node1, "192.0.2.1", a.Address(0)},
		{"container to its node", a.NS, node1, "2001:db8::1", a.Address(1)},
	} {
		if got := seen(t, s.from, s.to, s.address); got != netip.MustParseAddr(s.want) {
			t.Errorf("%s, %s: it comes from %s, want %s", s.what, s.address, got, s.want)
		}
	}
}

// transfer sends random bytes and compares what arrives.
func transfer(t *testing.T, from, to *netnstest.NS, address string, size int64) {
	t.Helper()
	l := to.Listen("tcp", net.JoinHostPort(address, "0"))
	got := make(chan []byte, 1)
	go func() {
		defer close(got)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		if n, err := io.Copy(h, c); err == nil && n == size {
			got <- h.Sum(nil)
		}
	}()
	c, err := from.Dial("tcp", l.Addr().String(), patience)
	if err != nil {
		l.Close()
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(h, c), rand.NewChaCha8([32]byte{1}), size)
	if err := errors.Join(err, c.Close()); err != nil {
		t.Errorf("send to %s: %v", address, err)
	}
	if !bytes.Equal(<-got, h.Sum(nil)) {
		t.Errorf("what arrived at %s is not what was sent", address)
	}
}

// whole sends datagrams that must not be cut into fragments: fits bytes arrive, and of one
// more the sender is told that it is too big, at once if its link's MTU is in the way.
func whole(t *testing.T, from *netnstest.NS, address string, fits int, atOnce bool) {
	t.Helper()
	c, err := from.Dial("udp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	forbidFragments(t, c)
	_ = c.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 65536)
	_, err = c.Write(make([]byte, fits+1))
	if !atOnce && err == nil {
		_, err = c.Read(buf) // ICMP comes as an error
	}
	if !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("%s: %d bytes: %v", address, fits+1, err)
	}
	if _, err := c.Write(make([]byte, fits+1)); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("%s: %d bytes again: %v", address, fits+1, err)
	}
	if _, err := c.Write(make([]byte, fits)); err != nil {
		t.Errorf("%s: %d bytes: %v", address, fits, err)
	}
	if n, err := c.Read(buf); n != fits || err != nil {
		t.Errorf("%s: %d of %d bytes came back: %v", address, n, fits, err)
	}
}

// forbidFragments turns path MTU discovery on (ip(7), ipv6(7)).
func forbidFragments(t *testing.T, c net.Conn) {
	t.Helper()
	set := func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	}
	if c.RemoteAddr().(*net.UDPAddr).IP.To4() != nil {
		set = func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}
	}
	control(t, c, set)
}

// control changes a connection's socket.
func control(t *testing.T, c net.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := errors.Join(raw.Control(func(fd uintptr) { failed = f(int(fd)) }), failed); err != nil {
		t.Fatal(err)
	}
}

// Containers with more than the tunnel takes: the gateway tells them, and TCP finds out.
func TestClusterTooBig(t *testing.T) {
	t.Parallel()
	underlays(t, func(t *testing.T, v6 bool) {
		c := newCluster(t, 2, v6)
		for _, n := range c.nodes {
			n.Config.Networks[0].MTU = 1500
		}
		c.start()
		a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
		mtu := 1500 - header4
		if v6 {
			mtu = 1500 - header6
		}
		for i := range 2 {
			transfer(t, b.NS, a.NS, a.Address(i), 16<<20)
			whole(t, a.NS, b.echo[2*i+1], mtu-[]int{20, 40}[i]-8, false)
		}
		leave(a, b)
	})
}

// A node whose link to the others is narrower tells its containers by their MTU.
func TestClusterNarrowUnderlay(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false)
	for _, n := range c.nodes {
		run(t, n, "ip", "link", "set", "eth0", "mtu", "1400")
	}
	c.start()
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	if got := a.Result.Interfaces[2].Mtu; got != 1400-header4 {
		t.Errorf("the container's MTU is %d", got)
	}
	for i := range 2 {
		whole(t, a.NS, b.echo[2*i+1], 1400-header4-[]int{20, 40}[i]-8, true)
	}
	leave(a, b)
}

// run runs a program in a node's namespace.
func run(t *testing.T, n *node.Node, program string, args ...string) string {
	t.Helper()
	out, err := n.Run(program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
