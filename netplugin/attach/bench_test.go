package attach

import (
	"slices"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// measure is a benchmark's medians, as single calls differ much.
type measure []time.Duration

func (m *measure) add(b *testing.B, f func() error) {
	begin := time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	*m = append(*m, time.Since(begin))
}

func (m measure) report(b *testing.B, of string) {
	slices.Sort(m)
	b.ReportMetric(float64(m[len(m)/2].Microseconds()), "median-us/"+of)
	b.ReportMetric(0, "ns/op") // counts what isn't measured, too
}

// BenchmarkAttach attaches containers to a bridge: "burst" one after the other,
// "single" after the one before is deleted, and the machine was idle some time.
func BenchmarkAttach(b *testing.B) {
	b.Run("burst", func(b *testing.B) {
		host := netnstest.New(b)
		bridge(b, host, "fb7")
		spaces := make([]*netnstest.NS, b.N)
		for i := range spaces {
			spaces[i] = netnstest.New(b)
		}
		host.Do(func() {
			d := detacher(b)
			var attach measure
			for i, ns := range spaces {
				attach.add(b, func() error { return Attach(ns.File(), spec(i)) })
			}
			attach.report(b, "attach")
			for i := range spaces {
				if err := d.Unplug(spec(i).Link); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("single", func(b *testing.B) { cycles(b, (*Detacher).Unplug) })
}

// BenchmarkDetachDirect deletes at once; compare with unplugging in BenchmarkAttach.
func BenchmarkDetachDirect(b *testing.B) {
	cycles(b, func(_ *Detacher, link string) error { return Detach(link) })
}

func cycles(b *testing.B, detach func(*Detacher, string) error) {
	host, container := world(b)
	host.Do(func() {
		d := detacher(b)
		var attached, detached measure
		for i := range b.N {
			s := spec(i)
			attached.add(b, func() error { return Attach(container.File(), s) })
			detached.add(b, func() error { return detach(d, s.Link) })
			if err := d.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		attached.report(b, "attach")
		detached.report(b, "detach")
	})
}

// BenchmarkStats reads the counters of 100 containers.
func BenchmarkStats(b *testing.B) {
	host := netnstest.New(b)
	bridge(b, host, "fb7")
	host.Do(func() {
		d := detacher(b)
		var names []string
		for i := range 100 {
			if err := Attach(netnstest.New(b).File(), spec(i)); err != nil {
				b.Fatal(err)
			}
			names = append(names, spec(i).Link)
		}
		for b.Loop() {
			if got, err := Stats(names); err != nil || len(got) != 100 {
				b.Fatal(len(got), err)
			}
		}
		for _, link := range names {
			if err := d.Unplug(link); err != nil {
				b.Fatal(err)
			}
		}
	})
}
