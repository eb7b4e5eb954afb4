package profile

import (
	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// What is kept of a server's reports in one window. More is let go.
const (
	maxActors = 1 << 16
	maxCalls  = 1 << 18
)

// merged is the reports of a host in one window. The zero value is of none.
type merged struct {
	last     *api.ReportRequest
	number   int // of the last
	complete int // the last that had all actors: those only in earlier ones are gone
	window   int64
	queue    float64
	latency  latencies
	actors   []mergedActor
	calls    []*api.CallReport // its own
	index    map[placement.Actor]int
	callers  map[caller]int
}

type mergedActor struct {
	last           *api.ActorReport
	number         int // of the last report that has it
	window         float64
	cpu            int64
	received, sent uint64
	queue          float64
	latency        latencies
}

type caller struct {
	from, to placement.Actor
	client   bool
	function string
}

// add takes a report in. A host that was started again begins anew.
func (m *merged) add(r *api.ReportRequest) {
	if m.last == nil || m.last.GetInstance() != r.GetInstance() {
		*m = merged{index: map[placement.Actor]int{}, callers: map[caller]int{}}
	}
	m.last = r
	m.number++
	if len(r.GetActors()) >= int(r.GetTotal()) {
		m.complete = m.number
	}
	window := max(0, r.GetWindow())
	m.window += window
	m.queue += r.GetQueue() * float64(window)
	m.latency.add(r.GetLatency())
	for _, a := range r.GetActors() {
		m.actor(a, float64(window))
	}
	for _, c := range r.GetCalls() {
		m.call(c)
	}
}

func (m *merged) actor(a *api.ActorReport, window float64) {
	name := placement.Of(a.GetActor())
	i, ok := m.index[name]
	if !ok {
		if len(m.actors) == maxActors {
			return
		}
		i = len(m.actors)
		m.index[name] = i
		m.actors = append(m.actors, mergedActor{})
	}
	e := &m.actors[i]
	e.last, e.number = a, m.number
	e.window += window
	e.cpu += a.GetCpu()
	e.received += a.GetReceived()
	e.sent += a.GetSent()
	e.queue += a.GetQueue() * window
	e.latency.add(a.GetLatency())
}

func (m *merged) call(c *api.CallReport) {
	key := caller{placement.Of(c.GetFrom()), placement.Of(c.GetTo()), c.GetFrom() == nil, c.GetFunction()}
	i, ok := m.callers[key]
	if !ok {
		if len(m.calls) == maxCalls {
			return
		}
		m.callers[key] = len(m.calls)
		m.calls = append(m.calls, &api.CallReport{From: c.GetFrom(), To: c.GetTo(), Function: c.GetFunction(), Count: c.GetCount(), Bytes: c.GetBytes()})
		return
	}
	m.calls[i].Count += c.GetCount()
	m.calls[i].Bytes += c.GetBytes()
}

// report is one for all of the window: counts are sums, queues are means over time and latencies
// means over requests (of quantiles too, which is about right); the rest is as it was last.
// Nothing may be added afterwards.
func (m *merged) report() *api.ReportRequest {
	if m.number == 1 {
		return m.last
	}
	r := &api.ReportRequest{
		Instance: m.last.GetInstance(), Window: m.window, Calls: m.calls, Queue: mean(m.queue, float64(m.window), m.last.GetQueue()),
		Latency: m.latency.mean(m.last.GetLatency()), Overloaded: m.last.GetOverloaded(),
		Total: m.last.GetTotal(), Metrics: m.last.GetMetrics(),
	}
	for i := range m.actors {
		e := &m.actors[i]
		if e.number < m.complete {
			continue
		}
		r.Actors = append(r.Actors, &api.ActorReport{
			Actor: e.last.GetActor(), Cpu: e.cpu, Received: e.received, Sent: e.sent, State: e.last.GetState(), Memory: e.last.GetMemory(),
			Queue: mean(e.queue, e.window, e.last.GetQueue()), Latency: e.latency.mean(e.last.GetLatency()),
			References: e.last.GetReferences(), Metrics: e.last.GetMetrics(),
		})
	}
	return r
}

func mean(sum, of, last float64) float64 {
	if of <= 0 {
		return last
	}
	return sum / of
}

// latencies are weighed by how many requests they are of.
type latencies struct {
	count, average, p50, p95, p99 float64
}

func (l *latencies) add(o *api.Latency) {
	n := float64(o.GetCount())
	if n == 0 {
		return
	}
	l.count += n
	l.average += n * o.GetMean()
	l.p50 += n * o.GetP50()
	l.p95 += n * o.GetP95()
	l.p99 += n * o.GetP99()
}

func (l *latencies) mean(last *api.Latency) *api.Latency {
	if l.count == 0 {
		return last
	}
	return &api.Latency{Mean: l.average / l.count, P50: l.p50 / l.count, P95: l.p95 / l.count, P99: l.p99 / l.count, Count: uint64(l.count)}
}
