package bench

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/host/meter"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Percent is the unit of shares of which less is better.
var Percent = Unit{"%", false}

// profiledRate is the messages a second at which profiling may cost a hundredth.
const profiledRate = 100_000

// metering measures what a message costs for being counted, as a host counts it.
func (b *plasmaBench) metering(ctx context.Context) (Series, error) {
	n := 200
	if b.Quick {
		n = 50
	}
	senders := []placement.Actor{{}, {Type: "User", Key: "a"}, {Type: "User", Key: "b"}}
	// Others may have the processor meanwhile: what this thread has of it counts.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var s Series
	for range n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		before, err := threadTime()
		if err != nil {
			return nil, err
		}
		var m meter.Meter
		for i, turn := 0, 0; i < profiledRate; i++ {
			if turn++; turn == len(senders) {
				turn = 0
			}
			var at time.Time
			weight := m.Arrive(senders[turn], "read", 100)
			if weight > 0 {
				at = time.Now()
			}
			took := time.Duration(0)
			if weight > 0 {
				took = time.Since(at)
			}
			m.Turned(weight, took, 100)
			if weight > 0 {
				m.Answered(weight, time.Since(at))
			}
		}
		counted := m.Take()
		if got := counted.Latency.API().GetCount(); got < profiledRate/2 {
			return nil, fmt.Errorf("%d of %d messages were timed", got, profiledRate)
		}
		after, err := threadTime()
		if err != nil {
			return nil, err
		}
		s = append(s, float64((after-before).Nanoseconds())/profiledRate)
	}
	return s, nil
}

// threadTime is what this thread has used of a processor.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()), err
}

func (b *plasmaBench) profiling(ctx context.Context) error {
	s, err := b.metering(ctx)
	if err != nil {
		return err
	}
	b.against("profile-per-message", Nanoseconds, s, 15, "what one of 100,000 messages a second costs an actor for being counted and timed, with the report of that second; three senders take turns")
	return nil
}

// calls measures calls between actors in one container, and in two of a node.
func (b *plasmaBench) calls(ctx context.Context) error {
	l, err := b.single(ctx)
	if err != nil {
		return err
	}
	b.Progress("measuring calls", 0, 0)
	if err := l.runs(ctx, "calls", "", 2, ""); err != nil {
		return err
	}
	const each = 8
	at, err := l.where(ctx, "calls", "Probe", "p", 2, each)
	if err != nil {
		return err
	}
	var servers [][]string
	for _, id := range sortedKeys(at) {
		servers = append(servers, at[id])
	}
	rounds, d := 10, time.Second
	if b.Quick {
		rounds, d = 3, 500*time.Millisecond
	}
	var same, near, rates, shares Series
	for range rounds {
		for _, way := range []struct {
			to    string
			calls *Series
		}{{servers[0][1], &same}, {servers[1][0], &near}} {
			calls, err := l.times(ctx, "calls", servers[0][0], "Probe "+way.to, "echo", 20_000, d, 0)
			if err != nil {
				return err
			}
			for _, c := range calls {
				*way.calls = append(*way.calls, float64(c.took.Nanoseconds())/1e3)
			}
		}
		rate, _, err := b.flood(ctx, l, servers[0], d, 0)
		if err != nil {
			return err
		}
		rates = append(rates, rate)
		rate, cpu, err := b.flood(ctx, l, servers[0], d, profiledRate)
		if err != nil {
			return err
		}
		metering, err := b.metering(ctx)
		if err != nil {
			return err
		}
		shares = append(shares, 100*metering.Median()*rate/1e9/cpu)
	}
	b.against("profile-throughput", Percent, shares, 1, "share of what profiling takes (as in profile-per-message) of all that the process of a host uses while its actors get 100,000 calls a second; it can't be switched off to compare")
	b.against("call-same-container", Microseconds, same, 2, "an actor calls another one, neither is stored; the bound is for the median")
	b.against("call-same-node", Microseconds, near, 150, "the same between two containers of a node; the bound is for the median")
	b.against("calls-per-second", PerSecond, rates, 200_000, fmt.Sprintf("%d actors of a container call %[1]d others of it, each with one call at a time", each/2))
	return l.ends(ctx, "calls")
}

// flood has half of the actors of a server call the other half, so often a second, and gives how
// many calls there were a second and what the server's process used meanwhile, in cores.
func (b *plasmaBench) flood(ctx context.Context, l *plasmaLive, keys []string, d time.Duration, rate int) (calls, cpu float64, err error) {
	pid, err := l.pid(ctx, "calls-1")
	if err != nil {
		return 0, 0, err
	}
	began, before, err := usedBy(pid)
	if err != nil {
		return 0, 0, err
	}
	half := len(keys) / 2
	counts := make([]float64, half)
	g, gctx := errgroup.WithContext(ctx)
	for i := range half {
		g.Go(func() error {
			answer, err := l.call(gctx, "calls", "Probe", keys[i], "flood", fmt.Sprintf("Probe %s echo %d %d %d", keys[half+i], 1<<40, d.Milliseconds(), rate/half))
			if err == nil {
				counts[i], err = strconv.ParseFloat(string(answer), 64)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	ended, after, err := usedBy(pid)
	if err != nil {
		return 0, 0, err
	}
	took := ended.Sub(began).Seconds()
	for _, n := range counts {
		calls += n
	}
	return calls / took, (after - before).Seconds() / took, nil
}
