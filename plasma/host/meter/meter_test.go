package meter

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestCounts(t *testing.T) {
	var m Meter
	senders := []placement.Actor{{}, {Type: "T", Key: "1"}, {Type: "T", Key: "2"}}
	const n = 128 * 1000
	weight := 0
	for i := range n {
		w := m.Arrive(senders[i%3], "f", 10)
		weight += int(w)
		m.Turned(w, time.Millisecond, 5)
		m.Answered(w, 2*time.Millisecond)
	}
	c := m.Take()
	if c.Messages != n || c.Received != 10*n || c.Sent != 5*n || len(c.Calls) != 3 {
		t.Fatalf("%+v", c)
	}
	var sum uint64
	for _, call := range c.Calls {
		sum += call.Count
	}
	if sum != n {
		t.Errorf("calls: got %d, want %d", sum, n)
	}
	if off := float64(weight)/n - 1; off < -.01 || off > .01 {
		t.Errorf("times stand for %d messages of %d", weight, n)
	}
	if want := time.Duration(weight) * time.Millisecond; c.Busy != want {
		t.Errorf("busy: got %s, want %s", c.Busy, want)
	}
	if l := c.Latency.API(); l.P50 < 1.8 || l.P50 > 2.2 || l.Count != uint64(weight) || l.Mean != 2 {
		t.Error(l)
	}
	if c := m.Take(); c.Messages != 0 || c.Calls != nil || c.Latency.API() != nil {
		t.Errorf("a new window: %+v", c)
	}
}

func TestCallsAreBounded(t *testing.T) {
	var m Meter
	for i := range 10 * maxCalls {
		m.Arrive(placement.Actor{Type: "T", Key: fmt.Sprint(i)}, "f", 1)
	}
	c := m.Take()
	if len(c.Calls) != maxCalls || c.Calls[maxCalls-1].Count != 9*maxCalls+1 || c.Calls[maxCalls-1].Function != "" {
		t.Fatal(len(c.Calls), c.Calls[len(c.Calls)-1])
	}
}

func TestQuantiles(t *testing.T) {
	for range 200 {
		var h, part Histogram
		d := time.Duration(rand.Int64N(int64(20 * time.Second)))
		part.Record(d, 3)
		h.Add(&part)
		h.Add(nil)
		got := h.Quantile(.5)
		if diff := (got - d).Abs(); diff > d/14+time.Microsecond {
			t.Fatalf("got %s, want %s", got, d)
		}
	}
	var h Histogram
	h.Record(-1, 1)
	h.Record(time.Hour, 1)
	if h.Quantile(0) > time.Microsecond || h.Quantile(1) < 30*time.Second {
		t.Fatal(h.Quantile(0), h.Quantile(1))
	}
}

// BenchmarkMessage is what a message costs, clocks included.
func BenchmarkMessage(b *testing.B) {
	for _, senders := range []int{1, 4, 40} {
		b.Run(fmt.Sprint(senders), func(b *testing.B) {
			from := make([]placement.Actor, senders)
			for i := range from {
				from[i] = placement.Actor{Type: "Player", Key: fmt.Sprint(i)}
			}
			var m Meter
			var start time.Time
			i := 0
			before := cpu()
			for b.Loop() {
				w := m.Arrive(from[i], "update", 100)
				if i++; i == senders {
					i = 0
				}
				if w > 0 {
					start = time.Now()
				}
				var d time.Duration
				if w > 0 {
					d = time.Since(start)
				}
				m.Turned(w, d, 10)
				if w > 0 {
					m.Answered(w, time.Since(start))
				}
			}
			b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
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
