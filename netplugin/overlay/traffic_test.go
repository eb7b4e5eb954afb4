package overlay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"golang.org/x/sys/unix"
)

const patience = time.Minute

func underlays(t *testing.T, f func(t *testing.T, v6 bool)) {
	for name, v6 := range map[string]bool{"IPv4 underlay": false, "IPv6 underlay": true} {
		t.Run(name, func(t *testing.T) { f(t, v6) })
	}
}

// reach tries UDP and TCP to a container's addresses.
func reach(t *testing.T, who string, from *netnstest.NS, to *container) {
	t.Helper()
	for _, a := range to.addresses() {
		for _, network := range []string{"udp", "tcp"} {
			if err := from.Try(network, net.JoinHostPort(a, "7"), patience); err != nil {
				t.Errorf("%s: %s: %v", who, network, err)
			}
		}
	}
}

func (c *container) echo() *container {
	for _, a := range c.addresses() {
		c.Echo("tcp", net.JoinHostPort(a, "7"))
		c.Echo("udp", net.JoinHostPort(a, "7"))
	}
	return c
}

func TestContainersAndNodesReachContainers(t *testing.T) {
	underlays(t, func(t *testing.T, v6 bool) {
		all := nodes(t, v6, 3)
		settle(t, all)
		// Neighbour discovery over the bridge works with multicast snooping on, as it is.
		first, beside := all[0].contain(0).echo(), all[0].contain(1).echo()
		second, third := all[1].contain(0).echo(), all[2].contain(0).echo()
		reach(t, "on one bridge", first.NS, beside)
		reach(t, "1 to 2", first.NS, second)
		reach(t, "2 to 1", second.NS, first)
		reach(t, "2 to 3", second.NS, third)
		reach(t, "3 to 1", third.NS, beside)
		reach(t, "node 1 to its own", all[0].NS, first)
		reach(t, "node 1 to 3", all[0].NS, third)
	})
}

// transfer sends size random bytes and compares what arrives.
func transfer(t *testing.T, from *netnstest.NS, to *container, address string, size int64) {
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

func TestLargeTransfersArriveWhole(t *testing.T) {
	underlays(t, func(t *testing.T, v6 bool) {
		for _, mtu := range []int{0, 1500} { // 1500: the path's is found out
			t.Run(fmt.Sprint("MTU ", mtu), func(t *testing.T) {
				all := nodes(t, v6, 2)
				for _, nd := range all {
					nd.n.MTU = mtu
				}
				settle(t, all)
				a, b := all[0].contain(0), all[1].contain(0)
				for _, address := range b.addresses() {
					transfer(t, a.NS, b, address, 16<<20)
				}
			})
		}
	})
}

// whole forbids fragments: path MTU discovery (ip(7), ipv6(7)).
func whole(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		if c.RemoteAddr().(*net.UDPAddr).IP.To4() != nil {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		} else {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		}
	})
	if err := errors.Join(err, set); err != nil {
		t.Fatal(err)
	}
}

func TestTooBigIsTold(t *testing.T) {
	underlays(t, func(t *testing.T, v6 bool) {
		all := nodes(t, v6, 2)
		tunnel := 1500 - header4
		if v6 {
			tunnel = 1500 - header6
		}
		for _, nd := range all {
			nd.n.MTU = 1500
		}
		settle(t, all)
		a, b := all[0].contain(0), all[1].contain(0).echo()
		for i, address := range b.addresses() {
			fits := tunnel - []int{20, 40}[i] - 8
			c, err := a.Dial("udp", net.JoinHostPort(address, "7"), patience)
			if err != nil {
				t.Fatal(err)
			}
			whole(t, c)
			_ = c.SetDeadline(time.Now().Add(patience))
			buf := make([]byte, 65536)
			// What fits the containers' MTU leaves, and the gateway's answer comes back.
			if _, err := c.Write(make([]byte, fits+1)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(buf); !errors.Is(err, unix.EMSGSIZE) {
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
	})
}

// A packet for a subnet that no node has must not leave unencapsulated.
func TestDeadSubnetIsUnreachable(t *testing.T) {
	all := nodes(t, false, 2)
	all[0].Route("0.0.0.0/0", all[1].address.String())
	all[0].Address("eth0", "2001:db8::1/64")
	all[0].Route("::/0", "2001:db8::2")
	settle(t, all)
	c := all[0].contain(0)
	for _, address := range []string{"10.1.99.2:7", "[fd00:1:99::2]:7"} {
		start := time.Now()
		_, err := c.Dial("tcp", address, patience)
		if !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EACCES) || time.Since(start) > patience/2 {
			t.Errorf("%s: %v after %v", address, err, time.Since(start))
		}
	}
}

// talk keeps a TCP connection busy until stop, which reports its fate.
func talk(t *testing.T, from, to *container) (stop func()) {
	t.Helper()
	c, err := from.Dial("tcp", net.JoinHostPort(to.v4, "7"), patience)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		buf := make([]byte, 1000)
		for ctx.Err() == nil {
			_ = c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Write(buf); err != nil {
				ended <- err
				return
			}
			if _, err := io.ReadFull(c, buf); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the connection broke: %v", err)
		}
	}
}

func TestRestartIsNotSeen(t *testing.T) {
	all := nodes(t, false, 2)
	settle(t, all)
	stop := talk(t, all[0].contain(0), all[1].contain(0).echo())
	for range 20 {
		for _, nd := range all {
			o, err := New(nd.o.underlay)
			if err != nil {
				t.Error(err)
			}
			nd.o = o
			if changed, err := nd.ensure(all...); changed || err != nil {
				t.Errorf("changed %t, %v", changed, err)
			}
		}
	}
	stop()
}

func TestMendingBreaksNoConnection(t *testing.T) {
	all := nodes(t, false, 2)
	settle(t, all)
	stop := talk(t, all[0].contain(0), all[1].contain(0).echo())
	for name, harm := range harms(all[0]) {
		harm()
		if changed, err := all[0].ensure(all...); !changed || err != nil {
			t.Errorf("%s: changed %t, %v", name, changed, err)
		}
	}
	stop()
}

func TestRenumberedNode(t *testing.T) {
	all := nodes(t, false, 3)
	settle(t, all)
	a, b, c := all[0].contain(0).echo(), all[1].contain(0).echo(), all[2].contain(0).echo()
	stop := talk(t, a, b)
	stopOther := talk(t, a, c)
	all[1].Unaddress("eth0", "192.0.2.2/24")
	if changed, err := all[1].ensure(all...); changed || !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without an address: changed %t, %v", changed, err)
	}
	all[1].renumber("192.0.2.22", 24)
	settle(t, all)
	stop()
	stopOther()
	reach(t, "1 to the renumbered 2", a.NS, b)
	reach(t, "the renumbered 2 to 3", b.NS, c)
	if fdb := all[0].shows("bridge", "fdb", "show", "dev", Device(vni)); bytes.Contains(fdb, []byte("192.0.2.2 ")) {
		t.Errorf("the old address is still there:\n%s", fdb)
	}
}
