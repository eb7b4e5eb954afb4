package pool

import (
	"math/rand/v2"
	"testing"
)

func TestDefaultLimits(t *testing.T) {
	for name, c := range map[string]struct {
		total int64
		want  Limits
	}{
		"tiny":   {1 * giB, Limits{Initial: 512 * miB, Headroom: 256 * miB, Reserve: 32 * miB, HostReserve: 128 * miB}},
		"middle": {64 * giB, Limits{Initial: 2 * giB, Headroom: 1 * giB, Reserve: 128 * miB, HostReserve: 64 * giB / 100}},
		"huge":   {100 << 40, Limits{Initial: 8 * giB, Headroom: 4 * giB, Reserve: 256 * miB, HostReserve: 2 * giB}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := DefaultLimits(c.total); got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestInitial(t *testing.T) {
	l := Limits{Initial: 2 * giB, HostReserve: 1 * giB}
	for name, c := range map[string]struct {
		limits         Limits
		hostFree, want int64
	}{
		"as asked":                   {l, 10 * giB, 2 * giB},
		"just as asked":              {l, 3 * giB, 2 * giB},
		"as much as there is":        {l, 3*giB - 1, 2*giB - growthStep},
		"the least":                  {l, giB + minImage, minImage},
		"less than the least":        {l, giB + minImage - 1, 0},
		"less than the reserve":      {l, 100, 0},
		"full host":                  {l, 0, 0},
		"bound":                      {Limits{Initial: 2 * giB, Max: giB + 1}, 10 * giB, giB},
		"bound at the least":         {Limits{Initial: 2 * giB, Max: minImage}, 10 * giB, minImage},
		"bound below the least":      {Limits{Initial: 2 * giB, Max: minImage - 1}, 10 * giB, 0},
		"not a multiple of the step": {Limits{Initial: giB + 1}, 10 * giB, giB},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.limits.initial(c.hostFree); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestGrowth(t *testing.T) {
	l := Limits{Headroom: 256 * miB, HostReserve: giB}
	bound := func(size int64) Limits { l := l; l.Max = size; return l }
	for name, c := range map[string]struct {
		limits                     Limits
		size, free, hostFree, want int64
	}{
		"enough free":            {l, giB, 256 * miB, 100 * giB, 0},
		"just too little free":   {l, giB, 256*miB - 1, 100 * giB, 256 * miB},
		"nothing free":           {l, giB, 0, 100 * giB, 512 * miB},
		"an eighth is more":      {l, 80 * giB, 0, 100 * giB, 10 * giB},
		"host has a little":      {l, giB, 0, giB + 100*miB, 96 * miB},
		"host has one step":      {l, giB, 0, giB + growthStep, growthStep},
		"host has less":          {l, giB, 0, giB + growthStep - 1, 0},
		"host below its reserve": {l, giB, 0, 10 * miB, 0},
		"up to the bound":        {bound(giB + 100*miB), giB, 0, 100 * giB, 96 * miB},
		"at the bound":           {bound(giB), giB, 0, 100 * giB, 0},
		"bound lowered since":    {bound(giB / 2), giB, 0, 100 * giB, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.limits.growth(c.size, c.free, c.hostFree); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestGrowthNeverTakesTooMuch(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	// Sizes of all magnitudes from bytes to tebibytes.
	n := func() int64 { return r.Int64N(1 << (10 + r.IntN(33))) }
	grew := 0
	for range 200000 {
		l := Limits{Headroom: n(), HostReserve: n()}
		if r.IntN(2) == 0 {
			l.Max = n()
		}
		size, hostFree := minImage+n(), n()
		free := r.Int64N(size + 1)
		by := l.growth(size, free, hostFree)
		room := hostFree - l.HostReserve
		if l.Max > 0 {
			room = min(room, l.Max-size)
		}
		switch {
		case by < 0 || by%growthStep != 0:
			t.Fatalf("%+v.growth(%d, %d, %d) = %d is no multiple of %d", l, size, free, hostFree, by, growthStep)
		case by > max(room, 0):
			t.Fatalf("%+v.growth(%d, %d, %d) = %d is more than the %d there are", l, size, free, hostFree, by, room)
		case (by == 0) != (free >= l.Headroom || room < growthStep):
			t.Fatalf("%+v.growth(%d, %d, %d) = %d, with room for %d", l, size, free, hostFree, by, room)
		}
		if by > 0 {
			grew++
		}
	}
	if grew < 1000 {
		t.Errorf("only %d cases grew", grew)
	}
}

func TestInitialNeverTakesTooMuch(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	n := func() int64 { return r.Int64N(1 << (20 + r.IntN(20))) }
	for range 50000 {
		l := Limits{Initial: n(), HostReserve: n(), Max: n() * r.Int64N(2)}
		hostFree := n()
		size := l.initial(hostFree)
		if size == 0 {
			continue
		}
		if size < minImage || size%growthStep != 0 || size > l.Initial || hostFree-size < l.HostReserve || l.Max > 0 && size > l.Max {
			t.Fatalf("%+v.initial(%d) = %d", l, hostFree, size)
		}
	}
}

// TestDefaultsMakeSense holds a pool to what its limits are for, whatever the disk.
func TestDefaultsMakeSense(t *testing.T) {
	for total := int64(1); total < 1<<60; total *= 2 {
		l := DefaultLimits(total)
		if l.Initial < minImage || l.Headroom < l.Reserve || l.Reserve <= 0 || l.HostReserve <= 0 || l.Initial < l.Headroom {
			t.Errorf("on %d bytes: %+v", total, l)
		}
	}
}

func TestUntilFull(t *testing.T) {
	for free := int64(1); free < 1<<50; free *= 2 {
		// A disk that writes 8 GiB/s hasn't filled the pool before the next look, but
		// within a tenth of a second nobody looks twice.
		d := untilFull(free)
		if d < untilFull(0) || d > untilFull(1<<60) {
			t.Errorf("%d bytes free: looks again after %v", free, d)
		}
		if free >= giB && float64(free)/d.Seconds() < 8*float64(giB)-1 {
			t.Errorf("%d bytes free: %v is too long", free, d)
		}
	}
}
