// Package node is what plasmad does for its own node: it sees to it that the servers are there
// that etcd says are to be here, speaks with the hosts in them, measures, and has the hosts carry
// moves out.
//
// It is in nobody's way: containers, and what their hosts say to each other, go on without it. One
// that starts again finds all in containerd and in etcd.
package node

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"

	"github.com/peregrine-dev/peregrine/plasma/driver"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/profile"
	"github.com/peregrine-dev/peregrine/plasma/profile/scrape"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// Containers is what runs servers: a driver.Driver.
type Containers interface {
	Start(ctx context.Context, s driver.Server) error
	List(ctx context.Context) ([]driver.Running, error)
	Adopted(ctx context.Context, a *service.Adopt) ([]driver.Running, error)
	Update(ctx context.Context, id string, limit model.Resources) error
	Stop(ctx context.Context, id string, grace time.Duration) error
	Delete(ctx context.Context, id string, state bool) error
	Events(ctx context.Context) (<-chan driver.Event, error)
	Probe(ctx context.Context) (driver.Found, error)
	ReserveNet(ctx context.Context, id, class string) error
	ReleaseNet(ctx context.Context, id string) error
}

// Options are what a node needs.
type Options struct {
	Node string
	// Sockets is the directory of sockets: the driver's Run.
	Sockets string
	// Secure has hosts listen to those of other nodes, with the service's certificate.
	Secure     bool
	Store      *place.Store
	Mirror     *place.Mirror
	Membership *place.Membership
	Containers Containers
	Sampler    *profile.Sampler
	Metrics    *Metrics
}

// Node sees to one node. Its methods may be called by several goroutines at once.
type Node struct {
	Options

	group *errgroup.Group // of all that works here
	wake  chan struct{}

	mu      sync.Mutex
	agents  map[string]*agent // by directory
	busy    map[string]bool   // servers that something is being done about
	retry   map[string]retry  // servers that something failed for
	applied map[string]applied
	running map[string]driver.Running // as containerd said last
	stale   bool                      // something has changed since
	specs   map[string]parsed         // by service
	moving  map[string]bool           // moves that a host was told of
	began   map[string]time.Time      // servers that were started and have not been seen to end
	short   map[string]int            // servers whose processes end soon: how often in a row
}

// retry is when something is tried again, after how long, and why it failed.
type retry struct {
	at   time.Time
	wait time.Duration
	why  string
}

// applied is what a server has already, of what may change while it runs.
type applied struct {
	limit model.Resources
	class string
}

// New makes a node.
func New(o Options) *Node {
	return &Node{
		Options: o, wake: make(chan struct{}, 1), agents: map[string]*agent{}, busy: map[string]bool{}, retry: map[string]retry{},
		applied: map[string]applied{}, running: map[string]driver.Running{}, stale: true, moving: map[string]bool{}, specs: map[string]parsed{},
		began: map[string]time.Time{}, short: map[string]int{},
	}
}

const (
	// relist is how often containerd is asked what there is, if no event says that it changed.
	relist = 15 * time.Second
	// mostWait is between two tries to start a server, mostRest between two starts of one whose
	// process ends within shortLife each time.
	mostWait  = 30 * time.Second
	mostRest  = 10 * time.Second
	shortLife = 2 * time.Second
	// grace is how long a process may take to end.
	grace = 10 * time.Second
)

// Run sees to the node until ctx is done. Containers stay.
func (n *Node) Run(ctx context.Context) error {
	var inner context.Context
	n.group, inner = errgroup.WithContext(ctx)
	n.group.Go(func() error { return n.hear(inner) })
	n.group.Go(func() error { return n.Sampler.Run(inner) })
	n.group.Go(func() error {
		defer n.closeAgents()
		n.loop(inner)
		return nil
	})
	return n.group.Wait()
}

// hear takes containerd's events in.
func (n *Node) hear(ctx context.Context) error {
	for {
		events, err := n.Containers.Events(ctx)
		if err != nil {
			log.G(ctx).WithError(err).Warn("containerd sends no events; asking again")
			if !pause(ctx, time.Second) {
				return nil
			}
			continue
		}
		for e := range events {
			n.event(ctx, e)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (n *Node) event(ctx context.Context, e driver.Event) {
	switch e.Kind {
	case driver.Subscribed:
		// It may be another containerd, with other parts.
		if _, err := n.Containers.Probe(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("containerd does not say which parts it has")
		}
	case driver.OutOfMemory:
		log.G(ctx).WithField("server", e.ID).Warn("a server's process was killed for its memory; raise the service's limit")
	}
	n.changed()
}

// changed has everything looked at soon, containerd's too.
func (n *Node) changed() {
	n.mu.Lock()
	n.stale = true
	n.mu.Unlock()
	n.poke()
}

func (n *Node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Node) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	listed := time.Time{}
	for {
		changed := n.Mirror.Changed()
		if n.isStale() || time.Since(listed) >= relist {
			if err := n.list(ctx); err != nil {
				log.G(ctx).WithError(err).Warn("containerd does not say what there is; asking again")
				n.changedLater()
			}
			listed = time.Now()
		}
		n.look(ctx)
		timer.Reset(n.next(listed))
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-n.wake:
		case <-timer.C:
		}
	}
}

func (n *Node) isStale() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	stale := n.stale
	n.stale = false
	return stale
}

// changedLater has containerd asked again with the next look.
func (n *Node) changedLater() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stale = true
}

// next is how long nothing has to be looked at.
func (n *Node) next(listed time.Time) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	wait := listed.Add(relist).Sub(now)
	if n.stale {
		wait = time.Second
	}
	for id, r := range n.retry {
		if !n.busy[id] {
			wait = min(wait, r.at.Sub(now))
		}
	}
	return max(wait, 10*time.Millisecond)
}

// list asks containerd what there is.
func (n *Node) list(ctx context.Context) error {
	asked := time.Now()
	all, err := n.Containers.List(ctx)
	if err != nil {
		return err
	}
	running := map[string]driver.Running{}
	for _, r := range all {
		running[r.ID] = r
	}
	for _, s := range n.Mirror.Services() {
		spec, err := n.spec(s)
		if err != nil || spec.Adopt == nil {
			continue
		}
		found, err := n.Containers.Adopted(ctx, spec.Adopt)
		if err != nil {
			return err
		}
		for _, r := range found {
			r.Service = s.Name
			running[r.ID] = r
		}
	}
	n.mu.Lock()
	n.running = running
	for id, r := range running {
		if r.State != driver.StateRunning {
			n.ended(id, asked)
		}
	}
	n.mu.Unlock()
	n.measure(running)
	return nil
}

// ended has a server rest that was found not to run soon after its start, longer each time. What
// was asked before the start says nothing. mu is held.
func (n *Node) ended(id string, asked time.Time) {
	began, known := n.began[id]
	if !known || n.busy[id] || began.After(asked) {
		return
	}
	delete(n.began, id)
	lived := time.Since(began)
	if lived >= shortLife {
		delete(n.short, id)
		return
	}
	n.short[id]++
	rest := min(100*time.Millisecond<<min(n.short[id], 10), mostRest)
	n.retry[id] = retry{
		at: time.Now().Add(rest), wait: rest,
		why: fmt.Sprintf("its process has ended %s after its start: see its log", lived.Round(time.Millisecond)),
	}
}

// measure tells the sampler what there is.
func (n *Node) measure(running map[string]driver.Running) {
	var targets []profile.Target
	for _, s := range n.Mirror.Services() {
		spec, err := n.spec(s)
		if err != nil {
			continue
		}
		var source *scrape.Source
		if spec.Metrics != "" {
			if at, err := scrape.ParseSource(spec.Metrics); err == nil {
				source = &at
			}
		}
		limits := map[string]float64{}
		for _, v := range n.Mirror.Servers(s.Name) {
			limits[v.ID] = v.Limit.CPU
		}
		for _, r := range running {
			if r.Service == s.Name && r.State == driver.StateRunning {
				targets = append(targets, profile.Target{
					Service: s.Name, ID: r.ID, Pid: int(r.Pid), Cgroup: r.Cgroup, Limit: limits[r.ID], Metrics: source,
				})
			}
		}
	}
	n.Sampler.Set(targets)
}

// spec reads what a service is, once for each of its versions.
func (n *Node) spec(s place.Service) (*service.Spec, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c, ok := n.specs[s.Name]; ok && c.version == s.Version {
		return c.spec, nil
	}
	spec, err := service.Parse(s.Name, []byte(s.Spec))
	if err != nil {
		return nil, err
	}
	n.specs[s.Name] = parsed{s.Version, spec}
	return spec, nil
}

// parsed is a service's file, read.
type parsed struct {
	version uint64
	spec    *service.Spec
}

// directory is where a server's sockets are.
func (n *Node) directory(server string) string { return filepath.Join(n.Sockets, "servers", server) }

// pause waits, false if ctx is done before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
