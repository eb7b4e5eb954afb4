package sidecar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// What messages may have, beside what hosts allow.
const (
	maxAnswer     = 8 << 20              // bytes of a turn's answer, with all it sends
	maxTypes      = 1 << 20              // bytes of what the application says of its types
	maxSends      = 1024                 // of a turn
	maxTimers     = 64                   // of a turn
	maxReferences = 256                  // of a property
	maxMetrics    = 16                   // of a turn
	maxSeconds    = 10 * 365 * 24 * 3600 // of a timer
)

// null is JSON's. It stands for a body that is not there.
var null = json.RawMessage("null")

// actorName names an actor in JSON.
type actorName struct {
	Type string `json:"type"`
	Key  string `json:"key"`
}

func (n actorName) actor() placement.Actor { return placement.Actor{Type: n.Type, Key: n.Key} }

// turnRequest is what the application is asked: one message for one actor.
type turnRequest struct {
	Turn     string          `json:"turn"` // names it, for calls and sends within it
	Type     string          `json:"type"`
	Key      string          `json:"key"`
	Function string          `json:"function"`
	Body     json.RawMessage `json:"body"`
	State    json.RawMessage `json:"state"` // null: the actor is new
	From     *actorName      `json:"from"`  // null: a client
}

// turnAnswer is what comes of a turn. A turn that failed has an error and nothing else: it
// changes nothing.
type turnAnswer struct {
	Body       json.RawMessage        `json:"body"`
	State      json.RawMessage        `json:"state"` // absent: as it was; null: the actor ends
	Error      string                 `json:"error"`
	Sends      []message              `json:"sends"`
	Timers     []timer                `json:"timers"`
	References map[string][]actorName `json:"references"`
	Metrics    map[string]float64     `json:"metrics"`
}

// message is one that goes to an actor, one way.
type message struct {
	To       actorName       `json:"to"`
	Function string          `json:"function"`
	Body     json.RawMessage `json:"body"`
}

// timer asks for turns later: of the function that is its name. One that is cleared has no times.
type timer struct {
	Name   string          `json:"name"`
	After  float64         `json:"after"`  // seconds
	Period float64         `json:"period"` // seconds; 0 is once
	Body   json.RawMessage `json:"body"`
	Clear  bool            `json:"clear"`
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// decodeAnswer reads a turn's answer and checks all that the host won't. Errors are
// ErrInvalidArgument.
func decodeAnswer(text []byte) (*turnAnswer, error) {
	a := &turnAnswer{}
	if err := decode(text, a); err != nil {
		return nil, err
	}
	return a, a.check()
}

func (a *turnAnswer) check() error {
	switch {
	case a.Error != "" && (a.Body != nil || a.State != nil || len(a.Sends)+len(a.Timers)+len(a.References)+len(a.Metrics) > 0):
		return invalid("an answer with an error changes nothing, so it has nothing else")
	case len(a.Body) > host.MaxBody:
		return invalid("the body has %d bytes, it may have %d", len(a.Body), host.MaxBody)
	case len(a.State) > host.MaxState:
		return invalid("the state has %d bytes, it may have %d", len(a.State), host.MaxState)
	case len(a.Sends) > maxSends:
		return invalid("%d sends, there may be %d", len(a.Sends), maxSends)
	case len(a.Timers) > maxTimers:
		return invalid("%d timers, there may be %d", len(a.Timers), maxTimers)
	case len(a.Metrics) > maxMetrics:
		return invalid("%d metrics, there may be %d", len(a.Metrics), maxMetrics)
	}
	for i := range a.Sends {
		if err := a.Sends[i].check(); err != nil {
			return fmt.Errorf("send %d: %w", i+1, err)
		}
	}
	for _, t := range a.Timers {
		if err := t.check(); err != nil {
			return fmt.Errorf("timer %q: %w", t.Name, err)
		}
	}
	for property, to := range a.References {
		if err := checkNames(property); err != nil {
			return fmt.Errorf("references: %w", err)
		}
		if len(to) > maxReferences {
			return invalid("%d references %q, there may be %d", len(to), property, maxReferences)
		}
		for _, n := range to {
			if err := checkNames(n.Type, n.Key); err != nil {
				return fmt.Errorf("references %q: %w", property, err)
			}
		}
	}
	for name := range a.Metrics {
		if err := checkNames(name); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	return nil
}

func (m *message) check() error {
	if len(m.Body) > host.MaxBody {
		return invalid("the body has %d bytes, it may have %d", len(m.Body), host.MaxBody)
	}
	return checkNames(m.To.Type, m.To.Key, m.Function)
}

func (t *timer) check() error {
	switch {
	case t.Clear && (t.After != 0 || t.Period != 0 || t.Body != nil):
		return invalid("one that is cleared has neither times nor a body")
	case !(t.After >= 0 && t.After <= maxSeconds) || !(t.Period >= 0 && t.Period <= maxSeconds):
		return invalid("after %g s, with period %g s: want 0 to %d", t.After, t.Period, maxSeconds)
	case t.Period > 0 && seconds(t.Period) < time.Millisecond:
		return invalid("a period of %g s: want a millisecond at least", t.Period)
	case len(t.Body) > host.MaxBody:
		return invalid("the body has %d bytes, it may have %d", len(t.Body), host.MaxBody)
	}
	return checkNames(t.Name)
}

// decode reads one JSON value and nothing after it. What has no place in v is an error: a
// misspelt "state" would lose what it was to keep.
func decode(text []byte, v any) error {
	if !utf8.Valid(text) {
		return invalid("what isn't UTF-8 isn't JSON")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid("more than one value")
	}
	return nil
}

// bodyOf is a message's body as JSON, null if there is none.
func bodyOf(b []byte) (json.RawMessage, error) {
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return null, nil
	}
	if !utf8.Valid(b) || !json.Valid(b) {
		return nil, invalid("the body isn't JSON")
	}
	return b, nil
}

// encode gives JSON as it is, without the escapes that only web pages need.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
