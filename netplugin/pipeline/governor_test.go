package pipeline

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// traffic is a node whose samples come each second.
type traffic struct {
	t   *testing.T
	g   *Governor
	now time.Time
}

func newTraffic(t *testing.T, mode Mode) *traffic {
	cores, why, err := Plan(upTo(4), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &traffic{t, NewGovernor(mode, cores, why), epoch}
}

// state is a rate, what a packet costs, and how busy the busiest core and all are.
type state struct {
	rate          uint64
	ns            uint64
	busiest, rest uint32
}

var (
	idle    = state{1000, 2000, 100, 50}
	hot     = state{400_000, 2000, 900, 300}
	better  = state{480_000, 2050, 600, 500}
	costly  = state{400_000, 2300, 500, 500}
	dropped = state{250_000, 2000, 990, 500}
	crowded = state{400_000, 2000, 900, 850}
	other   = state{200, 2000, 950, 100}
)

func (x *traffic) second(s state) Decision {
	x.now = x.now.Add(time.Second)
	return x.g.Observe(Sample{
		At: x.now, Busy: time.Duration(s.rate * s.ns), Packets: s.rate,
		Load: Load{Core: map[int]uint32{0: s.rest, 1: s.busiest}, Average: s.rest},
	})
}

// last observes for some seconds and returns the last decision.
func (x *traffic) last(s state, seconds int) (d Decision) {
	for range seconds {
		d = x.second(s)
	}
	return d
}

func (x *traffic) wants(d Decision, on bool, why string) {
	x.t.Helper()
	if d.On != on || d.Why != why {
		x.t.Errorf("%v %q; want %v %q", d.On, d.Why, on, why)
	}
	if d != x.g.Decision() {
		x.t.Errorf("%v isn't what it says now: %v", d, x.g.Decision())
	}
}

func TestGovernorSaysWhy(t *testing.T) {
	few := "2 cores: too few"
	x := newTraffic(t, Auto)
	x.wants(x.g.Decision(), false, "off: nothing is measured yet")
	x.wants(x.second(idle), false, "off: CPU 1 is the busiest with 10 %; above 80 % packets are moved")
	x.wants(x.last(crowded, 20), false, "off: cores are busy to 85 % on average; there is no room to move packets to")
	x.wants(x.last(other, 11), false, "off: CPU 1 is busy to 95 %; what a packet costs is measured before packets are moved")
	x.g.SetCores(nil, few)
	x.wants(x.last(hot, 20), false, "off: "+few)

	x = newTraffic(t, Off)
	x.wants(x.last(hot, 20), false, "off: so says the configuration")
	x = newTraffic(t, On)
	d := x.last(idle, 20)
	x.wants(d, true, "on: so says the configuration")
	if !d.Since.Equal(epoch.Add(time.Second)) {
		t.Error(d.Since)
	}
	x.g.SetCores(nil, few)
	x.wants(x.second(idle), false, "off: "+few)
	x = newTraffic(t, Auto)
	x.wants(x.g.Observe(Sample{At: epoch}), false, "off: no CPU's load is known yet")
}

func TestGovernorTurnsOnForPackets(t *testing.T) {
	x := newTraffic(t, Auto)
	x.last(idle, 10)
	turned := 0
	for i := 1; i <= 20 && turned == 0; i++ {
		if x.second(hot).On {
			turned = i
		}
	}
	// A window that began with the load, and what was left of the one before.
	if turned <= 5 || turned > 10 {
		t.Error("it took", turned, "seconds")
	}
	x.wants(x.g.Decision(), true, "on: CPU 1 was busy to 90 %, the pipeline's cores to 30 % on average")
	if d := x.last(better, 3600); !d.On {
		t.Error(d)
	}

	x = newTraffic(t, Auto)
	for range 100 {
		if d := x.second(other); d.On {
			t.Fatal("another program's load is none of packets'")
		} else if strings.Contains(d.Why, "not with packets (200/s)") {
			return
		}
	}
	t.Error("it never said so:", x.g.Decision())
}

// on is traffic for which it is on.
func on(t *testing.T) *traffic {
	x := newTraffic(t, Auto)
	if d := x.last(hot, 11); !d.On {
		t.Fatal(d)
	}
	for x.g.now.elapsed != 0 { // a window begins
		x.second(better)
	}
	return x
}

func TestGovernorTurnsOffWhatDoesNotPay(t *testing.T) {
	for _, c := range []struct {
		is  state
		why string
	}{
		{costly, "a packet cost 2300 ns instead of 2000 ns"},
		{dropped, "250000 packets/s got through instead of 400000"},
		{idle, "the load is gone: 1000 packets/s instead of 400000"},
	} {
		x := on(t)
		if d := x.last(c.is, 4); !d.On {
			t.Error("before a window was over:", d)
		}
		d := x.second(c.is)
		until := x.now.Add(minHold)
		x.wants(d, false, "off until "+until.Format(time.RFC3339)+": "+c.why)
		for x.now.Before(until.Add(-time.Second)) {
			if d := x.second(hot); d.On {
				t.Fatal(d)
			}
		}
		if d := x.last(hot, 6); !d.On {
			t.Error("it is off for longer than it said:", d)
		}
	}
	for _, is := range []state{
		better,
		{400_000, 2190, 900, 300},  // within 10 %
		{600_000, 4000, 900, 300},  // not comparable
		{250_000, 4000, 700, 300},  // the same, and the core isn't that busy
		{100_000, 2000, 700, 300},  // less load, but not calm
		{400_000, 2000, 900, 850},  // BPF leaves flows where they are
		{1_000_000, 500, 100, 100}, // what one would wish
	} {
		if d := on(t).last(is, 600); !d.On {
			t.Errorf("%+v: %v", is, d)
		}
	}
}

func TestHoldDoublesAndIsForgiven(t *testing.T) {
	x := newTraffic(t, Auto)
	var holds []time.Duration
	for x.now.Before(epoch.Add(3 * time.Hour)) {
		if was := x.g.Decision(); was.On {
			x.second(costly)
			continue
		} else if x.second(hot).On && len(holds) < 10 {
			holds = append(holds, x.now.Sub(was.Since))
		}
	}
	for i, want := range []time.Duration{0, 30, 60, 120, 240, 480, 600, 600, 600} {
		if want *= time.Second; holds[i] < want || holds[i] > want+11*time.Second {
			t.Errorf("time %d off for %v, want %v", i, holds[i], want)
		}
	}
	for !x.second(hot).On {
	}
	x.last(better, int(maxHold/time.Second)+10)
	for x.second(costly).On {
	}
	if got := x.g.until.Sub(x.now); got != minHold {
		t.Error("after it paid for 10 minutes it is off for", got)
	}
}

// Whatever is measured, it turns on at most once in 30 s; and while it never pays, about
// once in 10 minutes.
func TestGovernorDoesNotFlap(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	states := []state{idle, hot, better, costly, dropped, crowded, other, {}}
	few := (*Cores)(nil)
	for round := range 30 {
		x := newTraffic(t, Auto)
		cores, whole := x.g.cores, 0
		var ons []time.Time
		for range 4000 {
			s := states[random.IntN(len(states))]
			switch {
			case round%3 == 1: // the worst: always a reason to change
				s = hot
				if x.g.Decision().On {
					s = []state{costly, dropped, idle}[random.IntN(3)]
				}
			case round%3 == 2: // stays for a while
				if whole == 0 {
					whole = 1 + random.IntN(20)
					states[0], states[len(states)-1] = states[len(states)-1], states[0]
				}
				whole--
				s = states[whole%3]
			}
			if random.IntN(500) == 0 {
				x.g.SetCores([]*Cores{few, cores, cores}[random.IntN(3)], "2 cores: too few")
			}
			if random.IntN(200) == 0 { // clocks jump
				x.now = x.now.Add(time.Duration(random.IntN(20)-10) * time.Second)
			}
			was := x.g.Decision()
			is := x.second(s)
			if is.Why == "" || !strings.HasPrefix(is.Why, map[bool]string{true: "on: ", false: "off"}[is.On]) {
				t.Fatal(is)
			}
			if is.On != was.On && !is.Since.Equal(x.g.last) || is.On == was.On && !was.Since.IsZero() && !is.Since.Equal(was.Since) {
				t.Fatal(was, is)
			}
			if is.On && !was.On {
				if n := len(ons); n > 0 && is.Since.Sub(ons[n-1]) < minHold {
					t.Fatalf("on at %v and %v", ons[n-1], is.Since)
				}
				ons = append(ons, is.Since)
			}
		}
	}
	x, ons := newTraffic(t, Auto), 0
	for range 24 * 3600 {
		was := x.g.Decision().On
		s := hot
		if was {
			s = costly
		}
		if x.second(s).On && !was {
			ons++
		}
	}
	if ons > 24*6+6 {
		t.Error("on", ons, "times a day although it never pays")
	}
}
