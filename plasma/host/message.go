package host

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/host/lane"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// message is what waits in a mailbox.
type message struct {
	function string
	body     []byte
	from     placement.Actor   // zero: a client
	chain    []placement.Actor // calls that wait for this one
	trace    string
	lane     lane.ID
	number   uint64 // in the lane; 0: none
	timer    int64  // when the timer called function is due, Unix nanoseconds; 0: no timer

	tick   uint32 // of the host's coarse clock, at arrival
	weight uint32 // for how many messages its times stand; 0: it is not timed
	at     time.Time

	taken atomic.Bool // by the turn, or by a caller that waits no more
	done  chan result // holds one

	pooled bool
}

var messages = sync.Pool{New: func() any { return &message{done: make(chan result, 1), pooled: true} }}

// free gives back a message that was answered.
func (m *message) free() {
	if !m.pooled {
		return
	}
	done := m.done
	*m = message{done: done, pooled: true}
	messages.Put(m)
}

// result is how a message has ended. An err that is an *Error is an answer.
type result struct {
	body []byte
	err  error
}

func (m *message) answer(body []byte, err error) {
	if m.done != nil {
		m.done <- result{body, err}
	}
}

// fifo is a queue of messages.
type fifo struct {
	items []*message
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) push(m *message) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, m)
}

func (q *fifo) pop() *message {
	if q.len() == 0 {
		return nil
	}
	m := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return m
}

// peek gives the first, nil if there is none.
func (q *fifo) peek() *message {
	if q.len() == 0 {
		return nil
	}
	return q.items[q.head]
}
