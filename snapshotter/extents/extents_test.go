package extents

import (
	"math/rand/v2"
	"testing"
)

// naive counts byte by byte what Tally finds by sorting.
func naive(extents []Extent) (sum uint64) {
	shared := map[uint64]int{}
	for _, e := range extents {
		if !e.Shared {
			sum += e.Length
			continue
		}
		for b := e.Physical; b < e.Physical+e.Length; b++ {
			if shared[b]++; shared[b] == 2 {
				sum++
			}
		}
	}
	return sum
}

func TestTally(t *testing.T) {
	for name, c := range map[string]struct {
		extents []Extent
		want    uint64
	}{
		"nothing":               {nil, 0},
		"own":                   {[]Extent{{0, 10, false}, {20, 5, false}}, 15},
		"shared with below":     {[]Extent{{0, 10, true}}, 0},
		"shared inside":         {[]Extent{{0, 10, true}, {0, 10, true}}, 10},
		"three clones":          {[]Extent{{0, 10, true}, {0, 10, true}, {0, 10, true}}, 10},
		"overlap":               {[]Extent{{0, 10, true}, {6, 10, true}}, 4},
		"neighbours":            {[]Extent{{0, 10, true}, {10, 10, true}}, 0},
		"one inside another":    {[]Extent{{0, 100, true}, {10, 5, true}, {50, 5, true}}, 10},
		"long after twice":      {[]Extent{{0, 10, true}, {0, 100, true}, {50, 10, true}}, 20},
		"own beside shared":     {[]Extent{{0, 10, true}, {0, 10, false}}, 10},
		"empty extents":         {[]Extent{{5, 0, true}, {5, 0, true}, {5, 0, false}}, 0},
		"at the end of numbers": {[]Extent{{^uint64(0) - 10, 10, true}, {^uint64(0) - 10, 10, true}}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			var tally Tally
			tally.Add(c.extents...)
			if got := tally.Bytes(); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestTallyIsTheNaiveCount(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		// A small disk, so that extents meet in every way.
		extents := make([]Extent, r.IntN(12))
		for i := range extents {
			extents[i] = Extent{Physical: r.Uint64N(60), Length: r.Uint64N(25), Shared: r.IntN(4) > 0}
		}
		want := naive(extents)
		var tally Tally
		for _, e := range extents {
			tally.Add(e)
		}
		if got := tally.Bytes(); got != want {
			t.Fatalf("%+v: got %d, want %d", extents, got, want)
		}
		if got := tally.Bytes(); got != want {
			t.Fatalf("%+v: asked again, got %d, want %d", extents, got, want)
		}
	}
}

func FuzzTally(f *testing.F) {
	f.Add([]byte{0, 10, 1, 5, 10, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var extents []Extent
		for ; len(b) >= 3; b = b[3:] {
			extents = append(extents, Extent{uint64(b[0]), uint64(b[1]), b[2]&1 != 0})
		}
		var tally Tally
		tally.Add(extents...)
		if got, want := tally.Bytes(), naive(extents); got != want {
			t.Errorf("%+v: got %d, want %d", extents, got, want)
		}
	})
}
