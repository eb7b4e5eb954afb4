package host

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/store"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// maxError is how much of an error's text is kept.
const maxError = 4 << 10

// turned is what a turn leaves.
type turned struct {
	body  []byte
	err   error  // an answer
	state []byte // of a durable each-turn actor that was not deleted
	undo  bool   // nothing else of the turn stays
	took  time.Duration
}

// turn runs one. It holds no lock; the actor is the goroutine's.
func (a *actor) turn(m *message) (c *Turn, t turned) {
	both := &struct {
		turn Turn
		ctx  turnContext
	}{}
	tctx := &both.ctx
	tctx.Context, tctx.host, tctx.begun, tctx.timeout = a.host.ctx, a.host, a.last, a.typ.Timeout
	c = &both.turn
	c.Context, c.actor, c.from, c.chain, c.trace = tctx, a, m.from, m.chain, m.trace
	var start time.Time
	if m.weight > 0 {
		start = time.Now()
	}
	if m.trace != "" {
		tctx.Context = withTrace(tctx.Context, m.trace)
	}
	defer func() {
		if p := recover(); p != nil {
			log.G(a.host.ctx).WithField("actor", a.name.String()).Errorf("a turn of %s panics: %v\n%s", m.function, p, debug.Stack())
			t = turned{err: fmt.Errorf("the turn panics: %v", p), undo: true}
		}
		tctx.end()
		if m.weight > 0 {
			t.took = max(time.Since(start)-c.waited, 0)
		}
	}()
	if a.behavior == nil {
		behavior, err := a.make(a.exists, a.saved)
		if err != nil {
			return c, turned{err: err, undo: true}
		}
		a.behavior = behavior
	}
	body, err := a.behavior.Turn(c, m.function, m.body)
	if len(body) > MaxBody {
		body, err = nil, fmt.Errorf("an answer of %d bytes: the limit is %d", len(body), MaxBody)
	}
	t = turned{body: body, err: err}
	if a.typ.Durable == EachTurn && !c.deleted {
		if t.state, err = a.state(); err != nil {
			return c, turned{err: err, undo: true}
		}
	}
	return c, t
}

// make makes the behavior of a state.
func (a *actor) make(exists bool, state []byte) (Behavior, error) {
	b := a.typ.New()
	if exists {
		if err := b.Load(state); err != nil {
			return nil, fmt.Errorf("load the state of %s: %w", a.name, err)
		}
	}
	return b, nil
}

// state saves the behavior's.
func (a *actor) state() ([]byte, error) {
	state, err := a.behavior.Save()
	if err != nil {
		return nil, fmt.Errorf("save the state of %s: %w", a.name, err)
	}
	if len(state) > MaxState {
		return nil, fmt.Errorf("%s has a state of %d bytes: the limit is %d: %w", a.name, len(state), MaxState, errdefs.ErrResourceExhausted)
	}
	return state, nil
}

// end takes in what a turn leaves, and has it stored and answered; mu is held.
func (a *actor) end(m *message, c *Turn, t turned) {
	if a.phase == gone || a.chain.Failed() {
		// It was on top of what is not there: step begins anew from what is stored.
		a.behavior = nil
		err := errLost
		if a.phase != gone {
			err = fmt.Errorf("the turn before could not be stored: %w", errdefs.ErrAborted)
		}
		m.answer(nil, err)
		return
	}
	if t.err != nil && a.host.ctx.Err() != nil {
		// The host's end has cut it short: that is no answer, it is to be done again.
		if a.typ.Durable == EachTurn {
			a.behavior = nil
		}
		m.answer(nil, errClosed)
		return
	}
	a.meter.Turned(m.weight, t.took, c.bytes+len(t.body))
	if t.undo {
		a.behavior, c.sends, c.timers, c.deleted = nil, nil, nil, false
		if a.typ.Durable != EachTurn {
			a.exists = a.saved != nil
		}
	} else if a.typ.Durable == None {
		a.saved = nil // what it came with
	}
	var answer error
	errText := ""
	if t.err != nil {
		if errText = strings.ToValidUTF8(t.err.Error(), "?"); errText == "" {
			errText = "error"
		}
		errText = errText[:min(len(errText), maxError)]
		errText = strings.ToValidUTF8(errText, "")
		answer = &Error{errText}
	}
	for _, r := range c.refs {
		a.refer(r)
	}
	for name, value := range c.metrics {
		if a.metrics == nil {
			a.metrics = map[string]float64{}
		}
		if _, ok := a.metrics[name]; ok || len(a.metrics) < maxMetrics {
			a.metrics[name] = value
		}
	}
	if a.typ.Durable == None && m.number == 0 && m.timer == 0 && !t.undo && !c.deleted && len(c.sends)+len(c.timers) == 0 {
		// A call within the process that changes nothing but the state.
		a.exists = true
		a.finish(m)
		a.reply(m, t.body, answer)
		return
	}
	ch := a.change(m, c, t, errText)
	if a.typ.Durable != EachTurn {
		a.dirty = a.dirty || ch.any() || a.typ.Durable == Periodic && !t.undo
		a.release(ch.sends)
		a.finish(m)
		a.reply(m, t.body, answer)
		return
	}
	if !ch.any() {
		a.after(func(err error) { a.conclude(m, t.body, answer, err) })
		return
	}
	a.submit(ch.bytes, ch.apply, func(err error) {
		if err == nil {
			a.mu.Lock()
			a.release(ch.sends)
			a.mu.Unlock()
		}
		a.conclude(m, t.body, answer, err)
	})
}

// change is what a turn changes in the store.
type change struct {
	actor    placement.Actor
	put, end bool
	state    []byte
	lanes    []*api.Lane
	forget   [][]byte
	sends    []*api.Send
	timers   []*api.Timer // At 0: cleared
	bytes    int
}

func (ch *change) any() bool {
	return ch.put || ch.end || len(ch.lanes)+len(ch.forget)+len(ch.sends)+len(ch.timers) > 0
}

// change applies a turn to what is in memory; mu is held.
func (a *actor) change(m *message, c *Turn, t turned, errText string) *change {
	ch := &change{actor: a.name, timers: c.timers, sends: c.sends}
	now := time.Now()
	switch {
	case t.undo:
	case c.deleted:
		ch.end = a.exists
		a.behavior, a.exists, a.saved = nil, false, nil
		ch.timers = nil
		a.timers = nil
	case a.typ.Durable == EachTurn:
		if ch.put = !a.exists || !bytes.Equal(a.saved, t.state); ch.put {
			ch.state, ch.bytes = t.state, len(t.state)
		}
		a.exists, a.saved = true, t.state
	default:
		a.exists = true
	}
	if m.timer != 0 && !c.deleted {
		ch.timers = a.fired(m, ch.timers, now)
	}
	for _, timer := range ch.timers {
		a.setTimer(timer)
	}
	if m.number > 0 {
		ch.lanes, ch.forget = a.lanes.Answer(m.lane, m.number, t.body, errText, now)
	}
	a.outbox.assign(ch.sends)
	for _, s := range ch.sends {
		ch.bytes += len(s.GetBody())
	}
	ch.bytes += len(t.body) + 256
	return ch
}

func (ch *change) apply(tx *store.Tx) error {
	if ch.put {
		if err := tx.PutState(ch.actor, ch.state); err != nil {
			return err
		}
	}
	if ch.end {
		if err := tx.End(ch.actor, time.Now()); err != nil {
			return err
		}
	}
	for _, l := range ch.lanes {
		if err := tx.PutLane(ch.actor, l); err != nil {
			return err
		}
	}
	for _, id := range ch.forget {
		if err := tx.DropLane(ch.actor, id); err != nil {
			return err
		}
	}
	for _, s := range ch.sends {
		if err := tx.PutSend(ch.actor, s); err != nil {
			return err
		}
	}
	for _, t := range ch.timers {
		var err error
		if t.GetAt() == 0 {
			err = tx.DropTimer(ch.actor, t.GetName())
		} else {
			err = tx.PutTimer(ch.actor, t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// submit has a change stored; then, when it is stored or not, is called without a lock. mu is
// held.
func (a *actor) submit(bytes int, apply func(*store.Tx) error, then func(error)) {
	a.inflight++
	a.host.store.Submit(&store.Write{Chain: a.chain, Bytes: bytes, Apply: apply, Done: func(err error) {
		then(err)
		a.mu.Lock()
		a.inflight--
		a.signal()
		a.kick()
		a.mu.Unlock()
	}})
}

// after calls then, without a lock, when all turns that have ended are stored; mu is held.
func (a *actor) after(then func(error)) {
	if a.inflight > 0 {
		a.submit(0, func(*store.Tx) error { return nil }, then)
		return
	}
	a.mu.Unlock()
	then(nil)
	a.mu.Lock()
}

// conclude answers a message when its turn is stored, or is not; without a lock.
func (a *actor) conclude(m *message, body []byte, answer, failed error) {
	if failed != nil {
		m.answer(nil, failed)
		return
	}
	if m.weight > 0 {
		a.mu.Lock()
		a.finish(m)
		a.mu.Unlock()
	}
	a.reply(m, body, answer)
}

// finish measures the time to an answer; mu is held.
func (a *actor) finish(m *message) {
	if m.weight > 0 {
		a.meter.Answered(m.weight, time.Since(m.at))
	}
}

// reply gives an answer unless another may be the owner by now.
func (a *actor) reply(m *message, body []byte, answer error) {
	if !a.host.lease.valid() {
		m.answer(nil, errLost)
		return
	}
	m.answer(body, answer)
}

func (a *actor) refer(r reference) {
	if a.refs == nil {
		a.refs = map[string][]placement.Actor{}
	}
	delete(a.refs, r.property)
	left := maxReferences
	for _, to := range a.refs {
		left -= len(to)
	}
	if n := min(left, len(r.to)); n > 0 {
		a.refs[r.property] = r.to[:n]
	}
}

// save stores a periodic actor whole; mu is held, and let go of meanwhile.
func (a *actor) save() {
	if !a.dirty || !a.loaded || a.typ.Durable != Periodic {
		return
	}
	a.dirty = false
	r, err := a.whole()
	if err != nil {
		log.G(a.host.ctx).WithError(err).WithField("actor", a.name.String()).Error("an actor can't be stored")
		return
	}
	a.inflight++
	a.host.store.Submit(&store.Write{Bytes: len(r.GetState()), Apply: func(tx *store.Tx) error {
		return tx.Adopt(r, time.Now())
	}, Done: func(err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.inflight--; err != nil {
			a.dirty = true // the next second tries again
			log.G(context.WithoutCancel(a.host.ctx)).WithError(err).Error("actors can't be stored")
		}
		a.signal()
		a.kick()
	}})
}

// whole gives all of an actor that stands still or whose goroutine asks; mu is held, and let go
// of while the state is saved.
func (a *actor) whole() (r *api.TransferRequest, err error) {
	r = &api.TransferRequest{Actor: a.name.API(), Exists: a.exists, State: a.saved}
	if a.exists && a.typ.Durable != EachTurn && a.behavior != nil {
		a.mu.Unlock()
		func() {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("Save of %s panics: %v", a.name, p)
				}
			}()
			r.State, err = a.state()
		}()
		a.mu.Lock()
		if err != nil {
			return nil, err
		}
		if a.saved = r.State; a.saved == nil {
			a.saved = []byte{}
		}
	}
	r.Lanes, r.Outbox = a.lanes.All(), a.outbox.all()
	for _, t := range a.timers {
		r.Timers = append(r.Timers, t)
	}
	return r, nil
}
