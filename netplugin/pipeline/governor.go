package pipeline

import (
	"fmt"
	"time"
)

// Mode is what the configuration asks for.
type Mode string

const (
	Auto Mode = "auto" // when a core is too busy, and as long as it pays
	On   Mode = "on"   // whenever there are enough cores
	Off  Mode = "off"
)

const (
	window      = 5 * time.Second  // what a cost is measured over
	minHold     = 30 * time.Second // how long it stays off, at least
	maxHold     = 10 * time.Minute
	minRate     = 10_000 // packets/s: fewer don't keep a core busy
	calm        = 600    // per mille: no core busier than this needs relief
	costMargin  = 0.10
	rateMargin  = 0.25 // rates that differ by less are compared
	quietMargin = 0.50
)

// Sample is what happened since the last one.
type Sample struct {
	At      time.Time     // its end
	Busy    time.Duration // of all CPUs, in sum
	Packets uint64        // that containers got
	Load    Load          // at its end
}

// Decision is whether packets are moved.
type Decision struct {
	On    bool
	Since time.Time // zero before the first sample
	Why   string    // a sentence for the operator, of the last sample
}

// Governor decides whether packets are moved. It is for one goroutine and is given
// a [Sample] each second or so.
//
// In mode auto it turns on when a core is busier than [Threshold] with packets, while the
// cores are not on average. Off again it turns when, over 5 s and against the 5 s before
// it turned on, a packet costs 10 % more CPU at a like rate; when a quarter fewer packets
// get through though a core is still that busy; or when the load is gone. Then it stays
// off for 30 s, and twice as long each time that it didn't pay, to 10 minutes; from 30 s
// again once it has been on for 10 minutes. So it turns on at most once in any 30 s,
// whatever the samples are.
type Governor struct {
	mode  Mode
	cores *Cores
	why   string // why cores is nil
	said  Decision

	last   time.Time     // the sample before, zero before the first
	now    span          // what is being measured
	hot    bool          // whether a core was too busy when that began
	before span          // the last one before it turned on
	hold   time.Duration // for when it doesn't pay
	until  time.Time     // not on before
	failed string        // why until is set
}

// NewGovernor begins with off. Cores and why are what [Plan] says.
func NewGovernor(mode Mode, cores *Cores, why string) *Governor {
	return &Governor{mode: mode, cores: cores, why: why, hold: minHold, said: Decision{Why: "off: nothing is measured yet"}}
}

// SetCores is for when CPUs came or went. It takes effect with the next sample.
func (g *Governor) SetCores(cores *Cores, why string) { g.cores, g.why = cores, why }

// Decision is the last one.
func (g *Governor) Decision() Decision { return g.said }

// Observe decides anew.
func (g *Governor) Observe(s Sample) Decision {
	if s.At.Before(g.last) {
		s.At = g.last
	}
	if !g.last.IsZero() {
		g.now.add(s, s.At.Sub(g.last))
	}
	g.last = s.At
	switch {
	case g.mode == Off:
		g.turn(false, "off: so says the configuration")
	case g.cores == nil:
		if g.said.On {
			g.rest(minHold, "there were too few cores")
		}
		g.turn(false, "off: "+g.why)
	case g.mode == On:
		g.turn(true, "on: so says the configuration")
	case g.said.On:
		g.judge(s)
	default:
		g.start(s)
	}
	return g.said
}

// start is mode auto while off. It turns on at the end of a window that began with a core
// too busy already: what is to be relieved is what the cost is then compared with.
func (g *Governor) start(s Sample) {
	cpu, load := s.Load.Busiest()
	hot := load > Threshold
	var whole span
	if g.now.elapsed >= window {
		if g.hot {
			whole = g.now
		}
		g.now, g.hot = span{}, hot
	}
	switch {
	case s.At.Before(g.until):
		g.off()
	case cpu == Stay:
		g.turn(false, "off: no CPU's load is known yet")
	case !hot:
		g.turn(false, fmt.Sprintf("off: CPU %d is the busiest with %s; above %s packets are moved", cpu, percent(load), percent(Threshold)))
	case s.Load.Average > Threshold:
		g.turn(false, fmt.Sprintf("off: cores are busy to %s on average; there is no room to move packets to", percent(s.Load.Average)))
	case whole.elapsed == 0:
		g.turn(false, fmt.Sprintf("off: CPU %d is busy to %s; what a packet costs is measured before packets are moved", cpu, percent(load)))
	case whole.rate() < minRate:
		g.turn(false, fmt.Sprintf("off: CPU %d is busy to %s, but not with packets (%.0f/s)", cpu, percent(load), whole.rate()))
	default:
		g.before = whole
		g.turn(true, fmt.Sprintf("on: CPU %d was busy to %s, the pipeline's cores to %s on average", cpu, percent(load), percent(s.Load.Average)))
	}
}

// judge is mode auto while on.
func (g *Governor) judge(s Sample) {
	if g.now.elapsed < window {
		return
	}
	was, is := g.before, g.now
	g.now = span{}
	_, load := s.Load.Busiest()
	rate := is.rate() / was.rate() // start wants was to have packets
	switch {
	case rate < 1-rateMargin && load > Threshold:
		g.fail(fmt.Sprintf("%.0f packets/s got through instead of %.0f", is.rate(), was.rate()))
	case rate >= 1-rateMargin && rate <= 1+rateMargin && is.cost() > was.cost()*(1+costMargin):
		g.fail(fmt.Sprintf("a packet cost %.0f ns instead of %.0f ns", is.cost(), was.cost()))
	case rate < quietMargin && load < calm:
		g.rest(minHold, fmt.Sprintf("the load is gone: %.0f packets/s instead of %.0f", is.rate(), was.rate()))
		g.off()
	case s.At.Sub(g.said.Since) >= maxHold:
		g.hold = minHold
	}
}

// fail turns off what didn't pay, for twice as long as the last time.
func (g *Governor) fail(why string) {
	g.rest(g.hold, why)
	g.off()
	g.hold = min(2*g.hold, maxHold)
}

// rest keeps it off for some time. What was measured before is measured anew.
func (g *Governor) rest(hold time.Duration, why string) {
	g.until, g.failed = g.last.Add(hold), why
	g.now, g.hot = span{}, false
}

func (g *Governor) off() {
	g.turn(false, fmt.Sprintf("off until %s: %s", g.until.UTC().Format(time.RFC3339), g.failed))
}

func (g *Governor) turn(on bool, why string) {
	if g.said.On != on || g.said.Since.IsZero() {
		g.said.Since = g.last
	}
	g.said.On, g.said.Why = on, why
}

// span is the sum of samples.
type span struct {
	elapsed, busy time.Duration
	packets       uint64
}

func (w *span) add(s Sample, elapsed time.Duration) {
	w.elapsed += elapsed
	w.busy += s.Busy
	w.packets += s.Packets
}

// rate is in packets/s, cost in ns of CPU for a packet.
func (w span) rate() float64 { return float64(w.packets) / w.elapsed.Seconds() }
func (w span) cost() float64 { return float64(w.busy) / float64(w.packets) }

func percent(perMille uint32) string { return fmt.Sprintf("%d %%", perMille/10) }
