package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// answers are a service whose answers take a time.
type answers struct {
	takes time.Duration
	err   error
}

func (a *answers) Call(context.Context, placement.Actor, string, []byte) ([]byte, error) {
	time.Sleep(a.takes) // of the test's clock
	return nil, a.err
}

func TestLoad(t *testing.T) {
	for _, c := range []struct {
		name           string
		takes          time.Duration
		callers        int
		least, most    int64
		atLeast, under time.Duration // of the slowest
	}{
		{"in time", time.Millisecond, 4, 99, 101, time.Millisecond, 2 * time.Millisecond},
		// Each call takes as long as five are apart: what waits for its turn counts.
		{"late", 50 * time.Millisecond, 1, 19, 21, 700 * time.Millisecond, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := load{kind: "T", function: "f", keys: 10, callers: c.callers, rate: 100, time: time.Second}
				r := l.run(t.Context(), &answers{takes: c.takes})
				if n := r.latency.TotalCount(); n < c.least || n > c.most || r.failed > 0 {
					t.Errorf("%d calls, %d failed", n, r.failed)
				}
				if slowest := time.Duration(r.latency.Max()) * time.Microsecond; slowest < c.atLeast || slowest > c.under {
					t.Errorf("the slowest took %s", slowest)
				}
			})
		})
	}
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		r := load{keys: 1, callers: 2, rate: 10, time: time.Second}.run(t.Context(), &answers{err: broken})
		if r.failed < 9 || r.latency.TotalCount() != 0 || !errors.Is(r.err, broken) {
			t.Errorf("%d failed of %d: %v", r.failed, r.latency.TotalCount(), r.err)
		}
	})
}
