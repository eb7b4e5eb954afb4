package network

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
)

// Flows that the node's rules translate stay on the kernel's path, in both directions;
// others leave it.
func TestFastTranslated(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	n := c.nodes[0]
	// As portmap does: a port of the node, and of the gateway, is a container's.
	a, beside, b := c.contain(1, "falcon", "a"), c.contain(1, "falcon", "beside"), c.contain(2, "falcon", "b")
	echo := b.NS.Echo("udp", net.JoinHostPort(b.Address(0), "7007"))
	run(t, n, "nft", "add table ip ports; "+
		"add chain ip ports to { type nat hook prerouting priority dstnat; }; "+
		"add chain ip ports from { type nat hook postrouting priority srcnat; }; "+
		"add rule ip ports to udp dport 8080 dnat to "+echo+"; "+
		"add rule ip ports from udp dport 7007 masquerade")
	isOpen(t, c.nodes...)
	known := programs(t, n)
	direct := number(t, a, b, 0, 0)
	direct.becomes(n, known, "fast", "")
	for _, who := range []*member{a, beside} {
		for _, to := range []string{"10.88.1.1:8080", "192.0.2.1:8080"} {
			conn, err := who.NS.Dial("udp", to, patience)
			if err != nil {
				t.Fatal(err)
			}
			for range 50 {
				bounce(t, conn, 100)
			}
			for _, end := range []string{to, echo} {
				if f, there := flowBetween(t, known, "udp", addrPort(conn.LocalAddr()), netip.MustParseAddrPort(end)); there && f.State == "fast" {
					t.Errorf("%s to %s by %s is fast: %+v", who.ID, to, end, f)
				}
			}
			conn.Close()
		}
	}
	// Replies that are translated back at this node have another source there.
	all, err := known.Flows()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if (f.Source.Port() == 7007 || f.Destination.Port() == 7007 || f.Destination.Port() == 8080) && f.State == "fast" {
			t.Errorf("a translated flow is fast: %+v", f)
		}
	}
	direct.end()
	leave(a, beside, b)
}

// Rules that ask for the state of connections need every packet: nothing takes the shortcut,
// and the status says why.
func TestFastStateful(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	n := c.nodes[0]
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	isOpen(t, c.nodes...)
	s := number(t, a, b, 0, 0)
	rising(t, n, 100, "out")
	run(t, n, "nft", "add table inet site; add chain inet site watched { type filter hook forward priority 0; }; "+
		"add rule inet site watched ct state invalid counter")
	n.Eventually(func() error {
		if off := shortcutOf(t, n).Off; !strings.Contains(off, "chain watched") || !strings.Contains(off, "inet site") {
			return fmt.Errorf("the shortcut is off because of %q", off)
		}
		return nil
	})
	still(t, n, s, 500)
	text, err := n.Falcond("status")
	if err != nil || !strings.Contains(text, "chain watched") {
		t.Errorf("status does not tell why: %v\n%s", err, text)
	}
	run(t, n, "nft", "delete table inet site")
	isOpen(t, n)
	rising(t, n, 100, "out")
	s.end()
	leave(a, b)
}

// soon is how long a change of others may take to be in force for flows that are fast.
const soon = time.Second

// stops waits until nothing of a sequence arrives any more, and fails the test if that takes
// longer than it may, from begin on.
func (s *sequence) stops(what string, begin time.Time) {
	s.t.Helper()
	const quiet = 300 * time.Millisecond
	for end := time.Now().Add(patience); time.Since(time.Unix(0, s.last.Load())) < quiet; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("%s: the flow goes on", what)
		}
	}
	took := time.Unix(0, s.last.Load()).Sub(begin)
	s.t.Logf("%s is in force after %s", what, max(took, 0))
	if took > soon {
		s.t.Errorf("%s is in force after %s only", what, took)
	}
}

// A rule or a route that forbids a flow ends it, however fast it was.
func TestFastForbidden(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	n := c.nodes[0]
	a, beside, b := c.contain(1, "falcon", "a"), c.contain(1, "falcon", "beside"), c.contain(2, "falcon", "b")
	run(t, n, "nft", "add table inet site; add chain inet site gate { type filter hook forward priority 0; }; "+
		"add table bridge site; add chain bridge site gate { type filter hook forward priority 0; }; "+
		"add table inet far; add chain inet far gate { type filter hook forward priority 0; }")
	isOpen(t, c.nodes...)
	known := programs(t, n)
	far, near := number(t, a, b, 0, 0), number(t, a, beside, 0, 0)
	for _, change := range []struct {
		flow       *sequence
		what       string
		forbid, by []string
	}{
		{far, "a rule", []string{"nft", "add rule inet site gate ip daddr " + b.Address(0) + " drop"}, []string{"nft", "flush chain inet site gate"}},
		{near, "a bridge's rule", []string{"nft", "add rule bridge site gate ip daddr " + beside.Address(0) + " drop"}, []string{"nft", "flush chain bridge site gate"}},
		{far, "a route", []string{"ip", "route", "add", "blackhole", b.Address(0)}, []string{"ip", "route", "del", "blackhole", b.Address(0)}},
		{far, "a routing rule", []string{"ip", "rule", "add", "from", a.Address(0), "blackhole"}, []string{"ip", "rule", "del", "from", a.Address(0), "blackhole"}},
	} {
		change.flow.becomes(n, known, "fast", "")
		run(t, n, change.forbid[0], change.forbid[1:]...)
		change.flow.stops(change.what, time.Now())
		begin := time.Now()
		run(t, n, change.by[0], change.by[1:]...)
		change.flow.goOn("after "+change.what+" was taken back", 100)
		change.flow.becomes(n, known, "fast", "")
		t.Logf("%s: fast again after %s", change.what, time.Since(begin))
	}
	// At the receiver's node.
	run(t, c.nodes[1], "nft", "add table inet site; add chain inet site gate { type filter hook forward priority 0; }")
	atB := programs(t, c.nodes[1])
	far.becomes(c.nodes[1], atB, "fast", "")
	run(t, c.nodes[1], "nft", "add rule inet site gate ip saddr "+a.Address(0)+" drop")
	far.stops("the receiver's rule", time.Now())
	run(t, c.nodes[1], "nft", "delete table inet site")
	far.goOn("after the receiver's rule was taken back", 100)
	far.becomes(c.nodes[1], atB, "fast", "")
	far.abort()
	near.abort()
	leave(a, beside, b)
}

// A queueing discipline at a container's link sees all that goes to it: flows that were fast
// have its rate.
func TestFastShaped(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false).start()
	a, beside, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "beside"), c.contain(2, "falcon", "b")
	n := c.nodes[1]
	isOpen(t, c.nodes...)
	far, near := pour(t, a, b), pour(t, beside, b)
	rising(t, n, 100, "tunnel")
	rising(t, n, 100, "local")
	h := n.NS.Netlink()
	link, err := h.LinkByName(attach.LinkName("b", "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	const limit = 2 << 20 // bytes in a second
	shaper := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       limit, Limit: 256 << 10, Buffer: 64 << 10,
	}
	free := rate(200*time.Millisecond, far, near)
	if err := h.QdiscAdd(shaper); err != nil {
		t.Fatal(err)
	}
	n.Eventually(func() error {
		if len(shortcutOf(t, n).Slow) != 1 {
			return fmt.Errorf("the shortcut: %+v", shortcutOf(t, n))
		}
		return nil
	})
	time.Sleep(500 * time.Millisecond) // what had arrived before is read
	shaped := rate(time.Second, far, near)
	t.Logf("%.0f MiB/s, shaped %.2f MiB/s", free/(1<<20), shaped/(1<<20))
	if shaped > 1.3*limit || shaped < limit/4 {
		t.Errorf("%.0f bytes in a second came through a queueing discipline of %d", shaped, limit)
	}
	if err := h.QdiscDel(shaper); err != nil {
		t.Fatal(err)
	}
	isOpen(t, n)
	rising(t, n, 100, "tunnel")
	rising(t, n, 100, "local")
	if again := rate(200*time.Millisecond, far, near); again < 2*limit {
		t.Errorf("without it, %.0f bytes in a second", again)
	}
	far.stop()
	near.stop()
	leave(a, beside, b)
}

// torrent is a TCP connection with as much as goes through it.
type torrent struct {
	n    atomic.Int64 // bytes that arrived
	stop func()
}

// Write implements io.Writer.
func (p *torrent) Write(b []byte) (int, error) {
	p.n.Add(int64(len(b)))
	return len(b), nil
}

func pour(t *testing.T, from, to *member) *torrent {
	t.Helper()
	l := to.NS.Listen("tcp", net.JoinHostPort(to.Address(0), "0"))
	p := &torrent{}
	ended := make(chan struct{}, 2)
	go func() {
		defer func() { ended <- struct{}{} }()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(p, conn)
	}()
	conn, err := from.NS.Dial("tcp", l.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer func() { ended <- struct{}{} }()
		for buf := make([]byte, 64<<10); err == nil; {
			_, err = conn.Write(buf)
		}
	}()
	p.stop = func() {
		l.Close()
		conn.Close()
		<-ended
		<-ended
	}
	return p
}

// rate is how many bytes a second arrive, measured for a time.
func rate(of time.Duration, all ...*torrent) (perSecond float64) {
	var before int64
	for _, p := range all {
		before += p.n.Load()
	}
	begin := time.Now()
	time.Sleep(of)
	var now int64
	for _, p := range all {
		now += p.n.Load()
	}
	return float64(now-before) / time.Since(begin).Seconds()
}
