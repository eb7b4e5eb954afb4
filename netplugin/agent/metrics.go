package agent

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
)

// metrics counts calls, and reads what the kernel counts when it is asked.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
}

func newMetrics(a *Agent) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "peregrine", Subsystem: "falcon", Name: "call_seconds",
			Help: "Time of the agent for calls of CNI, by command and code; 0 is success.", Buckets: prometheus.ExponentialBuckets(.0002, 2, 14),
		}, []string{"command", "code"}),
	}
	m.registry.MustRegister(m.calls, collector{a})
	return m
}

func (m *metrics) called(r *Request, err error, took time.Duration) {
	command, code := "none", "0"
	if r != nil {
		command = r.Command
	}
	if err != nil {
		code = strconv.Itoa(int(codeOf(err).Code))
	}
	m.calls.WithLabelValues(command, code).Observe(took.Seconds())
}

// Metrics are the agent's, for Prometheus.
func (a *Agent) Metrics() prometheus.Gatherer { return a.metrics.registry }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("peregrine", "falcon", name), help, labels, nil)
}

var (
	endpointsDesc = desc("endpoints", "Attachments of containers.", "network")
	nodesDesc     = desc("nodes", "Other nodes that are known.")
	readyDesc     = desc("network_ready", "1 while containers can be attached.", "network")
	dropsDesc     = desc("dropped_packets_total", "Packets that were dropped, by reason and, where it is known, the container's link.", "reason", "link")
	packetsDesc   = desc("endpoint_packets_total", "Packets of a container; direction is seen from it.", "container", "interface", "network", "direction")
	shortcutDesc  = desc("shortcut_on", "1 while flows may take the shortcut.")
	takenDesc     = desc("shortcut_packets_total", "Packets that took the shortcut, by where.", "where")
	leftDesc      = desc("kernel_path_packets_total", "Packets that went on by the kernel's path, by the reason.", "reason")
	steeredDesc   = desc("steered_packets_total", "Packets that XDP ordered or moved at the underlay's link, by what it did.", "what")
	bytesDesc     = desc("endpoint_bytes_total", "Bytes of a container; direction is seen from it.", "container", "interface", "network", "direction")
)

type collector struct{ a *Agent }

func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{endpointsDesc, nodesDesc, readyDesc, dropsDesc, packetsDesc, bytesDesc, shortcutDesc, takenDesc, leftDesc, steeredDesc} {
		to <- d
	}
}

func (c collector) Collect(to chan<- prometheus.Metric) {
	report := c.a.Report()
	to <- prometheus.MustNewConstMetric(nodesDesc, prometheus.GaugeValue, float64(len(report.Peers)))
	for _, n := range report.Networks {
		ready := 1.
		if n.Problem != "" {
			ready = 0
		}
		to <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, ready, n.Name)
		to <- prometheus.MustNewConstMetric(endpointsDesc, prometheus.GaugeValue, float64(n.Endpoints), n.Name)
	}
	for _, d := range report.Drops {
		to <- prometheus.MustNewConstMetric(dropsDesc, prometheus.CounterValue, float64(d.Packets), d.Reason, d.Link)
	}
	collectShortcut(to, report.Shortcut)
	records := c.a.records()
	links := make([]string, 0, len(records))
	for _, r := range records {
		links = append(links, r.Link)
	}
	traffic, err := attach.Stats(links)
	if err != nil {
		to <- prometheus.NewInvalidMetric(packetsDesc, err)
		return
	}
	for _, r := range records {
		t, ok := traffic[r.Link]
		if !ok {
			continue
		}
		for _, v := range []struct {
			direction      string
			packets, bytes uint64
		}{{"received", t.ReceivedPackets, t.ReceivedBytes}, {"sent", t.SentPackets, t.SentBytes}} {
			to <- prometheus.MustNewConstMetric(packetsDesc, prometheus.CounterValue, float64(v.packets), r.ContainerID, r.IfName, r.Network, v.direction)
			to <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(v.bytes), r.ContainerID, r.IfName, r.Network, v.direction)
		}
	}
}

func collectShortcut(to chan<- prometheus.Metric, r ShortcutReport) {
	on := 0.
	if r.Off == "" {
		on = 1
	}
	to <- prometheus.MustNewConstMetric(shortcutDesc, prometheus.GaugeValue, on)
	for _, kind := range []struct {
		desc   *prometheus.Desc
		counts map[string]uint64
	}{{takenDesc, r.Taken}, {leftDesc, r.Left}, {steeredDesc, r.Steered}} {
		for name, n := range kind.counts {
			to <- prometheus.MustNewConstMetric(kind.desc, prometheus.CounterValue, float64(n), name)
		}
	}
}
