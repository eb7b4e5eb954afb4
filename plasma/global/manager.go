// Package global is the global manager: of all plasmads of a cluster the one that was elected. It
// gathers what the nodes measure, has package plan decide by each service's policy, and writes
// into etcd what is to be; the nodes' plasmads see to it. All that it writes is fenced by its
// election: one that was deposed and doesn't know yet changes nothing.
//
// What it must not forget is in etcd: another that is elected goes on where it was.
package global

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// Options are what a manager needs. All are needed but Records.
type Options struct {
	Cluster string
	// Period is how often is planned where a policy says nothing.
	Period     time.Duration
	Store      *place.Store
	Mirror     *place.Mirror
	Membership *place.Membership
	Nodes      Nodes
	// Records is a directory that what was planned is written into; empty: nowhere.
	Records string
	Metrics *Metrics
}

// Manager is a candidate, and the manager while it is elected. Its methods may be called by
// several goroutines at once.
type Manager struct {
	Options

	mu    sync.Mutex
	reign *reign // while elected

	statusMu sync.Mutex
	status   *status.Cluster
	changed  chan struct{}
}

// New makes a candidate.
func New(o Options) *Manager {
	return &Manager{Options: o, status: &status.Cluster{Version: status.Version, Cluster: o.Cluster}, changed: make(chan struct{})}
}

// Run stands for election and manages while elected, until ctx is done.
func (m *Manager) Run(ctx context.Context) error {
	for {
		l, err := m.Store.Campaign(ctx, m.Membership)
		if ctx.Err() != nil {
			if err == nil {
				m.resign(ctx, l)
			}
			return nil
		}
		if err != nil {
			log.G(ctx).WithError(err).Warn("can't stand for election; trying again")
			if !pause(ctx, time.Second) {
				return nil
			}
			continue
		}
		log.G(ctx).Info("elected: this is the global manager now")
		m.Metrics.elected.Inc()
		err = m.lead(ctx, l)
		m.resign(ctx, l)
		log.G(ctx).WithError(err).Info("this is the global manager no longer")
		// Another may do what this one can't.
		if err != nil && !pause(ctx, time.Second) {
			return nil
		}
	}
}

// resign gives the office up, so that no lease has to lapse before the next election.
func (m *Manager) resign(ctx context.Context, l *place.Leadership) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := l.Resign(ctx); err != nil {
		log.G(ctx).WithError(err).Debug("can't resign; the lease will lapse")
	}
}

func (m *Manager) lead(ctx context.Context, l *place.Leadership) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := newReign(m, l)
	m.mu.Lock()
	m.reign = r
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.reign = nil
		m.mu.Unlock()
		r.profiles.close()
	}()
	return r.run(ctx)
}

// leading gives the reign, ErrUnavailable if another manages.
func (m *Manager) leading() (*reign, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reign == nil {
		return nil, fmt.Errorf("this node is not the global manager: %w", errdefs.ErrUnavailable)
	}
	return m.reign, nil
}

// Leads tells whether this one is elected.
func (m *Manager) Leads() bool {
	_, err := m.leading()
	return err == nil
}

// Status gives how the cluster was at the last look, and what is closed when there is another.
// It is read only.
func (m *Manager) Status() (*status.Cluster, <-chan struct{}) {
	m.statusMu.Lock()
	defer m.statusMu.Unlock()
	return m.status, m.changed
}

func (m *Manager) tell(s *status.Cluster) {
	m.statusMu.Lock()
	defer m.statusMu.Unlock()
	m.status = s
	close(m.changed)
	m.changed = make(chan struct{})
}

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

// deposed tells whether an error is that another was elected.
func deposed(err error) bool { return errors.Is(err, errdefs.ErrFailedPrecondition) }
