package network

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// pair are two containers that stay attached, with connections on which data flows: from
// one to the other and, masqueraded, to outside, over both families.
type pair struct {
	a, b    *node.Container
	streams []*stream
}

func newPair(t *testing.T, n *node.Node, outside *netnstest.NS) pair {
	t.Helper()
	list := n.List("1.1.0", node.Network("falcon"))
	p := pair{a: n.Container("steady-a"), b: n.Container("steady-b")}
	n.MustAdd(list, p.a)
	n.MustAdd(list, p.b)
	out := &node.Container{NS: outside, Result: &types100.Result{}}
	for _, a := range []string{"192.0.2.254", "fd00:2::fe"} {
		out.Result.IPs = append(out.Result.IPs, &types100.IPConfig{Address: net.IPNet{IP: net.ParseIP(a)}})
	}
	for _, to := range []*node.Container{p.b, out} {
		for i := range 2 {
			p.streams = append(p.streams, flow(t, &member{Container: p.a}, &member{Container: to}, i))
		}
	}
	return p
}

func (p pair) goOn(when string) {
	for _, s := range p.streams {
		s.goOn(when)
	}
}

func (p pair) end() {
	for _, s := range p.streams {
		s.end()
	}
}

// Established connections don't notice the agent's ends and starts.
func TestConnectionsSurvive(t *testing.T) {
	t.Parallel()
	n := node.New(t, 1)
	outside := n.Outside()
	copyBinaries(t, n)
	n.Start()
	p := newPair(t, n, outside)
	links := linksOf(t, n)
	for _, e := range []struct {
		name string
		end  func()
	}{
		{"SIGKILL", n.Kill},
		{"a restart", n.Stop},
		{"an upgrade", func() { replaceBinary(t, n); n.Stop() }},
		{"SIGKILL again", n.Kill},
	} {
		p.goOn("before " + e.name)
		e.end()
		p.goOn("without the agent, after " + e.name)
		n.Start()
		p.goOn("after " + e.name)
		n.MustHold(p.a, p.b)
	}
	p.end()
	if now := linksOf(t, n); fmt.Sprint(now) != fmt.Sprint(links) {
		t.Errorf("links were made anew: %s, were %s", now, links)
	}
}

// rounds is how often a test kills.
const rounds = 40

// churn attaches containers, and detaches some, until the agent or the caller has no more.
// It returns those that are known to be attached.
func churn(ctx context.Context, n *node.Node, containers []*node.Container) (attached []*node.Container) {
	list := n.List("1.1.0", node.Network("falcon"))
	for i, c := range containers {
		if n.Add(ctx, list, c) != nil {
			continue
		}
		if i%2 == 0 {
			_ = n.Del(ctx, list, c) // whatever comes of it, it is the runtime's no more
			continue
		}
		attached = append(attached, c)
	}
	return attached
}

// Whenever the agent is killed, the next one and GC leave nothing of what the runtime does
// not know, and all of what it does.
func TestKillAgent(t *testing.T) {
	t.Parallel()
	n := node.New(t, 1)
	outside := n.Outside()
	n.Start()
	p := newPair(t, n, outside)
	list := n.List("1.1.0", node.Network("falcon"))
	var containers []*node.Container
	for i := range 5 {
		containers = append(containers, n.Container(fmt.Sprintf("churn-%d", i)))
	}
	echo := p.b.NS.Echo("udp", at(p.b, 0, "0"))
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for range rounds {
		done := make(chan []*node.Container)
		go func() { done <- churn(t.Context(), n, containers) }()
		moment := time.Duration(random.Int64N(int64(60 * time.Millisecond)))
		<-time.After(moment)
		n.Kill()
		attached := <-done
		n.Start()
		valid := append([]*node.Container{p.a, p.b}, attached...)
		if err := n.GC(t.Context(), list, valid...); err != nil {
			t.Fatalf("killed after %s: GC: %v", moment, err)
		}
		n.MustHold(valid...)
		for _, c := range valid {
			if err := n.Check(t.Context(), list, c); err != nil {
				t.Fatalf("killed after %s: CHECK of %s: %v", moment, c.ID, err)
			}
		}
		for _, c := range attached {
			if err := c.NS.Try("udp", echo, patience); err != nil {
				t.Fatalf("killed after %s: traffic of %s: %v", moment, c.ID, err)
			}
		}
		n.MustDel(list, attached...)
	}
	n.MustHold(p.a, p.b)
	p.goOn("after the last kill")
	p.end()
}

// The same of the plugin, which the runtime kills when it has waited too long.
func TestKillPlugin(t *testing.T) {
	t.Parallel()
	n := node.New(t, 1)
	n.Outside()
	n.Start()
	list := n.List("1.1.0", node.Network("falcon"))
	steady := n.Container("steady")
	n.MustAdd(list, steady)
	var containers []*node.Container
	for i := range 3 {
		containers = append(containers, n.Container(fmt.Sprintf("churn-%d", i)))
	}
	for range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(40*time.Millisecond))))
		attached := churn(ctx, n, containers)
		cancel()
		valid := append([]*node.Container{steady}, attached...)
		// What the plugin had asked for may still be on its way.
		n.Eventually(func() error {
			if err := n.GC(t.Context(), list, valid...); err != nil {
				return err
			}
			return n.Holds(valid...)
		})
		for _, c := range valid {
			if err := n.Check(t.Context(), list, c); err != nil {
				t.Fatalf("CHECK of %s: %v", c.ID, err)
			}
		}
		n.MustDel(list, attached...)
	}
	n.Eventually(func() error {
		if err := n.GC(t.Context(), list, steady); err != nil {
			return err
		}
		return n.Holds(steady)
	})
}
