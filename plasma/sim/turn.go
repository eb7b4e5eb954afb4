package sim

import (
	"math"
	"time"
)

// deliver puts a message into its receiver's mailbox, or sends it after an actor that has moved.
func (r *run) deliver(to, m int32) {
	a, msg := &r.actors[to], &r.messages.all[m]
	if a.status == unborn {
		r.lose(m)
		return
	}
	if msg.epoch != a.epoch && !msg.hopped {
		msg.hopped = true
		r.result.Forwarded++
		r.heap.push(r.now+int64(r.distance(a.before, a.server)), evDeliver, to, m)
		return
	}
	r.enqueue(to, m)
}

// enqueue puts a message into a mailbox.
func (r *run) enqueue(to, m int32) {
	a := &r.actors[to]
	r.messages.all[m].next = none
	if a.head == none {
		a.head = m
	} else {
		r.messages.all[a.tail].next = m
	}
	a.tail = m
	a.length++
	if a.status == idle {
		r.makeReady(to)
		r.dispatch(a.server)
	}
}

// makeReady queues an actor for a core of its server.
func (r *run) makeReady(i int32) {
	a := &r.actors[i]
	a.status = queued
	a.token++
	r.servers[a.server].ready.push(entry{i, a.token})
}

// dispatch starts turns on the cores that are free.
func (r *run) dispatch(on int32) {
	s := &r.servers[on]
	for s.busy < s.slots && s.ready.n > 0 {
		e := s.ready.pop()
		a := &r.actors[e.actor]
		if a.status != queued || a.token != e.token {
			continue
		}
		s.busy++
		r.start(e.actor, s)
	}
}

// start starts the turn of the first message of an actor's mailbox.
func (r *run) start(i int32, s *server) {
	a := &r.actors[i]
	m := a.head
	msg := &r.messages.all[m]
	a.head = msg.next
	a.length--
	a.current = m
	a.status = running
	a.since = r.now
	a.speed = s.speed
	if r.onStart != nil && a.typ != none {
		r.onStart(i, msg.from, msg.sent)
	}
	cost := a.debt
	a.debt = 0
	if msg.fn == none {
		cost += float64(msg.sent)
	} else {
		cost += r.service(&r.functions[msg.fn], a)
		if msg.remote {
			cost += r.costs.serialize
		}
	}
	r.heap.push(r.now+int64(min(cost/a.speed, forever)), evTurn, i, int32(a.life))
}

// forever is longer than any run, in ns: so that sums of times don't overflow.
const forever = float64(10 * 365 * 24 * time.Hour)

// service draws the processor's time of a turn.
func (r *run) service(f *function, a *actor) float64 {
	switch f.shape {
	case constant:
		return f.mean * a.scale
	case lognormal:
		return math.Exp(f.mu+f.sigma*r.dice.of(&a.rng).NormFloat64()) * a.scale
	}
	return f.mean * a.scale * r.dice.of(&a.rng).ExpFloat64()
}

// account adds what a running turn has used since it was last accounted.
func (r *run) account(a *actor) {
	used := float64(r.now-a.since) * a.speed
	a.cpu += used
	r.servers[a.server].cpu += used
	a.since = r.now
}

// turnEnds makes the calls of a turn. Messages to other servers cost the processor's time before
// they leave, so the turn has a tail.
func (r *run) turnEnds(i int32, life uint32) {
	a := &r.actors[i]
	if a.life != life {
		return
	}
	r.account(a)
	m := a.current
	msg := r.messages.all[m]
	if msg.fn == none {
		r.messages.give(m)
		a.current = none
		r.turnOver(i)
		return
	}
	sent := 0
	waits := none
	for c := range r.functions[msg.fn].calls {
		sent = r.makeCall(i, &r.functions[msg.fn].calls[c], &msg, &waits, sent)
	}
	switch waits {
	case none:
		sent = r.answer(i, &msg, sent)
	case full:
		r.refuse(&msg)
	default:
		r.frames.all[waits].waited = true
		if r.frames.all[waits].pending == 0 {
			r.complete(waits)
		}
	}
	r.messages.give(m)
	a.current = none
	if sent > 0 && r.costs.serialize > 0 {
		r.heap.push(r.now+r.shift(a, sent), evTail, i, int32(a.life))
		return
	}
	r.turnOver(i)
}

// full stands for a frame that there was no room for.
const full = int32(-2)

// shift is how long it takes until the n-th message of a turn has been written.
func (r *run) shift(a *actor, n int) int64 {
	return int64(min(float64(n)*r.costs.serialize/a.speed, forever))
}

func (r *run) tailEnds(i int32, life uint32) {
	a := &r.actors[i]
	if a.life != life {
		return
	}
	r.account(a)
	r.turnOver(i)
}

// turnOver frees the core, and lets the actor do what it was kept from, or wait for its next turn.
func (r *run) turnOver(i int32) {
	a := &r.actors[i]
	on := a.server
	r.servers[on].busy--
	switch {
	case a.dying:
		r.die(i)
	case a.target != none:
		r.pause(i)
	case a.head != none:
		r.makeReady(i)
	default:
		a.status = idle
	}
	r.dispatch(on)
}

// makeCall makes a call of a turn's function; sent counts the turn's messages to other servers,
// and waits is the frame of the turn, made when it is needed.
func (r *run) makeCall(i int32, c *call, msg *message, waits *int32, sent int) int {
	a := &r.actors[i]
	to := a.property(c.property)
	if len(to) == 0 {
		return sent
	}
	d := r.dice.of(&a.rng)
	if c.probability < 1 && d.Float64() >= c.probability {
		return sent
	}
	if !c.all {
		k := 0
		if len(to) > 1 {
			k = d.IntN(len(to))
		}
		to = to[k : k+1]
	}
	for _, t := range to {
		if c.wait && *waits == none {
			*waits = r.wait(i, msg)
		}
		if c.wait && *waits == full {
			r.result.Dropped++
			continue
		}
		fn := r.types[r.actors[t].typ].functions[c.function]
		frame := none
		if c.wait {
			frame = *waits
			r.frames.all[frame].pending++
		}
		if r.messages.inUse >= r.options.MaxMessages {
			r.result.Dropped++
			if frame != none {
				r.frames.all[frame].pending--
				r.frames.all[frame].failed = true
			}
			continue
		}
		sent = r.send(i, t, fn, frame, sent)
	}
	return sent
}

// wait makes the frame of a turn, or gives full.
func (r *run) wait(i int32, msg *message) int32 {
	if r.frames.inUse >= r.options.MaxWaits {
		return full
	}
	w := r.frames.take()
	r.frames.all[w] = frame{
		parent: msg.frame, actor: i, life: r.actors[i].life, sent: msg.sent, client: msg.client,
	}
	return w
}

// send sends a message of an actor to another.
func (r *run) send(from, to, fn, frame int32, sent int) int {
	a, b := &r.actors[from], &r.actors[to]
	m := r.messages.take()
	bytes := r.functions[fn].bytes
	remote := a.server != b.server
	at := r.now + int64(r.distance(a.server, b.server))
	if remote {
		sent++
		at += r.shift(a, sent)
		a.net += bytes
		b.net += bytes
		r.servers[a.server].net += bytes
		r.servers[b.server].net += bytes
	} else if sent > 0 {
		// It is written after those that were called before it.
		at += r.shift(a, sent)
	}
	r.farthest = max(r.farthest, at-r.now)
	at = max(at, a.out, b.in)
	r.messages.all[m] = message{
		from: from, fn: fn, frame: frame, sent: r.now, epoch: b.epoch, remote: remote, next: none,
	}
	r.window.called(from, to, fn, bytes)
	r.heap.push(at, evDeliver, to, m)
	return sent
}

// property gives an actor's references.
func (a *actor) property(p int32) []int32 {
	for i := range a.refs {
		if a.refs[i].property == p {
			return a.refs[i].to
		}
	}
	return nil
}

// distance is the time a message takes between servers.
func (r *run) distance(from, to int32) float64 {
	if from == to {
		return r.costs.local
	}
	a, b := r.servers[from].node, r.servers[to].node
	switch {
	case a == b:
		return r.costs.node
	case r.nodes[a].Zone == r.nodes[b].Zone:
		return r.costs.remote
	}
	return r.costs.zone
}
