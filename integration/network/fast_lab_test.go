package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
)

// shortcutOf is what a node's agent reports of the shortcut.
func shortcutOf(t *testing.T, n *node.Node) agent.ShortcutReport {
	t.Helper()
	r, err := n.Report()
	if err != nil {
		t.Fatal(err)
	}
	return r.Shortcut
}

// taken is how many packets of a node took the shortcut, at all places or at those named.
func taken(t *testing.T, n *node.Node, places ...string) (packets uint64) {
	t.Helper()
	for place, count := range shortcutOf(t, n).Taken {
		if len(places) == 0 || slices.Contains(places, place) {
			packets += count
		}
	}
	return packets
}

// isOpen waits until packets may take the shortcut.
func isOpen(t *testing.T, nodes ...*node.Node) {
	t.Helper()
	for _, n := range nodes {
		n.Eventually(func() error {
			s := shortcutOf(t, n)
			// Kernel threads can't be seen from the tests' PID namespace.
			if s.Off != "" || s.Problem != "" && !strings.Contains(s.Problem, "threads of the queues") || len(s.Slow) > 0 || s.Waiting > 0 {
				return fmt.Errorf("the shortcut: off %q, problem %q, slow %v, waiting %d", s.Off, s.Problem, s.Slow, s.Waiting)
			}
			return nil
		})
	}
}

// rising waits until more packets of a node took the shortcut, by at least so many.
func rising(t *testing.T, n *node.Node, by uint64, places ...string) {
	t.Helper()
	before := taken(t, n, places...)
	n.Eventually(func() error {
		if now := taken(t, n, places...); now < before+by {
			return fmt.Errorf("%d packets took the shortcut by %v, want %d more; %+v", now-before, places, by, shortcutOf(t, n))
		}
		return nil
	})
}

// still fails the test unless no packet of a node takes the shortcut while s delivers so many.
func still(t *testing.T, n *node.Node, s *sequence, packets uint64, places ...string) {
	t.Helper()
	before := taken(t, n, places...)
	s.goOn("on the slow path", packets)
	if now := taken(t, n, places...); now != before {
		t.Errorf("%d packets took the shortcut by %v", now-before, places)
	}
}

// sequence is a flow of numbered datagrams from one container to another, each of which has
// to arrive once, as it was sent, in order.
type sequence struct {
	t         *testing.T
	from, to  net.PacketConn
	target    net.Addr
	stop      chan struct{}
	once      sync.Once // ends it
	sending   sync.WaitGroup
	receiving sync.WaitGroup
	sent      atomic.Uint64
	arrived   atomic.Uint64
	wrong     atomic.Uint64 // not what was sent
	late      atomic.Uint64 // behind one that was sent later
	lateAt    atomic.Uint64 // the number of the last such
	last      atomic.Int64  // when the last one arrived, ns since 1970
	refused   atomic.Uint64 // by the sender's kernel
}

const (
	paced        = 5000 // datagrams in a second
	datagramSize = 300
)

// number begins a sequence from a container to the other's i-th address, at a port or at any.
func number(t *testing.T, from, to *member, i, port int) *sequence {
	t.Helper()
	s := sequenceBetween(t, from, to, i, port)
	s.begin()
	return s
}

// sequenceBetween is number that doesn't begin.
func sequenceBetween(t *testing.T, from, to *member, i, port int) *sequence {
	t.Helper()
	s := &sequence{t: t, stop: make(chan struct{})}
	s.to = to.NS.ListenPacket("udp", net.JoinHostPort(to.Address(i), fmt.Sprint(port)))
	s.from = from.NS.ListenPacket("udp", net.JoinHostPort(from.Address(i), "0"))
	s.target = s.to.LocalAddr()
	roomy(t, s.to)
	return s
}

func (s *sequence) begin() {
	s.receiveFrom(s.to)
	s.sending.Go(s.send)
	s.t.Cleanup(func() { s.cease(none) })
}

// roomy has a socket keep what a busy machine is late to read.
func roomy(t *testing.T, c net.PacketConn) {
	t.Helper()
	control(t, c.(net.Conn), func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	})
}

// cease ends it; what is under way is waited for, with so many of others.
func (s *sequence) cease(arriving uint64) {
	s.once.Do(func() {
		close(s.stop)
		s.sending.Wait()
		for end := time.Now().Add(patience / 6); s.arrived.Load() < arriving+s.sent.Load() && arriving != none && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		s.to.Close()
		s.receiving.Wait()
	})
}

// none is for cease that waits for nothing.
const none = math.MaxUint64

// text is the n-th datagram.
func text(n uint64) []byte {
	b := make([]byte, datagramSize)
	binary.BigEndian.PutUint64(b, n)
	random := rand.New(rand.NewPCG(n, 0))
	for i := 8; i+8 <= len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], random.Uint64())
	}
	return b
}

func (s *sequence) send() {
	begin := time.Now()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		// What is late isn't made up for: a burst would fill queues.
		due := uint64(time.Since(begin) * paced / time.Second)
		// Datagrams that wait until a neighbour is found may be overtaken by those that are sent
		// when it has been (neigh_update in net/core/neighbour.c): the first goes alone.
		if s.arrived.Load() == 0 && time.Since(begin) < time.Second {
			due = min(due, 1)
		}
		for n := 0; n < 2*paced/1000 && s.sent.Load() < due; n++ {
			if _, err := s.from.WriteTo(text(s.sent.Load()), s.target); err != nil {
				s.refused.Add(1)
				break
			}
			s.sent.Add(1)
		}
	}
}

// receiveFrom counts what arrives at a socket until it is closed.
func (s *sequence) receiveFrom(c net.PacketConn) {
	s.receiving.Go(func() {
		buf := make([]byte, 2*datagramSize)
		for next := uint64(0); ; {
			n, _, err := c.ReadFrom(buf)
			if err != nil { // by cease, or by the end of the test
				return
			}
			s.last.Store(time.Now().UnixNano())
			s.arrived.Add(1)
			if n < 8 {
				s.wrong.Add(1)
				continue
			}
			number := binary.BigEndian.Uint64(buf)
			if !bytes.Equal(buf[:n], text(number)) {
				s.wrong.Add(1)
			}
			if number < next {
				s.late.Add(1)
				s.lateAt.Store(number)
			}
			next = max(next, number+1)
		}
	})
}

// goOn waits until more datagrams have arrived.
func (s *sequence) goOn(when string, more uint64) {
	s.t.Helper()
	start, end := s.arrived.Load(), time.Now().Add(patience)
	for s.arrived.Load() < start+more {
		if time.Now().After(end) {
			s.t.Fatalf("%s, the datagrams stand: %d arrived in %s", when, s.arrived.Load()-start, patience)
		}
		time.Sleep(time.Millisecond)
	}
}

// end ends a sequence and fails the test unless all have arrived in order.
func (s *sequence) end() {
	s.t.Helper()
	s.endsWith(0)
	if late := s.late.Load(); late > 0 {
		s.t.Errorf("%d datagrams arrived behind later ones, the last of them number %d of %d", late, s.lateAt.Load(), s.sent.Load())
	}
}

// endsWith ends a sequence and fails the test unless all have arrived, and so many of others,
// with a text of the sequence.
func (s *sequence) endsWith(others uint64) {
	s.t.Helper()
	s.cease(others)
	if sent, arrived, wrong := s.sent.Load(), s.arrived.Load(), s.wrong.Load(); sent+others != arrived || wrong != 0 {
		s.t.Errorf("of %d datagrams, and %d of others, %d arrived, %d of them not as they were sent", sent, others, arrived, wrong)
	}
}

// abort ends a sequence of which some were to be lost, but none to arrive in disorder.
func (s *sequence) abort() {
	s.t.Helper()
	s.cease(none)
	if wrong, late := s.wrong.Load(), s.late.Load(); wrong+late > 0 {
		s.t.Errorf("%d datagrams arrived not as they were sent, %d behind later ones", wrong, late)
	}
}

// flow is what a node's programs know of the sequence.
func (s *sequence) flow(f *fastpath.Fastpath) (fastpath.Flow, bool) {
	return flowBetween(s.t, f, "udp", addrPort(s.from.LocalAddr()), addrPort(s.target))
}

func addrPort(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

// flowBetween is what programs know of one direction of a connection.
func flowBetween(t *testing.T, f *fastpath.Fastpath, protocol string, from, to netip.AddrPort) (fastpath.Flow, bool) {
	t.Helper()
	all, err := f.Flows()
	if err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(x fastpath.Flow) bool {
		return x.Protocol == protocol && x.Source == from && x.Destination == to
	})
	if i < 0 {
		return fastpath.Flow{}, false
	}
	return all[i], true
}

// becomes waits until a sequence's flow is in a state and of a class; "" is any.
func (s *sequence) becomes(n *node.Node, f *fastpath.Fastpath, state, class string) {
	s.t.Helper()
	n.Eventually(func() error {
		flow, known := s.flow(f)
		if !known || state != "" && flow.State != state || class != "" && flow.Class != class {
			return fmt.Errorf("known %t: %+v; want %s %s", known, flow, state, class)
		}
		return nil
	})
}

// programs opens what a node's agent has attached, to look at its maps.
func programs(t *testing.T, n *node.Node) (f *fastpath.Fastpath) {
	t.Helper()
	var err error
	n.NS.Do(func() { f, err = fastpath.Open(fastpath.Probe()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// attachedTo are the names of falcon's programs at all links of a node, with their maps' IDs.
func attachedTo(t *testing.T, n *node.Node) (names []string, owned map[string]ebpf.MapID) {
	t.Helper()
	owned = map[string]ebpf.MapID{}
	n.NS.Do(func() {
		links, err := n.NS.Netlink().LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			at := l.Attrs()
			var ids []ebpf.ProgramID
			for _, kind := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				result, err := link.QueryPrograms(link.QueryOptions{Target: at.Index, Attach: kind})
				if err != nil {
					t.Fatalf("%s: %v", at.Name, err)
				}
				for _, p := range result.Programs {
					ids = append(ids, p.ID)
				}
			}
			if at.Xdp != nil && at.Xdp.Attached {
				ids = append(ids, ebpf.ProgramID(at.Xdp.ProgId))
			}
			for _, id := range ids {
				name, ofIt := describe(t, id)
				names = append(names, at.Name+" "+name)
				maps.Copy(owned, ofIt)
			}
		}
	})
	slices.Sort(names)
	return names, owned
}

func describe(t *testing.T, id ebpf.ProgramID) (string, map[string]ebpf.MapID) {
	t.Helper()
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	owned := map[string]ebpf.MapID{}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			t.Fatal(err)
		}
		owned[info.Name] = id
	}
	return info.Name, owned
}

// leaseEnds has the programs of a node, whose agent is dead, take it that its lease ends now.
func leaseEnds(t *testing.T, n *node.Node) {
	t.Helper()
	_, owned := attachedTo(t, n)
	m, err := ebpf.NewMapFromID(owned[bpf.FalconMapFalconSettings])
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var zero uint32
	var settings bpf.FalconSettings
	if err := m.Lookup(&zero, &settings); err != nil {
		t.Fatal(err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	settings.ValidUntil = uint64(now.Nano())
	if err := m.Put(&zero, &settings); err != nil {
		t.Fatal(err)
	}
}
