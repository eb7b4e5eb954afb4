package global

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/place"
)

// Nodes is how the plasmads of other nodes, and this one's, are asked.
type Nodes interface {
	// Profile gives what a node measures, until ctx is done or the node is lost.
	Profile(ctx context.Context, node place.Member, period time.Duration, got func(*api.ProfileResponse)) error
	// Freeze is api.HostServer's, of a server of the node.
	Freeze(ctx context.Context, node place.Member, r *api.NodeFreezeRequest) (*api.FreezeResponse, error)
}

// profiles is what nodes have measured last. It may be used by several goroutines at once.
type profiles struct {
	nodes Nodes
	// urgent is told the services of a node that has an overloaded server; it never blocks.
	urgent func(services map[string]bool)

	mu      sync.Mutex
	period  time.Duration    // how often nodes send one
	regular time.Time        // when the last came that was not urgent
	last    map[string]heard // by node
	follows map[string]*following
	wg      sync.WaitGroup
}

type heard struct {
	at      time.Time
	profile *api.ProfileResponse
}

type following struct {
	address string
	cancel  context.CancelFunc
}

// follow listens to these nodes and to no others, each of which sends a profile so often.
func (p *profiles) follow(ctx context.Context, members []place.Member, period time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.period != period {
		for node, f := range p.follows {
			f.cancel()
			delete(p.follows, node)
		}
		p.period = period
	}
	there := map[string]bool{}
	for _, m := range members {
		there[m.Node] = true
		if f := p.follows[m.Node]; f != nil {
			if f.address == m.Address {
				continue
			}
			f.cancel()
		}
		ctx, cancel := context.WithCancel(ctx)
		p.follows[m.Node] = &following{m.Address, cancel}
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			p.listen(ctx, m, period)
		}()
	}
	for node, f := range p.follows {
		if !there[node] {
			f.cancel()
			delete(p.follows, node)
			delete(p.last, node)
		}
	}
}

// listen takes in a node's profiles until it is no longer followed.
func (p *profiles) listen(ctx context.Context, m place.Member, period time.Duration) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		err := p.nodes.Profile(ctx, m, period, func(r *api.ProfileResponse) { p.take(m.Node, r) })
		if ctx.Err() == nil {
			log.G(ctx).WithError(err).WithField("node", m.Node).Warn("a node sends no profile; asking again")
		}
		pause.Reset(time.Second)
	}
}

func (p *profiles) take(node string, r *api.ProfileResponse) {
	p.mu.Lock()
	p.last[node] = heard{time.Now(), r}
	if !r.GetUrgent() {
		p.regular = time.Now()
	}
	p.mu.Unlock()
	if !r.GetUrgent() {
		return
	}
	services := map[string]bool{}
	for _, s := range r.GetServers() {
		services[s.GetService()] = true
	}
	p.urgent(services)
}

// heard gives the last profile of each node that was heard of since then.
func (p *profiles) heard(since time.Time) map[string]heard {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := maps.Clone(p.last)
	maps.DeleteFunc(last, func(_ string, h heard) bool { return h.at.Before(since) })
	return last
}

// near gives the moment nearest to one at which a profile has just come, if they go on to come as
// they do.
func (p *profiles) near(t time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.regular.IsZero() || p.period <= 0 {
		return t
	}
	next := p.regular.Add(travel)
	t = t.Add(-p.period / 2)
	if missing := t.Sub(next); missing > 0 {
		next = next.Add((missing + p.period - 1) / p.period * p.period)
	}
	return next
}

// travel is how long a profile may take to come later than the one before.
const travel = 20 * time.Millisecond

// close ends listening.
func (p *profiles) close() {
	p.mu.Lock()
	for _, f := range p.follows {
		f.cancel()
	}
	p.mu.Unlock()
	p.wg.Wait()
}
