package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/peregrine-dev/peregrine/shim/pool"
)

const namespace, subsystem = "peregrine", "flashcube"

// metrics counts what a keeper does and reads what claims and shims count.
type metrics struct {
	registry *prometheus.Registry

	ready, target, building, memory prometheus.Gauge
	seconds                         prometheus.Histogram
	failures                        prometheus.Counter
}

func newMetrics(dir string) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		ready:    gauge("ready", "Parts that wait for a claim."),
		target:   gauge("target", "Parts that ought to wait for a claim."),
		building: gauge("building", "Parts in the making, 0 or 1."),
		memory:   gauge("memory_bytes", "What parts that wait take, proportional set size."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "build_seconds",
			Help: "Time until a part is ready.", Buckets: prometheus.ExponentialBuckets(.005, 2, 12),
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "build_failures_total", Help: "Parts that didn't get ready.",
		}),
	}
	m.registry.MustRegister(m.ready, m.target, m.building, m.memory, m.seconds, m.failures, counters(dir))
	return m
}

// Built implements pool.Events.
func (m *metrics) Built(took time.Duration) { m.seconds.Observe(took.Seconds()) }

// BuildFailed implements pool.Events.
func (m *metrics) BuildFailed() { m.failures.Inc() }

// Kept implements pool.Events.
func (m *metrics) Kept(ready, target, building int, memory int64) {
	m.ready.Set(float64(ready))
	m.target.Set(float64(target))
	m.building.Set(float64(building))
	m.memory.Set(float64(memory))
}

var (
	hits      = prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, "hits_total"), "Containers that got a ready part.", nil, nil)
	misses    = prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, "misses_total"), "Containers whose shim was started for them.", nil, nil)
	fallbacks = prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, "fallbacks_total"), "Containers that another runtime ran.", []string{"reason"}, nil)
)

// counters is a profile's directory, whose counters outlive this process.
type counters string

func (c counters) Describe(to chan<- *prometheus.Desc) {
	to <- hits
	to <- misses
	to <- fallbacks
}

func (c counters) Collect(to chan<- prometheus.Metric) {
	n, err := pool.ReadCounters(string(c))
	if err != nil {
		to <- prometheus.NewInvalidMetric(hits, err)
		return
	}
	to <- prometheus.MustNewConstMetric(hits, prometheus.CounterValue, float64(n.Hits))
	to <- prometheus.MustNewConstMetric(misses, prometheus.CounterValue, float64(n.Misses))
	for reason, v := range n.Fallbacks {
		to <- prometheus.MustNewConstMetric(fallbacks, prometheus.CounterValue, float64(v), reason)
	}
}
