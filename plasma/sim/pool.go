package sim

// none is the index of nothing.
const none = int32(-1)

// message calls a function of an actor, or is a task of the runtime on a server.
type message struct {
	next   int32 // in a mailbox, or in the list of free ones
	from   int32 // an actor; none is a client or the runtime
	fn     int32 // none is a task of the runtime, which takes sent nanoseconds
	frame  int32 // what waits for the answer
	sent   int64
	epoch  uint32 // of the receiver when it was sent
	client bool
	remote bool // it came from another server
	hopped bool // it has been forwarded
}

// frame is a turn that has ended and waits for answers before it answers itself.
type frame struct {
	next    int32 // in the list of free ones
	parent  int32
	actor   int32
	pending int32
	life    uint32 // the actor's, when the frame was made
	sent    int64
	client  bool
	waited  bool
	failed  bool
}

// messages and frames are kept in slices and reused, so that no event allocates.
type messages struct {
	all   []message
	free  int32
	inUse int
}

func (p *messages) take() int32 {
	p.inUse++
	if p.free != none {
		i := p.free
		p.free = p.all[i].next
		return i
	}
	p.all = append(p.all, message{})
	return int32(len(p.all) - 1)
}

func (p *messages) give(i int32) {
	p.inUse--
	p.all[i].next = p.free
	p.free = i
}

type frames struct {
	all   []frame
	free  int32
	inUse int
}

func (p *frames) take() int32 {
	p.inUse++
	if p.free != none {
		i := p.free
		p.free = p.all[i].next
		return i
	}
	p.all = append(p.all, frame{})
	return int32(len(p.all) - 1)
}

func (p *frames) give(i int32) {
	p.inUse--
	p.all[i].next = p.free
	p.free = i
}

// ready is a queue of actors that have a message and wait for a core. An entry counts only
// while the actor's turn is the one it was queued for: whoever leaves early just stays in it.
type ready struct {
	ring []entry
	head int
	n    int
}

type entry struct {
	actor int32
	token uint32
}

func (q *ready) push(e entry) {
	if q.n == len(q.ring) {
		bigger := make([]entry, max(16, 2*q.n))
		for i := range q.n {
			bigger[i] = q.ring[(q.head+i)&(len(q.ring)-1)]
		}
		q.ring, q.head = bigger, 0
	}
	q.ring[(q.head+q.n)&(len(q.ring)-1)] = e
	q.n++
}

func (q *ready) pop() entry {
	e := q.ring[q.head]
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	return e
}
