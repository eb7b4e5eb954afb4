package host

import (
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// Durability is when an actor's state is stored.
type Durability string

const (
	// EachTurn stores the state before a turn's answer and its sends leave: what was answered
	// is never lost, and each message has one effect.
	EachTurn Durability = "each-turn"
	// Periodic stores the state every second, when the actor moves and when the host stops: a
	// host that is killed loses up to a second of answered turns.
	Periodic Durability = "periodic"
	// None never stores the state. It moves with the actor, and ends with the process.
	None Durability = "none"
)

// DefaultTimeout is how long a turn may take when its type says nothing.
const DefaultTimeout = 30 * time.Second

// Type is a kind of actor that a host can have.
type Type struct {
	Name string
	// Durable is EachTurn if it is empty.
	Durable Durability
	// New makes an actor without state. It is called for an actor's first message, and before
	// each Load. It may be called by several goroutines at once.
	New func() Behavior
	// Functions, if there are any, are all that may be called; others are ErrNotFound.
	Functions []string
	// Timeout ends the context of a turn; DefaultTimeout if it is 0.
	Timeout time.Duration
}

// Behavior is an actor: one turn at a time, so it needs no locks. It may not be used by another
// goroutine when its turn has ended.
type Behavior interface {
	// Turn handles one message. What it returns is the answer to a call. An error is an answer
	// too: the caller gets an *Error with its text, and the state stays as the turn left it. A
	// panic is an error that leaves nothing: the actor has the state of the turn before.
	Turn(c *Turn, function string, body []byte) ([]byte, error)
	// Save gives the state, at most MaxState bytes. The result is the host's.
	Save() ([]byte, error)
	// Load takes in a state. It may keep the bytes, and not change them.
	Load(state []byte) error
}

// What a message, an answer, a state and a name may have at most, in bytes. An actor must fit
// into one message of the protocol to move.
const (
	MaxBody  = 1 << 20
	MaxState = 2 << 20
	MaxName  = 1 << 10
)

// Error is an application's answer that is an error: the turn took place.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

func (t *Type) validate() error {
	switch {
	case t.Name == "" || len(t.Name) > MaxName:
		return fmt.Errorf("a type of actors has a name of %d bytes: want 1 to %d: %w", len(t.Name), MaxName, errdefs.ErrInvalidArgument)
	case t.New == nil:
		return fmt.Errorf("type %s has no New: %w", t.Name, errdefs.ErrInvalidArgument)
	case !slices.Contains([]Durability{"", EachTurn, Periodic, None}, t.Durable):
		return fmt.Errorf("type %s is durable %q: want %s, %s or %s: %w", t.Name, t.Durable, EachTurn, Periodic, None, errdefs.ErrInvalidArgument)
	case t.Timeout < 0:
		return fmt.Errorf("type %s has a timeout of %s: %w", t.Name, t.Timeout, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (t Type) withDefaults() Type {
	if t.Durable == "" {
		t.Durable = EachTurn
	}
	if t.Timeout == 0 {
		t.Timeout = DefaultTimeout
	}
	return t
}
