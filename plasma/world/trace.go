package world

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// MaxTrace is the size of the longest trace that is read, in bytes.
const MaxTrace = 64 << 20

// traceHeader is a trace's first line.
var traceHeader = []string{"at_seconds", "id"}

// ReadTrace reads arrivals from comma-separated lines of a time and an actor's ID, in the
// order of time, below a first line "at_seconds,id". Errors begin with name:line.
func ReadTrace(name string, text []byte) ([]Arrival, error) {
	return readTrace(name, text, maxArrivals)
}

func readTrace(name string, text []byte, limit int) ([]Arrival, error) {
	if len(text) > MaxTrace {
		return nil, fmt.Errorf("%s:1: a trace of more than %d MiB is not read: split it", name, MaxTrace>>20)
	}
	r := csv.NewReader(bytes.NewReader(text))
	r.ReuseRecord = true
	r.FieldsPerRecord = len(traceHeader)
	header, err := r.Read()
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s:1: the trace is empty: its first line is \"at_seconds,id\"", name)
	case err != nil:
		return nil, traceError(name, err)
	case header[0] != traceHeader[0] || header[1] != traceHeader[1]:
		return nil, fmt.Errorf("%s:1: the first line must be \"at_seconds,id\"", name)
	}
	var out []Arrival
	ids := map[string]string{} // one string for each, however often it is called
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, traceError(name, err)
		}
		line, _ := r.FieldPos(0)
		at, err := seconds(record[0])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		if n := len(out); n > 0 && at < out[n-1].At {
			return nil, fmt.Errorf("%s:%d: %s s is before the line above: sort the trace by time", name, line, record[0])
		}
		if len(out) == limit {
			return nil, fmt.Errorf("%s:%d: the trace has more than %d arrivals", name, line, limit)
		}
		id, ok := ids[record[1]]
		if !ok {
			id = strings.Clone(record[1])
			ids[id] = id
		}
		out = append(out, Arrival{At: at, ID: id})
	}
}

// traceError gives the line of what the csv reader found.
func traceError(name string, err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s:%d: a line is at_seconds,id: %w", name, parse.Line, parse.Err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

func seconds(text string) (time.Duration, error) {
	s, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || math.IsNaN(s) {
		return 0, fmt.Errorf("%q is no time in seconds", text)
	}
	if s < 0 || s > maxDuration.Seconds() {
		return 0, fmt.Errorf("%q is no time between 0 and %.0f s", text, maxDuration.Seconds())
	}
	return time.Duration(math.Round(s * 1e9)), nil
}

// writeTrace is ReadTrace's inverse.
func writeTrace(arrivals []Arrival) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.Write(traceHeader) // a bytes.Buffer takes all
	for _, a := range arrivals {
		_ = w.Write([]string{strconv.FormatFloat(a.At.Seconds(), 'f', 9, 64), a.ID})
	}
	w.Flush()
	return b.Bytes()
}
