package profile

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/profile/cgroup"
)

// patience is how long flows are waited for.
const patience = time.Second

// subscription is what one who is sent profiles has not been sent yet.
type subscription struct {
	wake    chan struct{} // has room for one
	began   time.Time     // the window
	base    map[*server]cgroup.Reading
	reports map[*server]*merged
	told    map[*server]bool // that it is overloaded, since the last regular profile
	flows   map[route]total
}

type route struct{ from, to string }

type total struct{ bytes, packets uint64 }

// Subscribe sends a profile at once, with what is known of the last moments; then each period,
// with means over the time since the one before; and an urgent one of the last moments as soon
// as a server is overloaded, once in a period for each server. Nothing is skipped: while nobody
// receives, the window grows. The channel is closed when the context has ended. A period shorter
// than the Sampler's is the Sampler's.
func (s *Sampler) Subscribe(ctx context.Context, period time.Duration) <-chan *api.ProfileResponse {
	sub := &subscription{
		wake: make(chan struct{}, 1), began: time.Now(),
		base: map[*server]cgroup.Reading{}, reports: map[*server]*merged{}, told: map[*server]bool{},
	}
	s.mu.Lock()
	s.subscriptions[sub] = struct{}{}
	s.mu.Unlock()
	out := make(chan *api.ProfileResponse)
	go s.serve(ctx, sub, max(period, s.period), out)
	return out
}

func (s *Sampler) serve(ctx context.Context, sub *subscription, period time.Duration, out chan<- *api.ProfileResponse) {
	defer close(out)
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subscriptions, sub)
	}()
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	p := s.first(ctx, sub)
	for {
		if p != nil {
			select {
			case out <- p:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ticker.C:
			p = s.regular(ctx, sub)
		case <-sub.wake:
			s.freshen(ctx, sub)
			p = s.urgent(ctx, sub)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Sampler) first(ctx context.Context, sub *subscription) *api.ProfileResponse {
	flows := s.count(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub.flows = flows // which began before, nobody knows when
	p := s.moment()
	s.begin(sub)
	return p
}

func (s *Sampler) regular(ctx context.Context, sub *subscription) *api.ProfileResponse {
	flows := s.count(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	window := time.Since(sub.began)
	p := &api.ProfileResponse{Node: s.node, Window: int64(window), Flows: since(sub.flows, flows, 1)}
	for _, v := range s.ordered() {
		usage := v.recent()
		if base, ok := sub.base[v]; ok && v.last.At.After(base.At) {
			usage = v.last.Since(base)
		}
		report := v.report
		if m := sub.reports[v]; m != nil {
			report = m.report()
		}
		p.Servers = append(p.Servers, v.profile(usage, report))
	}
	if flows != nil {
		sub.flows = flows
	}
	s.begin(sub)
	return p
}

// urgent gives nil if all that is overloaded was told before.
func (s *Sampler) urgent(ctx context.Context, sub *subscription) *api.ProfileResponse {
	flows := s.count(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	news := false
	for _, v := range s.servers {
		if v.overloaded() && !sub.told[v] {
			sub.told[v], news = true, true
		}
	}
	if !news {
		return nil
	}
	p := s.moment()
	p.Urgent = true
	if window := time.Since(sub.began); window > 0 {
		p.Flows = since(sub.flows, flows, min(1, float64(p.Window)/float64(window)))
	}
	return p
}

// begin begins a window. The caller holds the lock.
func (s *Sampler) begin(sub *subscription) {
	sub.began = time.Now()
	clear(sub.base)
	clear(sub.reports)
	for _, v := range s.servers {
		if !v.last.At.IsZero() {
			sub.base[v] = v.last
		}
	}
	clear(sub.told)
	for _, v := range s.servers {
		if v.overloaded() {
			sub.told[v] = true // by the profile that was just made
		}
	}
}

func (sub *subscription) add(v *server, r *api.ReportRequest) {
	m := sub.reports[v]
	if m == nil {
		m = &merged{}
		sub.reports[v] = m
	}
	m.add(r)
}

func (sub *subscription) forget(v *server) {
	delete(sub.base, v)
	delete(sub.reports, v)
	delete(sub.told, v)
}

// moment is a profile of the time between the last two readings. The caller holds the lock.
func (s *Sampler) moment() *api.ProfileResponse {
	p := &api.ProfileResponse{Node: s.node}
	for _, v := range s.ordered() {
		if !v.before.At.IsZero() {
			p.Window = max(p.Window, int64(v.last.At.Sub(v.before.At)))
		}
		p.Servers = append(p.Servers, v.profile(v.recent(), v.report))
	}
	if p.Window == 0 {
		p.Window = int64(s.period)
	}
	return p
}

func (s *Sampler) ordered() []*server {
	all := make([]*server, 0, len(s.servers))
	for _, v := range s.servers {
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b *server) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func (v *server) profile(u cgroup.Usage, report *api.ReportRequest) *api.ServerProfile {
	p := &api.ServerProfile{Service: v.Service, Server: v.ID, Running: v.running()}
	if p.Running {
		p.Cpu, p.Memory, p.Network, p.Throttled = u.CPU, u.Memory, u.Network, u.Throttled
		p.Report, p.Metrics = report, v.metrics
	}
	return p
}

// count gives the flows' totals, or nil if they are not to be had.
func (s *Sampler) count(ctx context.Context) map[route]total {
	if s.flows == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := s.flows(ctx)
	if err != nil {
		if ctx.Err() == nil {
			log.G(ctx).WithError(err).Debug("profile: nobody knows what passes between containers")
		}
		return nil
	}
	totals := make(map[route]total, len(all))
	for _, f := range all {
		key := route{f.GetFrom(), f.GetTo()}
		t := totals[key]
		totals[key] = total{t.bytes + f.GetBytes(), t.packets + f.GetPackets()}
	}
	return totals
}

// since gives what passed between two counts, or a share of it. Without the first there is
// nothing to say.
func since(before, now map[route]total, share float64) []*api.Flow {
	if before == nil {
		return nil
	}
	var flows []*api.Flow
	part := func(before, now uint64) uint64 {
		if now < before { // they began anew
			before = 0
		}
		return uint64(math.Ceil(float64(now-before) * share))
	}
	for key, t := range now {
		b := before[key]
		f := &api.Flow{From: key.from, To: key.to, Bytes: part(b.bytes, t.bytes), Packets: part(b.packets, t.packets)}
		if f.Bytes > 0 || f.Packets > 0 {
			flows = append(flows, f)
		}
	}
	slices.SortFunc(flows, func(a, b *api.Flow) int {
		if c := strings.Compare(a.From, b.From); c != 0 {
			return c
		}
		return strings.Compare(a.To, b.To)
	})
	return flows
}
