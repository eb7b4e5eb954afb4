package pipeline

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// What the C code of the package's documentation, compiled, gave.
func TestChooseAsInC(t *testing.T) {
	set := []int{2, 5, 8, 11, 14}
	load := func(average uint32) Load {
		return Load{Core: map[int]uint32{5: 900, 8: 801, 2: 950, 11: 800, 14: 1000}, Average: average}
	}
	for _, c := range []struct {
		flow, ifindex, mixed uint32
		five, two            int
	}{
		{0, 1, 0x514e28b7, 8, 5},
		{1, 3, 0x249cb285, 5, 5},
		{4, 1, 0xcc0d53cd, 11, 5},
		{0x01020304, 2, 0x6a2d3b52, 8, 5},
		{0xdeadbeef, 2, 0xbb18926a, 11, 5},
		{0xffffffff, 1, 0, 11, 5},
		{0x80000000, 2, 0x4eabd9fd, 5, 5},
	} {
		five, _ := Choose(c.flow, c.ifindex, set, load(Threshold))
		two, _ := Choose(c.flow, c.ifindex, set[:2], load(0))
		if m := Mix(c.flow + c.ifindex); m != c.mixed || five != c.five || two != c.two {
			t.Errorf("%x %d: %08x %d %d, want %08x %d %d", c.flow, c.ifindex, m, five, two, c.mixed, c.five, c.two)
		}
	}
	var sum uint64
	for f := range uint32(100_000) {
		c, _ := Choose(f*2654435761, f%7, set[:1+f%5], load(f%900))
		sum = sum*31 + uint64(c)
	}
	if sum != 8028056843659274106 {
		t.Error(sum)
	}
}

func TestChooseKeepsItsWord(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		set := random.Perm(32)[:random.IntN(9)]
		flow, ifindex, load := random.Uint32(), random.Uint32(), randomLoad(random, set)
		cpu, second := Choose(flow, ifindex, set, load)
		again, same := Choose(flow, ifindex, set, load)
		idle, never := Choose(flow, ifindex, set, Load{})
		switch {
		case cpu != again || second != same || never:
			t.Fatal("not a function of what it was given")
		case len(set) == 0 || load.Average > Threshold:
			if cpu != Stay || second {
				t.Fatal(set, load, cpu, second)
			}
		case !slices.Contains(set, cpu), second != (cpu != idle),
			second && (load.Core[idle] <= Threshold || load.Core[cpu] >= load.Core[idle]):
			t.Fatal(set, load, cpu, second, idle)
		}
	}
}

// Neither choice prefers a core, also for numbers in a row.
func TestChooseSpreadsEvenly(t *testing.T) {
	const flows = 70_000
	set := upTo(7)
	busy := Load{Core: map[int]uint32{}}
	for i, first := range []int{0, 3} {
		busy.Core[first] = 900 // all flows of this one take their second choice
		firsts, seconds := map[int]int{}, map[int]int{}
		for f := range uint32(flows) {
			c, _ := Choose(f, uint32(i), set, Load{})
			firsts[c]++
			if c, second := Choose(f, uint32(i), set, busy); second {
				seconds[c]++
			}
		}
		for _, c := range set {
			if n := firsts[c] * len(set); n < flows*95/100 || n > flows*105/100 {
				t.Errorf("%d flows of %d chose core %d", firsts[c], flows, c)
			}
			if n := seconds[c] * 6 * 7; busy.Core[c] == 0 && (n < flows*90/100 || n > flows*110/100) {
				t.Errorf("%d flows of %d second-chose core %d", seconds[c], flows/7, c)
			}
		}
		clear(busy.Core)
	}
}

// Flows that share a core at one stage don't at the next more often than by chance.
func TestFlowsPartAtTheNextStage(t *testing.T) {
	set, together, meet := upTo(4), 0, 0
	for f := range uint32(20_000) {
		g := f * 2654435761
		a, _ := Choose(f, 2, set, Load{})
		b, _ := Choose(g, 2, set, Load{})
		if a == b {
			together++
			a, _ = Choose(f, 3, set, Load{})
			b, _ = Choose(g, 3, set, Load{})
			if a == b {
				meet++
			}
		}
	}
	if meet*100 > together*30 {
		t.Errorf("%d of %d meet again", meet, together)
	}
}

func TestEntry(t *testing.T) {
	const ms = uint64(Drain) / 10
	var e Entry
	asked, answer := 0, 5
	next := func(now uint64, generation uint32) int {
		return e.Next(now, generation, func() int { asked++; return answer })
	}
	for i, c := range []struct {
		now        uint64
		generation uint32
		answer     int
		want       int
		asked      int
	}{
		{100 * ms, 1, 5, 5, 1},     // a new entry
		{110 * ms, 1, 6, 5, 1},     // a pause as long as Drain isn't longer
		{119 * ms, 1, 6, 5, 1},     // it counts from the last packet
		{129*ms + 1, 1, 6, 6, 2},   // drained
		{129*ms - 50, 1, 7, 6, 2},  // a clock that is behind is no pause
		{138 * ms, 1, Stay, 6, 2},  //
		{150 * ms, 1, Stay, -1, 3}, // to stay is sticky, too
		{151 * ms, 1, 7, -1, 3},    //
		{152 * ms, 2, 7, 7, 4},     // other cores: at once
		{153 * ms, 2, 8, 7, 4},     //
	} {
		answer = c.answer
		if got := next(c.now, c.generation); got != c.want || asked != c.asked || e.LastSeen != c.now {
			t.Errorf("packet %d: CPU %d, asked %d times, %+v; want %+v", i, got, asked, e, c)
		}
	}
}

// However packets come and loads change, a flow changes its core in one generation only
// after a pause.
func TestFlowsStayInOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	var e Entry
	now, last, cpu, generation, changes := uint64(1<<40), uint64(0), Stay, uint32(1), 0
	set := upTo(8)
	for i := range 100_000 {
		now += random.Uint64N(uint64(Drain) * 5 / 4)
		if random.IntN(1000) == 0 {
			generation++
			last = 0
		}
		got := e.Next(now, generation, func() int {
			c, _ := Choose(77, 3, set, randomLoad(random, set))
			return c
		})
		if got != cpu {
			changes++
			if i > 0 && now-last <= uint64(Drain) {
				t.Fatalf("from %d to %d after %d ns", cpu, got, now-last)
			}
		}
		cpu, last = got, now
	}
	if changes < 100 {
		t.Error("it hardly ever changes:", changes)
	}
}
