package sim

// kind is what an event does; its a and b are named after each.
type kind uint8

const (
	evArrival  kind = iota // a: stream
	evDeliver              // a: actor, b: message
	evTurn                 // a: actor, b: its life
	evTail                 // a: actor, b: its life
	evReply                // a: frame, b: 1 if it failed
	evMoved                // a: actor, b: its life
	evUp                   // a: server
	evGone                 // a: server
	evResized              // a: server
	evWeight               // a: stream, b: target
	evWorld                // a: index into the world's events
	evRecover              // a: server
	evNodeBack             // a: node
	evTick
)

// event is at a time. order counts events as they are made, above the kind in the low byte, so
// that those of one time happen in the order in which they were made.
type event struct {
	at    int64
	order uint64
	a, b  int32
}

func (e event) kind() kind { return kind(e.order & 0xff) }

func (e event) before(o event) bool {
	return e.at < o.at || e.at == o.at && e.order < o.order
}

// heap is a heap of four children a node: half as deep as one of two, and a node's children
// share cache lines.
type heap struct {
	events []event
	made   uint64
}

func (h *heap) push(at int64, k kind, a, b int32) {
	h.made++
	e := event{at: at, order: h.made<<8 | uint64(k), a: a, b: b}
	h.events = append(h.events, e)
	i := len(h.events) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(h.events[up]) {
			break
		}
		h.events[i] = h.events[up]
		i = up
	}
	h.events[i] = e
}

// pop takes the first event. The heap must not be empty.
func (h *heap) pop() event {
	first := h.events[0]
	n := len(h.events) - 1
	last := h.events[n]
	h.events = h.events[:n]
	if n == 0 {
		return first
	}
	i := 0
	for {
		child := 4*i + 1
		if child >= n {
			break
		}
		least := child
		for c := child + 1; c < min(child+4, n); c++ {
			if h.events[c].before(h.events[least]) {
				least = c
			}
		}
		if !h.events[least].before(last) {
			break
		}
		h.events[i] = h.events[least]
		i = least
	}
	h.events[i] = last
	return first
}
