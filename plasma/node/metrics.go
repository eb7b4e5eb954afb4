package node

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what happens on the node.
type Metrics struct {
	starts   prometheus.Histogram
	failures prometheus.Counter
	moves    *prometheus.CounterVec
	pauses   prometheus.Histogram
}

// NewMetrics makes them and registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		starts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "peregrine_plasma_start_seconds", Help: "Time to start a server's container.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 12),
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "peregrine_plasma_server_failures_total", Help: "Times that something for a server failed and is tried again."}),
		moves:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "peregrine_plasma_moves_total", Help: "Moves of actors away from this node's servers, by what came of them."}, []string{"result"}),
		pauses: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "peregrine_plasma_move_pause_seconds", Help: "Time that moving actors stood still.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
	}
	r.MustRegister(m.starts, m.failures, m.moves, m.pauses)
	return m
}
