package sidecar

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// maxSent is how many bytes a turn may send before its answer.
const maxSent = host.MaxBody

// turns are those that the application is working on, by what names them to it.
type turns struct {
	slots *slots

	mu sync.Mutex
	by map[string]*attempt
}

func newTurns(n int) *turns { return &turns{slots: newSlots(n), by: map[string]*attempt{}} }

// attempt is one time that the application is asked for a turn. What the application does in its
// name takes effect only if it answers, so it can be asked again with another attempt.
type attempt struct {
	id    string
	turn  hostTurn
	slots *slots
	ctx   context.Context // of its calls: ends with the attempt
	stop  context.CancelFunc

	calling sync.Mutex // by whose call is under way: a turn makes one at a time

	mu    sync.Mutex
	ended bool
	calls int           // under way, and waiting for each other
	idle  chan struct{} // closed when it has ended and no call is under way
	sends []message
	bytes int // of sends
}

// begin starts an attempt when there is a slot for it. end has to be called.
func (t *turns) begin(turn hostTurn) (*attempt, error) {
	if err := t.slots.acquire(turn); err != nil {
		return nil, fmt.Errorf("wait for earlier turns: %w", err)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	a := &attempt{id: hex.EncodeToString(id[:]), turn: turn, slots: t.slots, idle: make(chan struct{})}
	a.ctx, a.stop = context.WithCancel(turn)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.by[a.id] = a
	return a, nil
}

// end ends an attempt and the calls that are under way for it. It gives what was sent.
func (t *turns) end(a *attempt) []message {
	t.mu.Lock()
	delete(t.by, a.id)
	t.mu.Unlock()
	a.stop()
	a.mu.Lock()
	a.ended = true
	if a.calls == 0 {
		close(a.idle)
	}
	a.mu.Unlock()
	<-a.idle
	t.slots.release()
	return a.sends
}

// find gives the attempt that the application names. ErrFailedPrecondition: it has ended, or
// never was.
func (t *turns) find(id string) (*attempt, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a, ok := t.by[id]; ok {
		return a, nil
	}
	return nil, errNoTurn
}

var errNoTurn = fmt.Errorf("there is no such turn, or it has ended: %w", errdefs.ErrFailedPrecondition)

// call is a call within the turn. It ends when it is answered, with the turn, or with ctx.
func (a *attempt) call(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error) {
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return nil, errNoTurn
	}
	if a.calls++; a.calls == 1 {
		a.slots.release()
	}
	a.mu.Unlock()
	defer a.called()
	both, stop := context.WithCancel(a.ctx)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	a.calling.Lock()
	defer a.calling.Unlock()
	return a.turn.Call(both, to, function, body)
}

func (a *attempt) called() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls--; a.calls > 0 {
		return
	}
	a.slots.retake()
	if a.ended {
		close(a.idle)
	}
}

// send notes a message that goes out with the turn's answer.
func (a *attempt) send(m message) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.ended:
		return errNoTurn
	case len(a.sends) == maxSends || a.bytes+len(m.Body) > maxSent:
		return fmt.Errorf("a turn sends %d messages at most, of %d bytes: %w", maxSends, maxSent, errdefs.ErrResourceExhausted)
	}
	a.sends = append(a.sends, m)
	a.bytes += len(m.Body)
	return nil
}
