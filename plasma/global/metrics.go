package global

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the manager does.
type Metrics struct {
	elected prometheus.Counter
	plans   prometheus.Counter
	took    prometheus.Histogram
	actions *prometheus.CounterVec
	failed  *prometheus.CounterVec
}

// NewMetrics makes them and registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		elected: prometheus.NewCounter(prometheus.CounterOpts{Name: "peregrine_plasma_elections_total", Help: "How often this node was elected the global manager."}),
		plans:   prometheus.NewCounter(prometheus.CounterOpts{Name: "peregrine_plasma_plans_total", Help: "Plans that were made."}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "peregrine_plasma_plan_seconds", Help: "Time to make a plan.", Buckets: prometheus.ExponentialBuckets(1e-5, 4, 8),
		}),
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "peregrine_plasma_actions_total", Help: "Planned actions that were carried out, by what they do."}, []string{"verb"}),
		failed:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "peregrine_plasma_failures_total", Help: "Times that a service could not be seen to."}, []string{"service"}),
	}
	r.MustRegister(m.elected, m.plans, m.took, m.actions, m.failed)
	return m
}
