package report

import (
	"math"

	"github.com/peregrine-dev/peregrine/plasma/sim"
)

// details are the charts of one run.
func details(r *sim.Result) []chart {
	return []chart{
		plot("Load", "% of the cores", "of the most and the least loaded server, and the mean", false,
			of(r, "most", func(w *sim.Window) float64 { return load(w, math.Inf(-1), math.Max) }),
			of(r, "mean", meanLoad),
			of(r, "least", func(w *sim.Window) float64 { return load(w, math.Inf(1), math.Min) })),
		plot("Servers", "", "that serve or drain; above them those that start", false,
			of(r, "with starting", func(w *sim.Window) float64 { return float64(w.Servers + w.Starting) }).stepped(),
			of(r, "serving", func(w *sim.Window) float64 { return float64(w.Servers) }).stepped(),
			of(r, "overloaded", func(w *sim.Window) float64 { return float64(w.Overloaded) }).stepped()),
		bars("Moves", "per period", "actors that arrived on another server",
			of(r, "moves", func(w *sim.Window) float64 { return float64(w.Moves) })),
		plot("Latency", "ms, logarithmic", "of the requests of each period", true,
			of(r, "p50", func(w *sim.Window) float64 { return w.Latency.P50 }),
			of(r, "p95", func(w *sim.Window) float64 { return w.Latency.P95 }),
			of(r, "p99", func(w *sim.Window) float64 { return w.Latency.P99 })),
		plot("Throughput", "per second", "requests that came, and that were answered", false,
			of(r, "came", func(w *sim.Window) float64 { return perSecond(w, w.Requests) }),
			of(r, "answered", func(w *sim.Window) float64 { return perSecond(w, w.Answered) })),
	}
}

// overlays are the charts of several policies: a line for each policy's first run.
func overlays(policies []Policy) []chart {
	each := func(value func(*sim.Window) float64) []series {
		var all []series
		for _, p := range policies {
			all = append(all, of(p.Results[0], p.Name, value))
		}
		return all
	}
	steps := func(value func(*sim.Window) float64) []series {
		all := each(value)
		for i := range all {
			all[i].steps = true
		}
		return all
	}
	sum := func(all []series) []series {
		for _, s := range all {
			for i := 1; i < len(s.values); i++ {
				s.values[i] += s.values[i-1]
			}
		}
		return all
	}
	return []chart{
		plot("Servers", "", "that serve or drain", false, steps(func(w *sim.Window) float64 { return float64(w.Servers) })...),
		plot("p99 of latency", "ms, logarithmic", "of the requests of each period", true, each(func(w *sim.Window) float64 { return w.Latency.P99 })...),
		plot("p50 of latency", "ms, logarithmic", "of the requests of each period", true, each(func(w *sim.Window) float64 { return w.Latency.P50 })...),
		plot("Overloaded servers", "", "that used more of their cores than the bound", false, steps(func(w *sim.Window) float64 { return float64(w.Overloaded) })...),
		plot("Max over mean", "", "load of the most loaded server over the mean", false, each(func(w *sim.Window) float64 { return w.MaxOverMean })...),
		plot("Moves", "in all", "actors that were moved until then", false, sum(each(func(w *sim.Window) float64 { return float64(w.Moves) }))...),
		plot("Throughput", "per second", "requests that were answered", false, each(func(w *sim.Window) float64 { return perSecond(w, w.Answered) })...),
	}
}

func perSecond(w *sim.Window, n uint64) float64 {
	if w.Length <= 0 {
		return 0
	}
	return float64(n) / w.Length.Seconds()
}

// load is the most or least load of a window's servers in percent.
func load(w *sim.Window, from float64, pick func(a, b float64) float64) float64 {
	if len(w.Loads) == 0 {
		return math.NaN()
	}
	for _, l := range w.Loads {
		from = pick(from, 100*float64(l.CPU))
	}
	return from
}

func meanLoad(w *sim.Window) float64 {
	if len(w.Loads) == 0 {
		return math.NaN()
	}
	sum := 0.0
	for _, l := range w.Loads {
		sum += 100 * float64(l.CPU)
	}
	return sum / float64(len(w.Loads))
}
