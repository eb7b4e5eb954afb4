// Package load has the shapes that loads have: over time, and over what is called.
package load

import (
	"math"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/world"
)

// step is how far the points of a curve are apart; between them it is straight.
const step = 5 * time.Second

// Curve is a load over time, as a factor.
type Curve func(at time.Duration) float64

// Day rises from low, at its beginning and end, to high in its middle, as a sine to the power of
// 2*sharp: the larger sharp is, the shorter the busy hours.
func Day(low, high float64, length time.Duration, sharp float64) Curve {
	return func(at time.Duration) float64 {
		s := math.Sin(math.Pi * at.Seconds() / length.Seconds())
		return low + (high-low)*math.Pow(s*s, sharp)
	}
}

// Crowd adds a flash crowd to a curve: it comes within rise, stays for hold and goes within fall.
func (c Curve) Crowd(start, rise, hold, fall time.Duration, add float64) Curve {
	return func(at time.Duration) float64 {
		t := (at - start).Seconds()
		up := t / rise.Seconds()
		down := 1 - (t-(rise+hold).Seconds())/fall.Seconds()
		return c(at) + add*min(1, max(0, min(up, down)))
	}
}

// Mean is a curve's mean over a time.
func (c Curve) Mean(d time.Duration) float64 {
	const samples = 1000
	sum := 0.0
	for i := range samples {
		sum += c(d * time.Duration(2*i+1) / (2 * samples))
	}
	return sum / samples
}

// Rate gives the points of a rate that is a factor times the curve; flat if it is to be the
// curve's mean all the time.
func (c Curve) Rate(factor float64, d time.Duration, flat bool) []world.Point {
	if flat {
		return []world.Point{{Value: round(factor * c.Mean(d))}}
	}
	var out []world.Point
	for at := time.Duration(0); at <= d; at += step {
		out = append(out, world.Point{At: at, Value: round(factor * c(at))})
	}
	return out
}

// round keeps worlds readable: to a thousandth.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }
