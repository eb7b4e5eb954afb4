package plasma

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// A loss is how a node is lost for a time.
type loss struct {
	name        string
	lose, found func(*losing)
}

func losses() []loss {
	stop := func(w *losing) {
		w.signal(w.node.Pid, unix.SIGSTOP)
		w.signal(w.pid(w.server), unix.SIGSTOP)
	}
	goOn := func(w *losing) {
		w.signal(w.pid(w.server), unix.SIGCONT)
		w.signal(w.node.Pid, unix.SIGCONT)
	}
	return []loss{
		{"its cable is out", func(w *losing) { w.must(w.p.Cut(w.node)) }, func(w *losing) { w.must(w.p.Mend(w.node)) }},
		{"all of it is paused", stop, goOn},
		{"its plasmad is paused", func(w *losing) { w.signal(w.node.Pid, unix.SIGSTOP) }, func(w *losing) { w.signal(w.node.Pid, unix.SIGCONT) }},
		{"its plasmad is killed", func(w *losing) { w.must(w.node.Kill()) }, func(w *losing) { w.must(w.node.Start(w.t.Context())) }},
	}
}

// losing is a service that gives actors of lost nodes to others.
type losing struct {
	*world
	node   *harness.PlasmaNode
	server string
}

const relocating = 12 // actors

// relocate has nodes be lost for longer than their leases, one way after the other, while each
// node's clients call: an actor of a lost node begins anew elsewhere, and is never in two places.
func relocate(t *testing.T, p *harness.Plasma, image images.Image, name string, ways []loss) {
	tell(t, p)
	b := app(t, image, name, "", "relocate = true\n[servers]\nmin = 3\nmax = 3\n[limit]\ncpu = 0.5\n")
	if err := p.Nodes[0].Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	up(t, p.Nodes[0], name, 3)
	var clients []*client
	for _, n := range p.Nodes {
		clients = append(clients, dial(t, n, name))
	}
	l := follow(t, relocating, clients...)
	w := &losing{world: &world{t: t, p: p, service: name}}
	for i, way := range ways {
		w.pick(leaderOf(t, p), i)
		began := time.Now()
		way.lose(w)
		other := p.Nodes[0]
		if other == w.node {
			other = p.Nodes[1]
		}
		eventually(t, w.server+" is given up", 30*time.Second, func(ctx context.Context) error {
			s, err := serviceOf(ctx, other, name)
			if err != nil {
				return err
			}
			for _, v := range s.Servers {
				if v.ID == w.server && v.Shards > 0 {
					return fmt.Errorf("not yet: %+v; %s", s.Servers, s.Trouble)
				}
			}
			return nil
		})
		given := time.Since(began)
		c := clients[0]
		if other == p.Nodes[1] {
			c = clients[1]
		}
		eventually(t, "others have its actors", 30*time.Second, func(context.Context) error { return l.served(c, relocating) })
		served := time.Since(began)
		way.found(w)
		up(t, other, name, 3)
		t.Logf("%s: given up after %s, served again after %s, whole after %s", way.name,
			given.Round(10*time.Millisecond), served.Round(10*time.Millisecond), time.Since(began).Round(10*time.Millisecond))
	}
	calls, count := l.check()
	t.Logf("%d calls, %d lives of %d actors", calls, count, relocating)
	if count < relocating+len(ways) {
		t.Errorf("only %d actors began anew", count-relocating)
	}
}

// pick chooses a node to lose, with a server, in turn the global manager's.
func (w *losing) pick(leader *harness.PlasmaNode, i int) {
	w.t.Helper()
	eventually(w.t, "a server to lose", 30*time.Second, func(ctx context.Context) error {
		s, err := serviceOf(ctx, w.p.Nodes[0], w.service)
		if err != nil {
			return err
		}
		for _, v := range s.Servers {
			n := nodeOf(w.p, v)
			if v.State == model.Up && v.Shards > 0 && (n == leader) == (i%2 == 1) {
				w.node, w.server = n, v.ID
				return nil
			}
		}
		return fmt.Errorf("none fits: %+v", s.Servers)
	})
}

// TestRelocate loses nodes of a service that gives their actors to others: in the long form in all
// ways, twice.
func TestRelocate(t *testing.T) {
	p, image := cluster(t, 3, nil)
	ways := append(losses(), losses()...)
	if !soak() {
		ways = ways[:1]
	}
	relocate(t, p, image, "lost", ways)
}
