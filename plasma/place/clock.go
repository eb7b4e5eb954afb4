package place

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is a clock that goes on when the machine is suspended, as leases in etcd do.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // Linux has it since 2.6.39
	}
	return time.Duration(t.Nano())
}
