// Command load calls actors of a service at a rate, from outside of it, and prints how long the
// answers took:
//
//	load -agent SOCKET -peers DIRECTORY -rate 500 -for 30s Counter add
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// load is what to call, and how often.
type load struct {
	kind, function, body string
	keys, callers        int
	rate                 float64 // calls a second
	time                 time.Duration
}

// caller is *host.Client.
type caller interface {
	Call(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error)
}

// result is what came of it. Latencies are in microseconds, from when a call was due: a caller
// that is late doesn't hide what made it so.
type result struct {
	latency *hdrhistogram.Histogram
	failed  int
	err     error // the last
}

func main() {
	var l load
	env := host.FromEnv()
	agent := flag.String("agent", env.Agent, "the service's `socket` of plasmad")
	peers := flag.String("peers", env.Peers, "the `directory` of the service's hosts")
	flag.IntVar(&l.keys, "keys", 100, "how many actors")
	flag.IntVar(&l.callers, "callers", 64, "how many calls may be under way")
	flag.Float64Var(&l.rate, "rate", 100, "calls a second")
	flag.DurationVar(&l.time, "for", 10*time.Second, "how long")
	flag.StringVar(&l.body, "body", "", "what to send")
	flag.Parse()
	if flag.NArg() != 2 || l.keys < 1 || l.callers < 1 || !(l.rate > 0) {
		fmt.Fprintln(os.Stderr, "usage: load [flags] TYPE FUNCTION, with keys, callers and rate above zero")
		os.Exit(2)
	}
	l.kind, l.function = flag.Arg(0), flag.Arg(1)
	if err := run(l, *agent, *peers); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(l load, agent, peers string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	dialing, cancel := context.WithTimeout(ctx, 10*time.Second) // plasmad may be starting
	client, err := host.Dial(dialing, agent, peers)
	cancel()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	r := l.run(ctx, client)
	h := r.latency
	fmt.Printf("calls %d  failed %d\n", h.TotalCount(), r.failed)
	fmt.Printf("latency in ms  p50 %.3f  p95 %.3f  p99 %.3f  max %.3f\n", milliseconds(h.ValueAtPercentile(50)),
		milliseconds(h.ValueAtPercentile(95)), milliseconds(h.ValueAtPercentile(99)), milliseconds(h.Max()))
	return r.err
}

func milliseconds(microseconds int64) float64 { return float64(microseconds) / 1000 }

// run calls until the time is over or ctx ends.
func (l load) run(ctx context.Context, to caller) *result {
	ctx, cancel := context.WithTimeout(ctx, l.time)
	defer cancel()
	r := &result{latency: hdrhistogram.New(1, time.Minute.Microseconds(), 3)}
	due := make(chan int)
	begin := time.Now()
	at := func(i int) time.Time { return begin.Add(time.Duration(float64(i) / l.rate * float64(time.Second))) }
	var mu sync.Mutex
	var callers sync.WaitGroup
	for range l.callers {
		callers.Go(func() {
			for i := range due {
				// A call that has begun is answered: the time bounds when calls begin.
				one, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
				_, err := to.Call(one, placement.Actor{Type: l.kind, Key: strconv.Itoa(i % l.keys)}, l.function, []byte(l.body))
				stop()
				took := time.Since(at(i)).Microseconds()
				mu.Lock()
				if err != nil {
					r.failed, r.err = r.failed+1, err
				} else {
					_ = r.latency.RecordValue(min(took, r.latency.HighestTrackableValue()))
				}
				mu.Unlock()
			}
		})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		timer.Reset(time.Until(at(i)))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		select {
		case due <- i:
			continue
		case <-ctx.Done():
		}
		close(due)
		callers.Wait()
		return r
	}
}
