package peers_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is the i-th of many that get along, in network 42.
func node(i int) peers.Node {
	return peers.Node{
		Name:    fmt.Sprintf("n%d", i),
		Address: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}),
		Networks: map[uint32][]netip.Prefix{42: {
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24),
		}},
	}
}

func at(n peers.Node, address string) peers.Node {
	n.Address = netip.MustParseAddr(address)
	return n
}

func subnets(n peers.Node, vni uint32, prefixes ...string) peers.Node {
	n.Networks = map[uint32][]netip.Prefix{vni: {}}
	for _, p := range prefixes {
		n.Networks[vni] = append(n.Networks[vni], netip.MustParsePrefix(p))
	}
	return n
}

func named(n peers.Node, name string) peers.Node {
	n.Name = name
	return n
}

func same(a, b []peers.Node) bool { return slices.EqualFunc(a, b, peers.Node.Equal) }

// patience is how long a test waits for what must come.
const patience = time.Minute

// running is a source at work.
type running struct {
	t      testing.TB
	source peers.Source
	stop   func() // and wait; may be called twice
	news   chan struct{}

	mu    sync.Mutex
	calls int
	list  []peers.Node
}

// run runs a source until the test ends.
func run(t testing.TB, source peers.Source, self peers.Node) *running {
	r := &running{t: t, source: source, news: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, self, r.changed) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run of %s: %v", self.Name, err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *running) changed(nodes []peers.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = nodes
	r.calls++
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *running) last() (calls int, list []peers.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls, r.list
}

// want waits until the list is this one, in this order.
func (r *running) want(nodes ...peers.Node) {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		if calls, list := r.last(); calls > 0 && same(list, nodes) {
			return
		}
		select {
		case <-r.news:
		case <-deadline:
			_, list := r.last()
			r.t.Fatalf("after %s the list is %v, want %v; status %+v", patience, list, nodes, r.status())
		}
	}
}

func (r *running) status() peers.Status { return r.source.(peers.Reporter).Status() }

// wantStatus waits for a status, which comes without a call.
func (r *running) wantStatus(what string, ok func(peers.Status) bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok(r.status()) {
		if time.Now().After(deadline) {
			r.t.Fatalf("after %s not %s: %+v", patience, what, r.status())
		}
		<-time.After(10 * time.Millisecond)
	}
}

func connected(s peers.Status) bool { return s.Connected && s.Err == nil && !s.Since.IsZero() }
func lost(s peers.Status) bool      { return !s.Connected && s.Err != nil && !s.Since.IsZero() }
