package pipeline

import (
	"maps"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

const stat = `cpu  1922051 50395 1360535 3426518 163338 0 51433 155670 0 0
cpu0 100 20 30 4000 500 6 7 8 90 10
cpu2 1 2 3 4 5 6 7 8
intr 122985382 0 0
ctxt 1
softirq 1 2 3
`

func TestParseStat(t *testing.T) {
	want := Stat{0: {Busy: 171, Idle: 4500}, 2: {Busy: 27, Idle: 9}}
	if got, err := ParseStat(stat); !maps.Equal(got, want) || err != nil {
		t.Error(got, err)
	}
	for _, text := range []string{
		"", "cpu  1 2 3 4 5 6 7 8\n", "cpu0 1 2 3 4 5 6 7\n", "cpu0 1 2 3 4 5 6 7 x\n",
		"cpu0 1 2 3 4 5 6 7 -8\n", "cpux 1 2 3 4 5 6 7 8\n", "cpu9999 1 2 3 4 5 6 7 8\n",
	} {
		if got, err := ParseStat(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add(stat, stat)
	f.Add("cpu0 1 2 3 4 5 6 7 8", "cpu0 18446744073709551615 1 1 18446744073709551615 1 6 7 8")
	f.Fuzz(func(t *testing.T, one, two string) {
		a, err := ParseStat(one)
		if err != nil {
			return
		}
		b, err := ParseStat(two)
		if err != nil {
			return
		}
		m := NewMeter(upTo(4))
		for _, s := range []Stat{a, b, a, b} {
			l := m.Add(s)
			for c, load := range l.Core {
				if load > 1000 {
					t.Errorf("CPU %d: %d", c, load)
				}
			}
			if l.Average > 1000 {
				t.Error(l.Average)
			}
		}
	})
}

func TestBusySince(t *testing.T) {
	before := Stat{0: {Busy: 100}, 1: {Busy: 200}, 2: {Busy: 5}}
	now := Stat{0: {Busy: 150}, 1: {Busy: 199}, 3: {Busy: 7000}}
	if got := now.Busy(before); got != 500*time.Millisecond {
		t.Error(got)
	}
}

func TestEWMA(t *testing.T) {
	for _, c := range [][3]uint32{{0, 0, 0}, {0, 1000, 200}, {200, 1000, 360}, {1000, 0, 800}, {800, 800, 800}} {
		if got := EWMA(c[0], c[1]); got != c[2] {
			t.Errorf("%v: %d", c, got)
		}
	}
	for busy := uint32(0); busy <= 1000; busy++ {
		for _, load := range []uint32{0, busy, 1000} {
			for range 60 {
				next := EWMA(load, busy)
				if next > max(load, busy) || next+1 < min(load, busy) {
					t.Fatalf("from %d by %d to %d", load, busy, next)
				}
				load = next
			}
			if load > busy+4 || load+4 < busy {
				t.Fatalf("settles at %d under a load of %d", load, busy)
			}
		}
	}
}

func TestMeter(t *testing.T) {
	m := NewMeter([]int{0, 1, 3})
	for i, c := range []struct {
		stat Stat
		want map[int]uint32
		avg  uint32
	}{
		{Stat{0: {0, 0}, 1: {0, 0}, 2: {0, 0}}, map[int]uint32{}, 0},
		{Stat{0: {50, 50}, 1: {0, 100}, 2: {100, 0}}, map[int]uint32{0: 500, 1: 0, 2: 1000}, 250},
		// No tick, idle time that runs backwards, a CPU that goes and one that comes.
		{Stat{0: {50, 50}, 1: {10, 99}, 3: {7, 7}}, map[int]uint32{0: 500, 1: 200}, 350},
		{Stat{0: {50, 150}, 1: {10, 199}, 2: {100, 0}, 3: {7, 8}}, map[int]uint32{0: 400, 1: 160, 3: 0}, 186},
	} {
		l := m.Add(c.stat)
		if !maps.Equal(l.Core, c.want) || l.Average != c.avg {
			t.Errorf("interval %d: %v; want %v, %d", i, l, c.want, c.avg)
		}
		l.Core[0] = 77 // the caller's
	}
}

func TestBusiest(t *testing.T) {
	if cpu, load := (Load{}).Busiest(); cpu != Stay || load != 0 {
		t.Error(cpu, load)
	}
	if cpu, load := (Load{Core: map[int]uint32{3: 0, 5: 0}}).Busiest(); cpu != 3 || load != 0 {
		t.Error(cpu, load)
	}
	if cpu, load := (Load{Core: map[int]uint32{3: 10, 9: 700, 5: 700}}).Busiest(); cpu != 5 || load != 700 {
		t.Error(cpu, load)
	}
}
