package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/sim"
)

// The sizes of a chart and of what is around its area, in SVG units.
const (
	width, height = 720.0, 200.0
	left, right   = 56.0, 12.0
	top, bottom   = 10.0, 26.0
)

// maxPoints is how many points a line has at most: what lies between is merged.
const maxPoints = 600

// chart is lines over time.
type chart struct {
	Title, Unit, Doc string
	Width, Height    float64
	Left, Right      float64 // of the area
	Top, Bottom      float64
	X, Y             []tick
	Lines            []line
	Bars             []bar

	x, y        func(float64) float64
	logarithmic bool
}

type tick struct {
	At    float64
	Label string
}

// line is a path. Class is its place among the chart's lines, which gives it its color.
type line struct {
	Name, Path, Class string
	Mean              string
}

type bar struct {
	X, Y, Width, Height float64
	Title               string
}

// series is values at the ends of windows.
type series struct {
	name    string
	seconds []float64
	values  []float64
	steps   bool // the value holds for the whole window
}

// frame is a chart without anything in it: its axes for values from low (of a logarithmic one) up
// to high.
func frame(title, unit, doc string, end, low, high float64, logarithmic bool) chart {
	c := chart{
		Title: title, Unit: unit, Doc: doc, Width: width, Height: height,
		Left: left, Right: width - right, Top: top, Bottom: height - bottom,
		logarithmic: logarithmic && high > 0,
	}
	end, high = max(end, 1e-9), max(high, 1e-9)
	c.x = func(t float64) float64 { return c.Left + (c.Right-c.Left)*t/end }
	for _, t := range nice(0, end, 8) {
		c.X = append(c.X, tick{c.x(t), clockLabel(t)})
	}
	if c.logarithmic {
		from, to := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
		to = max(to, from+1)
		c.y = func(v float64) float64 {
			return c.Bottom - (c.Bottom-c.Top)*(math.Log10(v)-from)/(to-from)
		}
		for d := from; d <= to; d++ {
			c.Y = append(c.Y, tick{c.y(math.Pow(10, d)), number(math.Pow(10, d))})
		}
		return c
	}
	ticks := nice(0, high, 5)
	to := max(ticks[len(ticks)-1], high)
	c.y = func(v float64) float64 { return c.Bottom - (c.Bottom-c.Top)*v/to }
	for _, v := range ticks {
		c.Y = append(c.Y, tick{c.y(v), number(v)})
	}
	return c
}

// plot draws series. On a logarithmic axis what is 0 is not drawn.
func plot(title, unit, doc string, logarithmic bool, all ...series) chart {
	end, low, high := 0.0, math.Inf(1), 0.0
	for _, s := range all {
		for i, v := range s.values {
			end = max(end, s.seconds[i])
			if math.IsNaN(v) {
				continue
			}
			high = max(high, v)
			if v > 0 {
				low = min(low, v)
			}
		}
	}
	c := frame(title, unit, doc, end, low, high, logarithmic)
	for i, s := range all {
		c.Lines = append(c.Lines, line{
			Name: s.name, Class: fmt.Sprintf("c%d", i%10), Path: c.path(s), Mean: number(mean(s.values)),
		})
	}
	return c
}

// bars draws a series as bars.
func bars(title, unit, doc string, s series) chart {
	high, end := 0.0, 0.0
	for i, v := range s.values {
		high, end = max(high, v), max(end, s.seconds[i])
	}
	c := frame(title, unit, doc, end, 0, high, false)
	group := (len(s.values) + maxPoints - 1) / maxPoints
	before := 0.0
	for i := 0; i < len(s.values); i += group {
		part := s.values[i:min(i+group, len(s.values))]
		at := s.seconds[i+len(part)-1]
		if v := mean(part); v > 0 {
			c.Bars = append(c.Bars, bar{
				X: c.x(before), Width: max(1, c.x(at)-c.x(before)-.5), Y: c.y(v), Height: c.Bottom - c.y(v),
				Title: fmt.Sprintf("%s until %s", number(v), clockLabel(at)),
			})
		}
		before = at
	}
	return c
}

// path draws a line, in pieces where there is no value.
func (c *chart) path(s series) string {
	var b strings.Builder
	group := (len(s.values) + maxPoints - 1) / maxPoints
	drawing := false
	before := 0.0
	for i := 0; i < len(s.values); i += group {
		part := s.values[i:min(i+group, len(s.values))]
		at := s.seconds[i+len(part)-1]
		v := mean(part)
		if math.IsNaN(v) || c.logarithmic && v <= 0 {
			drawing = false
			before = at
			continue
		}
		pen := "L"
		if !drawing {
			pen = "M"
		}
		if s.steps {
			fmt.Fprintf(&b, "%s%.1f,%.1fH%.1f", pen, c.x(before), c.y(v), c.x(at))
		} else {
			fmt.Fprintf(&b, "%s%.1f,%.1f", pen, c.x(at), c.y(v))
		}
		drawing = true
		before = at
	}
	return b.String()
}

func mean(values []float64) float64 {
	sum, n := 0.0, 0
	for _, v := range values {
		if !math.IsNaN(v) {
			sum += v
			n++
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return sum / float64(n)
}

// nice gives about n round values from low up to high.
func nice(low, high float64, n int) []float64 {
	raw := (high - low) / float64(n)
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	step := 10 * unit
	for _, k := range []float64{1, 2, 5} {
		if k*unit >= raw {
			step = k * unit
			break
		}
	}
	var out []float64
	for i := range 4 * n {
		v := low + float64(i)*step
		if v > high*(1+1e-9) {
			break
		}
		out = append(out, v)
	}
	return out
}

func clockLabel(seconds float64) string {
	if seconds >= 3600 {
		return number(seconds/3600) + " h"
	}
	if seconds >= 120 {
		return number(seconds/60) + " min"
	}
	return number(seconds) + " s"
}

// of makes a series of a run's windows.
func of(r *sim.Result, name string, value func(*sim.Window) float64) series {
	s := series{name: name, values: make([]float64, len(r.Windows)), seconds: make([]float64, len(r.Windows))}
	for i := range r.Windows {
		s.values[i] = value(&r.Windows[i])
		s.seconds[i] = r.Windows[i].At.Seconds()
	}
	return s
}

func (s series) stepped() series {
	s.steps = true
	return s
}
