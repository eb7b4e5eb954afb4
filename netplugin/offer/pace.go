package offer

import "time"

// pace is when things are done. Making an offer competes with containers that start, for
// cores and for the kernel's lock of all network devices, so it waits for a quiet moment.
type pace struct {
	quiet     time.Duration // nobody has taken an offer for this long
	longest   time.Duration // but no later than this after offers began to be too few
	resync    time.Duration // how often what changes without an event is looked at
	ownerless time.Duration // how long a taken offer may be nobody's
	retry     time.Duration // after the first failure; twice that after the second, and so on
	rest      time.Duration // but no longer than this
	patience  time.Duration // how long anything may take
}

func defaultPace() pace {
	return pace{
		quiet: 50 * time.Millisecond, longest: time.Second, resync: 15 * time.Second,
		ownerless: time.Minute, retry: time.Second, rest: 30 * time.Second,
		patience: time.Minute,
	}
}

// due is when the next offer is to be made: missing is since when there are too few,
// taken when one was taken last.
func (p pace) due(missing, taken time.Time) time.Time {
	due := taken.Add(p.quiet)
	if last := missing.Add(p.longest); last.Before(due) {
		return last
	}
	return due
}

// wait is how long to wait after a number of failures in a row.
func (p pace) wait(failures int) time.Duration {
	wait := p.retry
	for range failures - 1 {
		if wait *= 2; wait >= p.rest {
			return p.rest
		}
	}
	return wait
}

// failure is of something that is tried again.
type failure struct {
	count     int // in a row
	err       error
	at, retry time.Time
	reasons   map[string]bool // that were logged
}

// again takes note of another one and tells whether its reason is new.
func (f *failure) again(now time.Time, err error, p pace) bool {
	f.count++
	f.err, f.at, f.retry = err, now, now.Add(p.wait(f.count))
	if f.reasons == nil || len(f.reasons) > 100 { // some have a number in it
		f.reasons = map[string]bool{}
	}
	known := f.reasons[err.Error()]
	f.reasons[err.Error()] = true
	return !known
}
