package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/meter"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

const (
	tickLength    = 50 * time.Millisecond
	lateTicks     = 2 // a message that has waited for as many has waited for over 50 ms
	reportPeriod  = time.Second
	reportTimeout = 2 * time.Second
	alarmPeriod   = 200 * time.Millisecond
	saturation    = .95
	// What a report has at most; those with most are kept.
	maxActorReports = 8192
	maxCallReports  = 16384
	// Every so many reports an actor with references or metrics is in one, though it was idle.
	fullReports = 10
)

// beat keeps the coarse clock.
func (h *Host) beat() {
	t := time.NewTicker(tickLength)
	defer t.Stop()
	for begun := time.Now(); ; {
		select {
		case <-t.C:
			h.tick.Store(uint32(time.Since(begun) / tickLength))
		case <-h.ctx.Done():
			return
		}
	}
}

// report tells plasmad every second how the host is, and when it is overloaded at once, but for
// what was told less than an alarmPeriod before.
func (h *Host) report() {
	t := time.NewTicker(alarmPeriod)
	defer t.Stop()
	window, cpu := time.Now(), processCPU()
	alarm, alarmCPU := window, cpu
	overloaded := false
	for n := 0; ; {
		tick := false
		select {
		case <-t.C:
			tick = true
		case <-h.late:
			overloaded = true
		case <-h.ctx.Done():
			return
		}
		now := time.Now()
		if !tick && now.Sub(window) < alarmPeriod {
			continue
		}
		used := processCPU()
		if tick {
			full := float64(used-alarmCPU) > saturation*float64(now.Sub(alarm))*float64(runtime.GOMAXPROCS(0))
			overloaded = overloaded || full
			alarm, alarmCPU = now, used
		}
		if !overloaded && now.Sub(window) < reportPeriod {
			continue
		}
		req := h.measure(now.Sub(window), used-cpu, n%fullReports == 0)
		req.Overloaded = req.Overloaded || overloaded
		window, cpu, overloaded = now, used, false
		n++
		if err := h.tell(req); err != nil {
			h.fail(err)
			return
		}
	}
}

// tell sends a report. An error means that the host may not go on.
func (h *Host) tell(req *api.ReportRequest) error {
	asked := boottime()
	resp, err := ask(h.ctx, h.agent, reportTimeout, func(ctx context.Context, a api.AgentClient) (*api.ReportResponse, error) {
		return a.Report(ctx, req)
	})
	switch {
	case err == nil:
		h.lease.renew(asked, resp.GetLease())
	case errdefs.IsFailedPrecondition(err):
		return fmt.Errorf("another instance of %s is registered: %w", h.server, err)
	case errdefs.IsNotFound(err):
		return h.again()
	case !errors.Is(err, context.Canceled):
		log.G(h.ctx).WithError(err).Debug("plasmad gets no report")
	}
	return nil
}

// again registers anew with a plasmad that does not know the host.
func (h *Host) again() error {
	resp, asked, err := h.agent.register(h.ctx, h.request)
	if err != nil {
		if h.ctx.Err() != nil {
			return nil
		}
		return err
	}
	if resp.GetServer() != h.server {
		return fmt.Errorf("server %s is called %s now: %w", h.server, resp.GetServer(), errdefs.ErrFailedPrecondition)
	}
	h.inst.Store(resp.GetInstance())
	if h.owners.view.Await(h.ctx, resp.GetRevision()) != nil {
		return nil
	}
	// What others got meanwhile must have left before the lease lets it be served again.
	h.each(h.reconcile)
	h.lease.renew(asked, resp.GetLease())
	return nil
}

// processCPU is what the process has used.
func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure gathers what was counted in a window.
func (h *Host) measure(window, cpu time.Duration, all bool) *api.ReportRequest {
	req := &api.ReportRequest{Instance: h.inst.Load(), Window: int64(window), Metrics: map[string]float64{}}
	var latency meter.Histogram
	var busy time.Duration
	now := h.tick.Load()
	done := map[*actor]bool{}
	add := func(a *actor, idle bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if idle && (done[a] || a.touched || len(a.refs)+len(a.metrics) == 0) {
			return
		}
		if all {
			done[a] = true
		}
		a.touched = false
		if a.phase == gone && a.owner != (placement.Owner{}) {
			return // its new host reports it
		}
		c := a.meter.Take()
		req.Queue += float64(a.queue.len())
		if m := a.queue.peek(); m != nil && !idle {
			a.touched = true
			h.touch(a)
			req.Overloaded = req.Overloaded || now-m.tick >= lateTicks && a.phase == serving
		}
		busy += c.Busy
		latency.Add(c.Latency)
		req.Actors = append(req.Actors, a.reportOf(c))
		for _, call := range c.Calls {
			r := &api.CallReport{To: a.name.API(), Function: call.Function, Count: call.Count, Bytes: call.Bytes}
			if call.From != (placement.Actor{}) {
				r.From = call.From.API()
			}
			req.Calls = append(req.Calls, r)
		}
	}
	for i := range h.table {
		s := &h.table[i]
		s.touchMu.Lock()
		touched := s.touched
		s.touched = nil
		s.touchMu.Unlock()
		for _, a := range touched {
			add(a, false)
		}
	}
	if all {
		h.each(func(a *actor) { add(a, true) })
	}
	// Turns are timed by the wall: when they had to share the processors it is too much.
	if busy > cpu && busy > 0 {
		for _, r := range req.Actors {
			r.Cpu = int64(float64(r.Cpu) * float64(cpu) / float64(busy))
		}
	}
	slices.SortFunc(req.Actors, func(a, b *api.ActorReport) int { return cmp.Compare(b.GetCpu(), a.GetCpu()) })
	slices.SortFunc(req.Calls, func(a, b *api.CallReport) int { return cmp.Compare(b.GetCount(), a.GetCount()) })
	req.Actors = req.Actors[:min(len(req.Actors), maxActorReports)]
	req.Calls = req.Calls[:min(len(req.Calls), maxCallReports)]
	req.Latency = latency.API()
	req.Total = uint32(h.total())
	return req
}

// reportOf gives an actor's part of a report; mu is held.
func (a *actor) reportOf(c meter.Counts) *api.ActorReport {
	r := &api.ActorReport{
		Actor: a.name.API(), Cpu: int64(c.Busy), State: uint64(len(a.saved)),
		Memory:   uint64(2*len(a.saved) + a.outbox.bytes),
		Received: c.Received, Sent: c.Sent, Queue: float64(a.queue.len()), Latency: c.Latency.API(),
	}
	for property, to := range a.refs {
		for _, b := range to {
			r.References = append(r.References, &api.Reference{Property: property, To: b.API()})
		}
	}
	if len(a.metrics) > 0 {
		r.Metrics = map[string]float64{}
		for name, value := range a.metrics {
			r.Metrics[name] = value
		}
	}
	return r
}

// total is how many actors there are.
func (h *Host) total() int {
	n := 0
	if h.store != nil {
		n = h.store.Count()
	}
	if slices.ContainsFunc(h.request.GetTypes(), func(t *api.Type) bool { return t.GetDurable() == string(None) }) {
		for i := range h.table {
			s := &h.table[i]
			s.mu.Lock()
			for _, a := range s.actors {
				if !a.durable() {
					n++
				}
			}
			s.mu.Unlock()
		}
	}
	return n
}
