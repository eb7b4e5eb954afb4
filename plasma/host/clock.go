package host

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// boottime is the time since the machine has started, also while it was suspended: a lease
// lapses for others meanwhile.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every kernel that runs this has the clock
	}
	return time.Duration(ts.Nano())
}

// lease is until when a host may serve.
type lease struct{ until atomic.Int64 } // boot time; 0: without end

// renew takes in how long the lease is from the moment at which it was asked for.
func (l *lease) renew(asked time.Duration, length int64) {
	if length <= 0 {
		l.until.Store(0)
		return
	}
	l.until.Store(int64(asked) + length)
}

func (l *lease) valid() bool {
	until := l.until.Load()
	return until == 0 || int64(boottime()) < until
}
