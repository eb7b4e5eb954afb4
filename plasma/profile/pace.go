package profile

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// budget is the share of a core that reading containers, or asking for metrics, may take:
	// together a hundredth.
	budget = .005
	// slowest is how long an interval may become for that.
	slowest = time.Minute
)

// pace says how often something that costs processor time is done.
type pace struct {
	period   time.Duration
	interval time.Duration // until the next time
	cost     time.Duration // of one time, smoothed
}

// next takes in what the last time has cost, and gives how long to wait.
func (p *pace) next(cost time.Duration) time.Duration {
	if p.interval == 0 {
		p.cost = cost
	}
	p.cost = (3*p.cost + cost) / 4
	p.interval = min(max(p.period, time.Duration(float64(p.cost)/budget)), max(p.period, slowest))
	return p.interval
}

func (p *pace) share() float64 {
	if p.interval == 0 {
		return 0
	}
	return float64(p.cost) / float64(p.interval)
}

// threadTime is what the calling thread has used of a processor.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0 // no kernel that Go runs on is without
	}
	return time.Duration(t.Nano())
}

// costs gives what a function takes of a processor. What it starts on other goroutines does not
// count.
func (s *Sampler) costs(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := s.spent()
	f()
	return s.spent() - before
}
