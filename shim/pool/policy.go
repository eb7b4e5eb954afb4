package pool

import (
	"math"
	"time"
)

// Limits bound a pool.
type Limits struct {
	Min, Max int           // ready parts
	Memory   int64         // bytes that ready parts may take, as their proportional set size
	MaxAge   time.Duration // a part that waits for longer is replaced
}

// Target is how many parts to have ready when demand asks for want and a part takes
// partBytes, 0 for unknown. Memory bounds more strictly than Min.
func (l Limits) Target(want float64, partBytes int64) int {
	n := max(l.Min, int(math.Ceil(min(want, float64(l.Max)))))
	n = min(n, l.Max)
	if partBytes > 0 {
		n = min(n, int(l.Memory/partBytes))
	}
	return n
}

const (
	rateMemory = 30 * time.Second // over which the rate of claims is smoothed
	burstHalf  = 2 * time.Minute  // after which half of a burst is forgotten
)

// Demand estimates from past claims how many parts the next ones need. The zero value
// has seen none. It is used by one goroutine.
type Demand struct {
	rate    float64 // claims per second, as of last
	last    time.Time
	cluster int       // claims since began with less than Pace.Quiet between them
	began   time.Time // of the cluster
	burst   float64   // largest cluster, decayed, as of peak
	peak    time.Time
}

// Observe notes a claim, of a ready part or a cold start. Times don't go back; one that
// does counts as the last one.
func (d *Demand) Observe(now time.Time, p Pace) {
	if now.Before(d.last) {
		now = d.last
	}
	if d.last.IsZero() || now.Sub(d.last) > p.Quiet || now.Sub(d.began) > p.Patience {
		d.cluster, d.began = 0, now
	}
	d.cluster++
	d.rate = d.Rate(now) + 1/rateMemory.Seconds()
	d.last = now
	if b := d.Burst(now); float64(d.cluster) >= b {
		d.burst, d.peak = float64(d.cluster), now
	}
}

// Rate is the number of claims per second, smoothed.
func (d *Demand) Rate(now time.Time) float64 {
	return d.rate * math.Exp(-elapsed(d.last, now).Seconds()/rateMemory.Seconds())
}

// Burst is the largest number of claims at once, less what time has taken off.
func (d *Demand) Burst(now time.Time) float64 {
	return d.burst * math.Exp2(-elapsed(d.peak, now).Seconds()/burstHalf.Seconds())
}

// Last is when the last claim was.
func (d *Demand) Last() time.Time { return d.last }

// Want is how many parts meet the demand when one more takes build to be there.
func (d *Demand) Want(now time.Time, build time.Duration) float64 {
	want := d.Burst(now) + d.Rate(now)*build.Seconds()
	if want < 0.5 { // or a single claim would be remembered for ever
		return 0
	}
	return want
}

func elapsed(from, to time.Time) time.Duration { return max(to.Sub(from), 0) }

// Pace says when to build, one part at a time. A build takes about as much of a processor
// as a container's start does, so it waits until claims pause.
type Pace struct {
	Quiet    time.Duration // since the last claim
	Patience time.Duration // after which a part that is missing is built in any case

	Timeout time.Duration // a part that isn't ready by then is given up
	Retry   time.Duration // after one failed build; doubles with each
	Longest time.Duration // between two tries
}

// DefaultPace is the one in use. The times fit builds of some ten milliseconds.
func DefaultPace() Pace {
	return Pace{
		Quiet: 30 * time.Millisecond, Patience: 500 * time.Millisecond,
		Timeout: 30 * time.Second, Retry: time.Second, Longest: time.Minute,
	}
}

// Due is when a part may be built that is missing since a time, after a last claim.
func (p Pace) Due(missing, lastClaim time.Time) time.Time {
	due := lastClaim.Add(p.Quiet)
	if latest := missing.Add(p.Patience); due.After(latest) {
		return latest
	}
	return due
}

// Backoff is how long to wait after so many failed builds in a row.
func (p Pace) Backoff(failures int) time.Duration {
	if failures <= 0 {
		return 0
	}
	d := p.Retry
	for range failures - 1 {
		if d *= 2; d >= p.Longest {
			return p.Longest
		}
	}
	return min(d, p.Longest)
}
