package sim

// answer answers a message whose turn has ended and waits for nothing.
func (r *run) answer(i int32, msg *message, sent int) int {
	if !msg.client && msg.frame == none {
		return sent
	}
	a := &r.actors[i]
	r.window.wasServed(i, a.server, r.now-msg.sent, msg.client)
	if msg.client {
		r.answered(r.now - msg.sent)
		return sent
	}
	parent := &r.frames.all[msg.frame]
	home := r.actors[parent.actor].server
	at := r.now + int64(r.distance(a.server, home))
	if a.server != home {
		sent++
		at += r.shift(a, sent)
		r.actors[parent.actor].debt += r.costs.serialize
	}
	r.heap.push(at, evReply, msg.frame, 0)
	return sent
}

// replied is an answer that a frame waits for.
func (r *run) replied(w int32, failed bool) {
	f := &r.frames.all[w]
	f.pending--
	f.failed = f.failed || failed
	if f.pending == 0 && f.waited {
		r.complete(w)
	}
}

// complete answers for a turn that has all its answers.
func (r *run) complete(w int32) {
	f := r.frames.all[w]
	r.frames.give(w)
	a := &r.actors[f.actor]
	failed := f.failed || a.life != f.life
	if !failed {
		r.window.wasServed(f.actor, a.server, r.now-f.sent, f.client)
	}
	switch {
	case f.client && failed:
		r.failed()
	case f.client:
		r.answered(r.now - f.sent)
	case f.parent == none:
	case failed:
		r.heap.push(r.now, evReply, f.parent, 1)
	default:
		b := &r.actors[r.frames.all[f.parent].actor]
		if a.server != b.server {
			// It is no turn of theirs, so their next ones pay.
			a.debt += r.costs.serialize
			b.debt += r.costs.serialize
		}
		r.heap.push(r.now+int64(r.distance(a.server, b.server)), evReply, f.parent, 0)
	}
}

// lose gives up a message: whoever waits for its answer is told.
func (r *run) lose(m int32) {
	msg := r.messages.all[m]
	r.messages.give(m)
	if msg.fn == none {
		return
	}
	r.result.Lost++
	r.refuse(&msg)
}

// refuse tells whoever waits for the answer to a message that there will be none.
func (r *run) refuse(msg *message) {
	if msg.client {
		r.failed()
	} else if msg.frame != none {
		r.heap.push(r.now, evReply, msg.frame, 1)
	}
}

// clear loses all messages of a mailbox, and that of the turn if there is one.
func (r *run) clear(a *actor) {
	for a.head != none {
		m := a.head
		a.head = r.messages.all[m].next
		r.lose(m)
	}
	a.length = 0
	a.head, a.tail = none, none
	if a.current != none {
		m := a.current
		a.current = none
		r.lose(m)
	}
}

// opened, answered and failed count the requests of clients, and how many are under way.
func (r *run) opened() {
	r.result.Requests++
	r.window.requests++
	r.level(+1)
}

func (r *run) answered(latency int64) {
	r.result.Answered++
	r.window.answered++
	r.level(-1)
	if r.now-latency >= int64(r.world.Warmup) {
		r.window.total.add(latency)
	}
}

func (r *run) failed() {
	r.result.Failed++
	r.level(-1)
}

// level keeps the mean number of requests under way.
func (r *run) level(by int) {
	w := &r.window
	w.area += float64(w.open) * float64(r.now-w.areaAt)
	w.areaAt = r.now
	w.open += by
}
