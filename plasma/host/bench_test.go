package host_test

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/host"
)

// echo is an actor that costs nothing.
type echo struct{}

func (echo) Turn(_ *host.Turn, _ string, body []byte) ([]byte, error) { return body, nil }
func (echo) Save() ([]byte, error)                                    { return nil, nil }
func (echo) Load([]byte) error                                        { return nil }

func benchCluster(b *testing.B, servers ...string) *cluster {
	return newClusterWith(b, func(o *host.Options) {
		o.Types = append(o.Types, host.Type{Name: "echo", Durable: host.None, New: func() host.Behavior { return echo{} }})
	}, servers...)
}

// BenchmarkLocal is a call within a process to an actor that is not stored, measured as always.
func BenchmarkLocal(b *testing.B) {
	c := benchCluster(b, "a1")
	body := []byte("hello")
	b.Run("one", func(b *testing.B) {
		to := c.on("a1", "echo", 0)
		before := cpu()
		for b.Loop() {
			if _, err := c.hosts["a1"].Call(context.Background(), to, "echo", body); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	})
	b.Run("many", func(b *testing.B) {
		b.RunParallel(func(p *testing.PB) {
			to := c.on("a1", "echo", time.Now().Nanosecond()%50)
			for p.Next() {
				if _, err := c.hosts["a1"].Call(context.Background(), to, "echo", body); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	})
}

// BenchmarkPeer is a call to another process's actor, as far as sockets go.
func BenchmarkPeer(b *testing.B) {
	c := benchCluster(b, "a1", "a2", "b1")
	for name, at := range map[string]string{"unix": "a2", "tls": "b1"} {
		for _, kind := range []string{"echo", "turn"} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				to := c.on(at, kind, 0)
				var took []time.Duration
				for b.Loop() {
					start := time.Now()
					if _, err := c.hosts["a1"].Call(context.Background(), to, "inc", nil); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(start))
				}
				quantiles(b, took)
			})
		}
	}
}

// BenchmarkMove moves an actor to and fro; the figures are for how long it stands still.
func BenchmarkMove(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			c := newCluster(b, "a1", "a2")
			a := c.on("a1", "turn", 0)
			// A state of zero bytes is six times as long as JSON.
			c.must("a1", a, "fill", []byte(strconv.Itoa(size/6)))
			var took []time.Duration
			servers := []string{"a2", "a1"}
			for i := 0; b.Loop(); i++ {
				pause, err := c.move(a, servers[i%2])
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, pause)
			}
			quantiles(b, took)
		})
	}
}

// cpu is what the process has used: on a machine that is shared it says more than the wall.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func quantiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}
