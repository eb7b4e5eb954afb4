package stdio_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/shim/stdio"
)

// BenchmarkOpenClose gives the time of Open and Start by itself, too: only that is in
// the way of a container's start.
func BenchmarkOpenClose(b *testing.B) {
	c := fifos(b)
	reader(b, c.Stdout)
	reader(b, c.Stderr)
	for name, c := range map[string]stdio.Config{"fifos": c, "null": {}, "file": {Stdout: "file://" + filepath.Join(b.TempDir(), "log")}} {
		for _, started := range []bool{false, true} {
			name := name
			if started {
				name += "+start"
			}
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				var opening time.Duration
				for b.Loop() {
					begin := time.Now()
					s, err := stdio.Open(b.Context(), "ns", "id", c, 0, 0)
					check(b, err)
					if started {
						s.CloseChild()
						s.Start()
					}
					opening += time.Since(begin)
					check(b, s.Close())
				}
				b.ReportMetric(float64(opening.Nanoseconds())/float64(b.N), "open-ns/op")
			})
		}
	}
}
