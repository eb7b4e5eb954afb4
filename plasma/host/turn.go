package host

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// What an actor may have of sends that are not answered and of timers.
const (
	maxSends      = 1024
	maxTimers     = 64
	maxOutBytes   = 512 << 10 // of both
	maxReferences = 256
	maxMetrics    = 16
	maxChain      = 64
)

// Turn is the context of a turn: it ends after the type's Timeout, and when the host stops. It is
// of no use when the turn has ended. What Send, SetTimer, ClearTimer and Delete do takes effect
// when the turn ends well, together with the state.
type Turn struct {
	context.Context

	actor   *actor
	from    placement.Actor
	chain   []placement.Actor
	trace   string
	mu      sync.Mutex    // of what Call changes
	waited  time.Duration // for others
	sends   []*api.Send
	bytes   int
	timers  []*api.Timer // At 0: cleared
	deleted bool
	refs    []reference
	metrics map[string]float64
}

type reference struct {
	property string
	to       []placement.Actor
}

// Self is the actor whose turn it is.
func (c *Turn) Self() placement.Actor { return c.actor.name }

// From is the actor that has sent the message; false if it was a client or a timer.
func (c *Turn) From() (placement.Actor, bool) {
	return c.from, c.from != placement.Actor{}
}

// Call calls an actor and waits for its answer, and for that of no longer than ctx, which is the
// turn or is derived from it. An *Error is the application's. A call that comes back to an actor
// that waits in it is ErrFailedPrecondition. When this turn dies with the host and is done again,
// so is the call: its effect is at least once. Several goroutines may call at once, and nothing
// else of the turn meanwhile.
func (c *Turn) Call(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error) {
	if err := checkMessage(to, function, body); err != nil {
		return nil, err
	}
	chain := append(slices.Clip(c.chain), c.actor.name)
	if slices.Contains(chain, to) {
		return nil, fmt.Errorf("a call of %s comes back to it: %w", to, errdefs.ErrFailedPrecondition)
	}
	if len(chain) > maxChain {
		return nil, fmt.Errorf("a chain of %d calls: %w", len(chain), errdefs.ErrResourceExhausted)
	}
	if !c.actor.host.lease.valid() {
		return nil, errLapsed // another may have the actor
	}
	start := time.Now()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.waited += time.Since(start)
		c.bytes += len(body)
	}()
	// What earlier turns have done must not be seen before it is stored.
	if err := c.actor.settle(ctx); err != nil {
		return nil, err
	}
	return c.actor.host.router.call(ctx, &outgoing{to: to, function: function, body: body, from: c.actor.name, chain: chain, trace: c.trace})
}

// Send sends a message when the turn has ended and is stored. Messages to one actor arrive in
// order, each once; its answer, also an error, is dropped. ErrResourceExhausted means that too
// many have not been answered yet.
func (c *Turn) Send(to placement.Actor, function string, body []byte) error {
	if err := checkMessage(to, function, body); err != nil {
		return err
	}
	if err := c.actor.room(len(c.sends)+1, c.bytes+len(body)); err != nil {
		return err
	}
	c.bytes += len(body)
	c.sends = append(c.sends, &api.Send{To: to.API(), Function: function, Body: slices.Clone(body)})
	return nil
}

// SetTimer has the actor get a message after a time, and then every period if it isn't 0. The
// function of that turn is the timer's name. A timer of the same name is replaced. Timers are
// stored with the state, and move with the actor; those that were due meanwhile come at once,
// and once.
func (c *Turn) SetTimer(name string, after, period time.Duration, body []byte) error {
	if name == "" || len(name) > MaxName || after < 0 || period < 0 || (period > 0 && period < time.Millisecond) {
		return fmt.Errorf("timer %q after %s, every %s: %w", name, after, period, errdefs.ErrInvalidArgument)
	}
	if err := c.actor.roomForTimer(c.bytes+len(body), name); err != nil {
		return err
	}
	c.bytes += len(body)
	c.timers = append(c.timers, &api.Timer{
		Name: name, At: time.Now().Add(after).UnixNano(), Period: int64(period), Body: slices.Clone(body),
	})
	return nil
}

// ClearTimer removes a timer, if there is one.
func (c *Turn) ClearTimer(name string) {
	c.timers = append(c.timers, &api.Timer{Name: name})
}

// References says to which actors a property of this one points, in place of what it has said
// before: policies may ask for it. At most 256 are kept.
func (c *Turn) References(property string, to ...placement.Actor) {
	c.refs = append(c.refs, reference{property, slices.Clone(to[:min(len(to), maxReferences)])})
}

// Metric gives a figure of the actor for policies to ask for. At most 16 are kept.
func (c *Turn) Metric(name string, value float64) {
	if c.metrics == nil {
		c.metrics = map[string]float64{}
	}
	if len(c.metrics) < maxMetrics {
		c.metrics[name] = value
	}
}

// Delete ends the actor with this turn: its state and timers are removed. The next message makes
// it anew.
func (c *Turn) Delete() { c.deleted = true }

// checkMessage refuses what can't be sent.
func checkMessage(to placement.Actor, function string, body []byte) error {
	switch {
	case to.Type == "" || to.Key == "" || len(to.Type) > MaxName || len(to.Key) > MaxName:
		return fmt.Errorf("actor %q: want a type and a key of 1 to %d bytes: %w", to, MaxName, errdefs.ErrInvalidArgument)
	case len(function) > MaxName:
		return fmt.Errorf("a function's name of %d bytes: %w", len(function), errdefs.ErrInvalidArgument)
	case len(body) > MaxBody:
		return fmt.Errorf("a message of %d bytes: the limit is %d: %w", len(body), MaxBody, errdefs.ErrInvalidArgument)
	}
	return nil
}

// turnContext is a deadline that costs nothing unless someone looks at it: not even a clock. It
// may come a tick late.
type turnContext struct {
	context.Context // the host's
	host            *Host
	begun           uint32 // tick
	timeout         time.Duration

	mu     sync.Mutex
	ended  bool
	inner  context.Context
	cancel context.CancelFunc
}

func (t *turnContext) Deadline() (time.Time, bool) { return t.get().Deadline() }

func (t *turnContext) Done() <-chan struct{} { return t.get().Done() }

func (t *turnContext) Err() error { return t.get().Err() }

func (t *turnContext) get() context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inner == nil {
		gone := time.Duration(t.host.tick.Load()-t.begun) * tickLength
		t.inner, t.cancel = context.WithTimeout(t.Context, t.timeout-gone)
		if t.ended {
			t.cancel()
		}
	}
	return t.inner
}

func (t *turnContext) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	if t.cancel != nil {
		t.cancel()
	}
}
