package world

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// span is a duration as it is written: "1m30s".
type span time.Duration

func (s *span) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration: write it as 250ms, 10s or 5m", text)
	}
	*s = span(d)
	return nil
}

func (s span) MarshalText() ([]byte, error) {
	return []byte(time.Duration(s).String()), nil
}

// size is a number of bytes as it is written: a number, or with a unit ("4KiB").
type size float64

func (s *size) UnmarshalText(text []byte) error {
	if f, err := strconv.ParseFloat(strings.ReplaceAll(string(text), "_", ""), 64); err == nil {
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("%q is no size: write it as 512B, 4KiB or 2GiB", text)
		}
		*s = size(f)
		return nil
	}
	n, err := units.RAMInBytes(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no size: write it as 512B, 4KiB or 2GiB", text)
	}
	*s = size(n)
	return nil
}

func (s size) MarshalText() ([]byte, error) {
	f := float64(s)
	if f > 0 && f < 1<<53 && f == math.Trunc(f) {
		for i, unit := range []string{"GiB", "MiB", "KiB"} {
			if factor := float64(int64(1) << (30 - 10*i)); math.Mod(f, factor) == 0 {
				return []byte(strconv.FormatFloat(f/factor, 'f', -1, 64) + unit), nil
			}
		}
	}
	if f < 1<<53 && f == math.Trunc(f) {
		return strconv.AppendFloat(nil, f, 'f', -1, 64), nil
	}
	return strconv.AppendFloat(nil, f, 'g', -1, 64), nil
}

// points are values over time as they are written: "0s 10, 1m30s 25", or one for all the time.
type points struct{ list []Point }

func newPoints(list []Point) *points {
	if len(list) == 0 {
		return nil
	}
	return &points{list}
}

func (p *points) points() []Point {
	if p == nil {
		return nil
	}
	return p.list
}

// maxPoints is of one rate or weight.
const maxPoints = 100_000

func (p *points) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ",")
	if len(parts) > maxPoints {
		return fmt.Errorf("%d points are more than %d", len(parts), maxPoints)
	}
	out := make([]Point, 0, len(parts))
	for _, part := range parts {
		fields := strings.Fields(part)
		var point Point
		switch {
		case len(fields) == 2:
			d, err := time.ParseDuration(fields[0])
			if err != nil {
				return fmt.Errorf("%q is no duration: write points as \"0s 10, 1m30s 25\"", fields[0])
			}
			point.At = d
		case len(fields) != 1 || len(parts) != 1:
			return errors.New("points are written as \"0s 10, 1m30s 25\", or as one number for all the time")
		}
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%q is no number", fields[len(fields)-1])
		}
		point.Value = v
		out = append(out, point)
	}
	p.list = out
	return nil
}

func (p *points) MarshalText() ([]byte, error) {
	if len(p.list) == 1 && p.list[0].At == 0 {
		return strconv.AppendFloat(nil, p.list[0].Value, 'g', -1, 64), nil
	}
	var b []byte
	for i, point := range p.list {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, point.At.String()...)
		b = append(b, ' ')
		b = strconv.AppendFloat(b, point.Value, 'g', -1, 64)
	}
	return b, nil
}
