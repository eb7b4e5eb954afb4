// Package profile measures what a node's servers use: what their containers do is read from their
// cgroups, their hosts report what their actors do, and the application's own metrics are asked
// for. Package assemble makes a snapshot of what all nodes have measured.
package profile

import (
	"cmp"
	"context"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/profile/cgroup"
	"github.com/peregrine-dev/peregrine/plasma/profile/scrape"
)

const (
	// MaxTargets is how many servers are measured. Each has up to cgroup.Descriptors open.
	MaxTargets = 1024
	// hot is the share of its limit from which on a server is overloaded.
	hot = .95
)

// Target is a server to measure.
type Target struct {
	Service, ID string
	Pid         int
	// Cgroup is where its processes are, as package cgroup takes it; "" is where Pid is.
	Cgroup string
	// Limit is how many cores it may use; 0 is no limit.
	Limit float64
	// Metrics is where the application's own are; nil if it has none.
	Metrics *scrape.Source
}

// Flows gives what has passed between containers, as far as this node sees it: totals that only
// grow, or begin anew at 0.
type Flows func(context.Context) ([]*api.Flow, error)

// meter is a cgroup.Container.
type meter interface {
	Read() (cgroup.Reading, error)
	Network() (*os.File, error)
	Close()
}

// Sampler measures the servers of a node. Its methods may be called by several goroutines at once.
type Sampler struct {
	node   string
	period time.Duration
	flows  Flows
	open   func(pid int, cgroup string) (meter, error)
	spent  func() time.Duration // of a processor, by the calling thread

	mu            sync.Mutex
	servers       map[string]*server
	subscriptions map[*subscription]struct{}
	sampling      pace
	scraping      pace
}

// server is a target and what is known of it. One that was replaced has another.
type server struct {
	Target
	meter        meter // nil: not open
	ended        bool  // and will not be read again
	failed       bool  // to be read, and this was said
	before, last cgroup.Reading
	report       *api.ReportRequest // nil: none came
	metrics      map[string]float64 // replaced, never changed
	misses       int                // of metrics, in a row
	hot          bool
	fresh        time.Time // when it was read between two turns
}

// New makes a Sampler that reads containers each period, or more seldom if that would cost more
// than a hundredth of a core. Flows may be nil.
func New(node string, period time.Duration, flows Flows) *Sampler {
	return &Sampler{
		node: node, period: period, flows: flows, spent: threadTime,
		servers: map[string]*server{}, subscriptions: map[*subscription]struct{}{},
		sampling: pace{period: period}, scraping: pace{period: period},
	}
}

// Set says which servers there are; of more than MaxTargets the first by their names are
// measured. A server of another process or cgroup than before is another one: nothing that was
// known counts. One whose process has ended stays so until its process is another.
func (s *Sampler) Set(targets []Target) {
	targets = slices.Clone(targets)
	slices.SortStableFunc(targets, func(a, b Target) int { return cmp.Compare(a.ID, b.ID) })
	if len(targets) > MaxTargets {
		log.L.Warnf("profile: %d servers, of which %d are measured", len(targets), MaxTargets)
		targets = targets[:MaxTargets]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[string]*server, len(targets))
	for _, t := range targets {
		v := s.servers[t.ID]
		if v == nil || v.Pid != t.Pid || v.Cgroup != t.Cgroup || v.Service != t.Service {
			v = &server{}
		}
		if t.Metrics == nil {
			v.metrics = nil
		}
		v.Target = t
		next[t.ID] = v
	}
	for id, v := range s.servers {
		if next[id] != v {
			s.forget(v)
		}
	}
	s.servers = next
}

// forget lets go of a server. The caller holds the lock.
func (s *Sampler) forget(v *server) {
	if v.meter != nil {
		v.meter.Close()
		v.meter = nil
	}
	for sub := range s.subscriptions {
		sub.forget(v)
	}
}

// Report takes in what a server's host reports, which must not be changed any more. Reports of
// servers that there are not are let go.
func (s *Sampler) Report(id string, r *api.ReportRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.servers[id]
	if v == nil {
		return
	}
	v.report = r
	for sub := range s.subscriptions {
		sub.add(v, r)
	}
	if r.GetOverloaded() {
		s.alarm(v)
	}
}

// alarm wakes those who have not been told of an overloaded server. The caller holds the lock.
func (s *Sampler) alarm(v *server) {
	for sub := range s.subscriptions {
		if !sub.told[v] {
			select {
			case sub.wake <- struct{}{}:
			default:
			}
		}
	}
}

// overloaded tells what subscribers are woken for.
func (v *server) overloaded() bool { return v.hot || v.report.GetOverloaded() }

// Cost is the share of a core that measuring takes.
func (s *Sampler) Cost() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sampling.share() + s.scraping.share()
}
