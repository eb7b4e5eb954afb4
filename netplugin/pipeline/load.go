package pipeline

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// tick is the unit of /proc/stat: USER_HZ is 100 wherever Go runs.
const tick = 10 * time.Millisecond

// Times are what a CPU has spent since boot, in ticks of 10 ms. Neither ever runs
// backwards by much; idle time may by a tick, for it is estimated.
type Times struct {
	Busy uint64 // user, nice, system, irq, softirq, steal
	Idle uint64 // idle, iowait
}

// Stat is [Times] by CPU. Those offline are missing.
type Stat map[int]Times

// ParseStat reads the lines of CPUs in /proc/stat (fs/proc/stat.c; time of guests is in
// user and nice already). errdefs.ErrInvalidArgument: there are none, or one isn't whole.
func ParseStat(text string) (Stat, error) {
	s := make(Stat)
	for line := range strings.Lines(text) {
		number, ok := strings.CutPrefix(line, "cpu")
		if !ok || strings.HasPrefix(number, " ") { // the sum
			continue
		}
		fields := strings.Fields(number)
		if len(fields) < 9 {
			return nil, invalidStat(line)
		}
		c, err := cpu(fields[0])
		if err != nil {
			return nil, invalidStat(line)
		}
		var ticks [8]uint64
		for i := range ticks {
			if ticks[i], err = strconv.ParseUint(fields[i+1], 10, 64); err != nil {
				return nil, invalidStat(line)
			}
		}
		user, nice, system, idle, iowait, irq, softirq, steal := ticks[0], ticks[1], ticks[2], ticks[3], ticks[4], ticks[5], ticks[6], ticks[7]
		s[c] = Times{Busy: user + nice + system + irq + softirq + steal, Idle: idle + iowait}
	}
	if len(s) == 0 {
		return nil, fmt.Errorf("/proc/stat has no CPU in it: %w", errdefs.ErrInvalidArgument)
	}
	return s, nil
}

func invalidStat(line string) error {
	return fmt.Errorf("/proc/stat: %q is no line of a CPU: %w", strings.TrimSpace(line), errdefs.ErrInvalidArgument)
}

// Busy is how long the CPUs were busy since then, in sum. One that was or is offline
// doesn't count.
func (s Stat) Busy(since Stat) time.Duration {
	var ticks uint64
	for c, now := range s {
		if before, ok := since[c]; ok {
			ticks += grown(before.Busy, now.Busy)
		}
	}
	return time.Duration(ticks) * tick
}

// EWMA is a load after one more interval, all in per mille. It settles within 4 of a
// constant load (EuroSys'21: the kernel has no fractions).
func EWMA(old, busy uint32) uint32 { return (4*old + busy) / 5 }

// Load is how busy cores are, in per mille.
type Load struct {
	Core    map[int]uint32 // by CPU
	Average uint32         // of the pipeline's cores
}

// Busiest is the CPU with the highest load, the lowest of these if there are several, and
// [Stay] if there is none.
func (l Load) Busiest() (cpu int, load uint32) {
	cpu = Stay
	for c, has := range l.Core {
		if cpu == Stay || has > load || has == load && c < cpu {
			cpu, load = c, has
		}
	}
	return cpu, load
}

// Meter follows the load of all CPUs. It is for one goroutine.
type Meter struct {
	cores []int // of the average
	last  Stat
	load  map[int]uint32
}

// NewMeter makes a meter whose average is of the given cores.
func NewMeter(cores []int) *Meter { return &Meter{cores: cores} }

// Add ends an interval and returns the load after it, which belongs to the caller. An
// interval should have ten ticks or more. A CPU is in it after its first interval.
func (m *Meter) Add(s Stat) Load {
	load := make(map[int]uint32, len(s))
	for c, now := range s {
		before, ok := m.last[c]
		if !ok {
			continue
		}
		old, known := m.load[c]
		busy, idle := grown(before.Busy, now.Busy), grown(before.Idle, now.Idle)
		switch {
		case busy == 0 && idle == 0:
			if known {
				load[c] = old
			}
		case known:
			load[c] = EWMA(old, perMille(busy, idle))
		default:
			load[c] = perMille(busy, idle)
		}
	}
	m.last, m.load = s, load
	l := Load{Core: maps.Clone(load)}
	var sum, n uint32
	for _, c := range m.cores {
		if has, ok := load[c]; ok {
			sum, n = sum+has, n+1
		}
	}
	if n > 0 {
		l.Average = sum / n
	}
	return l
}

// perMille wants one that isn't zero.
func perMille(busy, idle uint64) uint32 {
	return uint32(1000 * float64(busy) / (float64(busy) + float64(idle)))
}

// grown is 0 for what ran backwards.
func grown(before, now uint64) uint64 {
	if now < before {
		return 0
	}
	return now - before
}
