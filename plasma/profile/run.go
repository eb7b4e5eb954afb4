package profile

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"

	"github.com/peregrine-dev/peregrine/plasma/profile/cgroup"
	"github.com/peregrine-dev/peregrine/plasma/profile/scrape"
)

const (
	// scrapers is how many applications are asked for metrics at once.
	scrapers = 4
	// maxMisses is how often in a row an application may not answer until its metrics are
	// forgotten.
	maxMisses = 3
)

// Run measures until the context ends, and then closes all that is open; it may not be called
// again. errdefs.ErrNotFound: the machine has no cgroups.
func (s *Sampler) Run(ctx context.Context) error {
	if s.open == nil {
		h, err := cgroup.Find()
		if err != nil {
			return err
		}
		s.open = func(pid int, cgroup string) (meter, error) { return h.Open(pid, cgroup) }
	}
	defer s.Set(nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		s.loop(ctx, &s.sampling, s.sample)
		return nil
	})
	g.Go(func() error {
		s.loop(ctx, &s.scraping, s.scrape)
		return nil
	})
	return g.Wait()
}

// loop does something at a pace until the context ends.
func (s *Sampler) loop(ctx context.Context, p *pace, do func(context.Context) time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		cost := do(ctx)
		s.mu.Lock()
		wait := p.next(cost)
		s.mu.Unlock()
		timer.Reset(wait)
	}
}

// list gives the servers that are read and, if only those are asked for, have metrics.
func (s *Sampler) list(metrics bool) []*server {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*server
	for _, v := range s.servers {
		if !v.ended && (!metrics || v.Metrics != nil) {
			all = append(all, v)
		}
	}
	return all
}

// sample reads all containers.
func (s *Sampler) sample(ctx context.Context) time.Duration {
	return s.costs(func() {
		for _, v := range s.list(false) {
			if s.due(v) {
				s.read(ctx, v)
			}
		}
	})
}

// due tells whether a server is to be read in its turn: one that was read just before would seem
// to use what it has used in a moment.
func (s *Sampler) due(v *server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(v.fresh) >= moment
}

// moment is the shortest time that says what a server uses: the kernel counts out its limit in
// steps of this length.
const moment = 100 * time.Millisecond

// freshen reads those servers twice, a moment apart, whose hosts have just said that they are
// overloaded: what was read before is of the time before.
func (s *Sampler) freshen(ctx context.Context, sub *subscription) {
	s.mu.Lock()
	var all []*server
	for _, v := range s.servers {
		if v.overloaded() && !v.hot && !sub.told[v] && v.meter != nil && time.Since(v.fresh) >= 2*moment {
			all = append(all, v)
		}
	}
	s.mu.Unlock()
	if len(all) == 0 {
		return
	}
	read := func() {
		for _, v := range all {
			s.read(ctx, v)
			s.mu.Lock()
			v.fresh = time.Now()
			s.mu.Unlock()
		}
	}
	read()
	wait := time.NewTimer(moment)
	defer wait.Stop()
	select {
	case <-wait.C:
		read()
	case <-ctx.Done():
	}
}

// read reads one, with the lock so that nobody closes it meanwhile.
func (s *Sampler) read(ctx context.Context, v *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.servers[v.ID] != v || v.ended {
		return
	}
	err := v.read(s.open)
	switch {
	case err == nil:
		v.failed = false
		if v.hot {
			s.alarm(v)
		}
	case !v.failed:
		v.failed = true
		log.G(ctx).WithError(err).WithField("server", v.ID).Debug("profile: its container can't be read")
	}
}

func (v *server) read(open func(int, string) (meter, error)) (err error) {
	if v.meter == nil {
		if v.meter, err = open(v.Pid, v.Cgroup); err != nil {
			v.meter = nil // and not an interface with nothing in it
			return err
		}
	}
	r, err := v.meter.Read()
	if err != nil {
		if errdefs.IsNotFound(err) {
			// Its number may be another's soon.
			v.meter.Close()
			v.meter, v.ended, v.hot = nil, true, false
		}
		return err
	}
	v.before, v.last = v.last, r
	u := v.recent()
	v.hot = v.Limit > 0 && u.CPU >= hot*v.Limit || u.Throttled >= hot
	return nil
}

// recent is what it used between the last two readings.
func (v *server) recent() cgroup.Usage {
	if v.before.At.IsZero() {
		return cgroup.Usage{Memory: float64(v.last.Memory)}
	}
	return v.last.Since(v.before)
}

// running tells whether anything was heard of it, and it has not ended.
func (v *server) running() bool {
	return !v.ended && (!v.last.At.IsZero() || v.report != nil)
}

// scrape asks all applications for their metrics.
func (s *Sampler) scrape(ctx context.Context) time.Duration {
	var cost atomic.Int64
	var g errgroup.Group
	g.SetLimit(scrapers)
	for _, v := range s.list(true) {
		g.Go(func() error {
			cost.Add(int64(s.costs(func() { s.ask(ctx, v) })))
			return nil
		})
	}
	_ = g.Wait()
	return time.Duration(cost.Load())
}

func (s *Sampler) ask(ctx context.Context, v *server) {
	s.mu.Lock()
	if s.servers[v.ID] != v || v.meter == nil || v.Metrics == nil {
		s.mu.Unlock()
		return
	}
	source := *v.Metrics
	namespace, err := v.meter.Network()
	s.mu.Unlock()
	var metrics map[string]float64
	if err == nil {
		if namespace != nil {
			defer namespace.Close()
		}
		metrics, err = scrape.Get(ctx, namespace, source)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.servers[v.ID] != v || v.Metrics == nil || ctx.Err() != nil {
		return
	}
	if err == nil {
		v.metrics, v.misses = metrics, 0
		return
	}
	if v.misses++; v.misses == maxMisses {
		v.metrics = nil
		log.G(ctx).WithError(err).WithField("server", v.ID).Warn("profile: its metrics can't be read")
	}
}
