package plan

import (
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// measure is the value of a comparison's feature: of a server, of an actor, or of what caller
// calls an actor. The second result is false if there is no such value.
func (v *view) measure(f *epl.Feature, server, actor, caller int32) (float64, bool) {
	if f.Kind == epl.Call {
		return v.called(f, actor, caller), true
	}
	if actor == none {
		if server == none {
			return 0, false
		}
		s := &v.Servers[server]
		switch f.Kind {
		case epl.Latency:
			return quantile(s.Latency, f.Stat), true
		case epl.Queue:
			return s.Queue, true
		case epl.Metric:
			value, ok := s.Metrics[f.Name]
			return value, ok
		}
		return statistic(f, s.Usage, s.Limit), true
	}
	a := &v.Actors[actor]
	switch f.Kind {
	case epl.Latency:
		return quantile(a.Latency, f.Stat), true
	case epl.Queue:
		return a.Queue, true
	case epl.Metric:
		value, ok := a.Metrics[f.Name]
		return value, ok
	}
	if a.Server < 0 {
		return 0, false
	}
	return statistic(f, a.Usage, v.Servers[a.Server].Limit), true
}

// statistic is usage as a share of a limit in percent, or as an amount: millicores, bytes,
// bytes per second.
func statistic(f *epl.Feature, usage, limit model.Resources) float64 {
	value, of := usage.Get(f.Name), limit.Get(f.Name)
	if f.Stat == "perc" {
		if of <= 0 {
			return 0
		}
		return 100 * value / of
	}
	if f.Name == "cpu" {
		return 1000 * value
	}
	return value
}

func quantile(l model.Latency, stat string) float64 {
	switch stat {
	case "p50":
		return l.P50
	case "p95":
		return l.P95
	case "p99":
		return l.P99
	}
	return l.Mean
}

// called is what a function of an actor is called by a caller, or by clients (none).
func (v *view) called(f *epl.Feature, actor, caller int32) float64 {
	index := v.callIndex()
	sum := 0.0
	for _, i := range index.in.of(actor) {
		e := &v.Calls[i]
		if e.From != int(caller) || e.Function != f.Name { // none is model.Client
			continue
		}
		if f.Stat == "size" {
			sum += e.Bytes
		} else {
			sum += e.Count
		}
	}
	if f.Stat != "perc" || sum == 0 {
		return sum
	}
	server := v.Actors[actor].Server
	if server < 0 {
		return 0
	}
	if caller == none {
		return 100 * sum / v.received().byClients[server]
	}
	return 100 * sum / v.received().byType[v.Actors[caller].Type][server]
}

func holds(op epl.Op, value, bound float64) bool {
	switch op {
	case epl.Less:
		return value < bound
	case epl.LessEqual:
		return value <= bound
	case epl.Greater:
		return value > bound
	case epl.GreaterEqual:
		return value >= bound
	}
	return value == bound
}

// history is what comparisons "over" and "for" a time have to know of before.
type history struct {
	v             *view
	before, after *model.Memory
}

// samples bounds how many values a mean is of.
const samples = 64

// learn takes down the values of a comparison that needs its history, for all that it may be
// asked of: a condition's other terms must not make gaps.
func (h *history) learn(t *ir.Term, vars []ir.Var) {
	c := t.Compare
	if c == nil || c.Over == nil && c.For == nil {
		return
	}
	if t.Entity < 0 {
		for s := range h.v.Servers {
			h.note(t, int32(s), none, none)
		}
		return
	}
	for _, a := range h.v.of(vars[t.Entity].Type) {
		if c.Feature.Kind != epl.Call || t.Other < 0 {
			h.note(t, none, a, none)
			continue
		}
		for _, e := range h.v.callIndex().in.of(a) {
			from := h.v.Calls[e].From
			if from >= 0 && h.v.Calls[e].Function == c.Feature.Name && h.v.is(int32(from), vars[t.Other].Type) {
				h.note(t, none, a, int32(from))
			}
		}
	}
}

func (h *history) key(t *ir.Term, server, actor, caller int32) string {
	switch {
	case actor == none:
		return t.ID + " server " + h.v.Servers[server].ID
	case caller == none:
		return t.ID + " " + h.v.Actors[actor].ID
	}
	return t.ID + " " + h.v.Actors[caller].ID + " " + h.v.Actors[actor].ID
}

func (h *history) note(t *ir.Term, server, actor, caller int32) {
	c := t.Compare
	value, ok := h.v.measure(c.Feature, server, actor, caller)
	if !ok {
		return
	}
	key := h.key(t, server, actor, caller)
	if c.Over != nil {
		list := append(recent(h.before.Means[key], h.v.At-c.Over.Value), model.Sample{At: h.v.At, Value: value})
		if len(list) > samples {
			list = list[len(list)-samples:]
		}
		if h.after.Means == nil {
			h.after.Means = map[string][]model.Sample{}
		}
		h.after.Means[key] = list
		value = mean(list)
	}
	if c.For != nil && holds(c.Op, value, c.Value.Value) != t.Not {
		if h.after.Held == nil {
			h.after.Held = map[string]time.Duration{}
		}
		since, ok := h.before.Held[key]
		if !ok {
			since = h.v.At
		}
		h.after.Held[key] = since
	}
}

// recent are the samples after a time; the slice is new.
func recent(list []model.Sample, after time.Duration) []model.Sample {
	var kept []model.Sample
	for _, s := range list {
		if s.At > after {
			kept = append(kept, s)
		}
	}
	return kept
}

func mean(list []model.Sample) float64 {
	sum := 0.0
	for _, s := range list {
		sum += s.Value
	}
	return sum / float64(len(list))
}

// compare tells whether a comparison holds, with its negation.
func (h *history) compare(t *ir.Term, server, actor, caller int32) bool {
	c := t.Compare
	if c.For != nil {
		since, ok := h.after.Held[h.key(t, server, actor, caller)]
		return ok && h.v.At-since >= c.For.Value
	}
	var value float64
	var ok bool
	if c.Over != nil {
		var list []model.Sample
		if list, ok = h.after.Means[h.key(t, server, actor, caller)]; ok {
			value = mean(list)
		}
	} else {
		value, ok = h.v.measure(c.Feature, server, actor, caller)
	}
	return ok && holds(c.Op, value, c.Value.Value) != t.Not
}
