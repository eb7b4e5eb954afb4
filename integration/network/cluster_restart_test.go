package network

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// stream is a TCP connection on which data flows from one container to another until it is
// ended.
type stream struct {
	t        *testing.T
	conn     net.Conn
	arrived  atomic.Int64 // bytes
	finish   chan struct{}
	sent     chan fate
	received chan fate
}

// fate is how one end of a stream fared.
type fate struct {
	bytes int64
	hash  []byte
	err   error
}

// flow begins a stream to the member's i-th address.
func flow(t *testing.T, from, to *member, i int) *stream {
	t.Helper()
	s := &stream{t: t, finish: make(chan struct{}), sent: make(chan fate, 1), received: make(chan fate, 1)}
	l := to.NS.Listen("tcp", net.JoinHostPort(to.Address(i), "0"))
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	var err error
	s.conn, err = from.NS.Dial("tcp", l.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := <-accepted
	if !ok {
		t.Fatal("nobody was accepted")
	}
	t.Cleanup(func() { c.Close() })
	go s.receive(c)
	go s.send()
	return s
}

// pace is how often a piece is sent: the connection is never idle, and leaves the
// processors to others.
const pace = 2 * time.Millisecond

func (s *stream) send() {
	random, h, f := rand.NewChaCha8([32]byte{}), sha256.New(), fate{}
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for f.err == nil {
		select {
		case <-s.finish:
			f.hash, f.err = h.Sum(nil), s.conn.Close()
			s.sent <- f
			return
		case <-ticker.C:
			_ = s.conn.SetDeadline(time.Now().Add(patience))
			var n int64
			n, f.err = io.CopyN(io.MultiWriter(s.conn, h), random, 16<<10)
			f.bytes += n
		}
	}
	s.sent <- f
}

func (s *stream) receive(c net.Conn) {
	h := sha256.New()
	n, err := io.Copy(&counter{h, &s.arrived}, c)
	s.received <- fate{n, h.Sum(nil), errors.Join(err, c.Close())}
}

// counter counts what a hash takes.
type counter struct {
	hash.Hash
	n *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.Hash.Write(p)
}

// goOn waits until more has arrived: what was on its way before, and what was not.
func (s *stream) goOn(when string) {
	s.t.Helper()
	const more = 1 << 20
	start, end := s.arrived.Load(), time.Now().Add(patience)
	for s.arrived.Load() < start+more {
		if time.Now().After(end) {
			s.t.Fatalf("%s, the stream stands: %d bytes arrived in %s", when, s.arrived.Load()-start, patience)
		}
		time.Sleep(pace)
	}
}

// end ends the stream and fails the test unless all that was sent has arrived.
func (s *stream) end() {
	s.t.Helper()
	close(s.finish)
	sent, received := <-s.sent, <-s.received
	if err := errors.Join(sent.err, received.err); err != nil {
		s.t.Errorf("the connection broke: %v", err)
	}
	if sent.bytes != received.bytes || !bytes.Equal(sent.hash, received.hash) {
		s.t.Errorf("%d bytes were sent and %d, or others, have arrived", sent.bytes, received.bytes)
	}
}

// Connections don't notice that agents die, start again, and are replaced by others.
func TestClusterAgentsRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, false)
	for _, n := range c.nodes {
		copyBinaries(t, n)
	}
	c.start()
	a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
	streams := []*stream{flow(t, a, b, 0), flow(t, b, a, 1)}
	goOn := func(when string) {
		t.Helper()
		for _, s := range streams {
			s.goOn(when)
		}
	}
	goOn("in peace")
	links := [][]string{linksOf(t, c.nodes[0]), linksOf(t, c.nodes[1])}
	for round := range 3 {
		for _, n := range c.nodes {
			n.Kill()
		}
		goOn("with dead agents")
		if round == 2 { // what is done during an upgrade
			for _, n := range c.nodes {
				replaceBinary(t, n)
			}
		}
		for _, n := range c.nodes {
			n.Start()
		}
		goOn("with agents that were killed and started again")
	}
	// In good order, one after the other.
	for _, n := range c.nodes {
		n.Stop()
		replaceBinary(t, n)
		n.Start()
		goOn("after an upgrade")
	}
	for i, n := range c.nodes {
		if got := linksOf(t, n); !slices.Equal(got, links[i]) {
			t.Errorf("links of node %d were made anew: %v, before %v", i+1, got, links[i])
		}
	}
	for _, s := range streams {
		s.end()
	}
	for _, m := range []*member{a, b} {
		if err := m.n.Check(t.Context(), m.list, m.Container); err != nil {
			t.Errorf("CHECK of %s: %v", m.ID, err)
		}
	}
	leave(a, b)
}

// copyBinaries gives a node its own, which can be replaced.
func copyBinaries(t *testing.T, n *node.Node) {
	t.Helper()
	dir := filepath.Join(n.Dir, "bin")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"falcon", "falcond"} {
		text, err := os.ReadFile(filepath.Join(n.Bin, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	n.Bin = dir
}

// replaceBinary puts another falcond in the place of the node's, as installing does. It
// differs by a byte that nobody reads.
func replaceBinary(t *testing.T, n *node.Node) {
	t.Helper()
	file := filepath.Join(n.Bin, "falcond")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file+".new", append(text, 0), 0o700)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// linksOf are the links of a node with their numbers, which no other ever has.
func linksOf(t *testing.T, n *node.Node) (all []string) {
	t.Helper()
	h := n.NS.Netlink()
	var err error = netlink.ErrDumpInterrupted
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		var links []netlink.Link
		links, err = h.LinkList()
		all = nil
		for _, l := range links {
			all = append(all, fmt.Sprintf("%d: %s", l.Attrs().Index, l.Attrs().Name))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}
