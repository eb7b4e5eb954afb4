// Package meter counts what an actor does, cheaply: a message costs a few nanoseconds, and only
// some are timed, all of them while an actor has few.
package meter

import (
	"time"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

const (
	// exact is how many messages of a window are all timed; after them one in every.
	exact = 64
	every = 128
	// maxCalls is how many pairs of sender and function are told apart in a window.
	maxCalls = 128
)

// Meter counts for one actor. It is for one goroutine at a time.
type Meter struct {
	n        uint64
	busy     time.Duration
	received uint64
	sent     uint64
	calls    []Call
	index    map[callKey]int
	last     int
	latency  *Histogram
}

type callKey struct {
	from     placement.Actor
	function string
}

// Call is how often one sender has called one function. From is zero for clients; in the last of
// too many both are empty.
type Call struct {
	From     placement.Actor
	Function string
	Count    uint64
	Bytes    uint64
}

// Counts is what was counted in a window.
type Counts struct {
	Messages uint64
	Busy     time.Duration // of turns, without what they waited for others
	Received uint64
	Sent     uint64
	Calls    []Call
	Latency  *Histogram // nil if nothing was answered
}

// Arrive counts a message. The result is for how many messages its time stands: 0 if it need not
// be timed.
func (m *Meter) Arrive(from placement.Actor, function string, bytes int) (weight uint32) {
	m.n++
	m.received += uint64(bytes)
	// Senders take turns more often than not: try the one after the last, then the last.
	i := m.last + 1
	if i >= len(m.calls) {
		i = 0
	}
	if !m.is(i, from, function) {
		if i = m.last; !m.is(i, from, function) {
			i = m.find(from, function)
		}
	}
	m.last = i
	c := &m.calls[i]
	c.Count++
	c.Bytes += uint64(bytes)
	switch {
	case m.n <= exact:
		return 1
	case m.n%every == 0:
		return every
	}
	return 0
}

func (m *Meter) is(i int, from placement.Actor, function string) bool {
	return i < len(m.calls) && m.calls[i].Function == function && m.calls[i].From == from
}

func (m *Meter) find(from placement.Actor, function string) int {
	key := callKey{from, function}
	if i, ok := m.index[key]; ok {
		return i
	}
	if m.index == nil {
		m.index = make(map[callKey]int, 4)
	}
	if len(m.calls) >= maxCalls-1 {
		key = callKey{}
		if i, ok := m.index[key]; ok {
			return i
		}
	}
	m.calls = append(m.calls, Call{From: key.from, Function: key.function})
	m.index[key] = len(m.calls) - 1
	return len(m.calls) - 1
}

// Turned counts a turn that took d, and what it sent.
func (m *Meter) Turned(weight uint32, d time.Duration, sent int) {
	m.sent += uint64(sent)
	if weight > 0 {
		m.busy += d * time.Duration(weight)
	}
}

// Answered counts the time from a message's arrival to its answer.
func (m *Meter) Answered(weight uint32, d time.Duration) {
	if weight == 0 {
		return
	}
	if m.latency == nil {
		m.latency = new(Histogram)
	}
	m.latency.Record(d, weight)
}

// Take gives the counts and begins a new window.
func (m *Meter) Take() Counts {
	c := Counts{m.n, m.busy, m.received, m.sent, m.calls, m.latency}
	*m = Meter{}
	return c
}
