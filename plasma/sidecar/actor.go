package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// hostTurn is what the sidecar needs of a turn of the host: *host.Turn.
type hostTurn interface {
	context.Context
	Self() placement.Actor
	From() (placement.Actor, bool) // false: a client
	Call(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error)
	Send(to placement.Actor, function string, body []byte) error
	SetTimer(name string, after, period time.Duration, body []byte) error
	ClearTimer(name string)
	References(property string, to ...placement.Actor)
	Metric(name string, value float64)
	Delete()
}

// actor is one whose behaviour is the application's. Its state is JSON, nil if it is new.
type actor struct {
	application *application
	turns       *turns
	state       []byte
}

// maxBroken is how often the application may break off a turn.
const maxBroken = 3

// take asks the application for a turn, and again if it isn't there or breaks off, until the
// turn's time is over. Only its answer takes effect.
func (a *actor) take(t hostTurn, function string, body []byte) ([]byte, error) {
	r := &turnRequest{Type: t.Self().Type, Key: t.Self().Key, Function: function, State: a.state}
	if from, ok := t.From(); ok {
		r.From = &actorName{from.Type, from.Key}
	}
	var err error
	if r.Body, err = bodyOf(body); err != nil {
		return nil, err
	}
	var wait backoff
	for broken := 0; ; {
		answer, err := a.attempt(t, r)
		if err == nil {
			return a.apply(t, answer)
		}
		if errdefs.IsAborted(err) {
			broken++
		}
		if !errdefs.IsUnavailable(err) && !errdefs.IsAborted(err) || broken == maxBroken {
			return nil, err
		}
		log.G(t).WithError(err).WithField("actor", t.Self().String()).Warn("the application is asked again")
		if !wait.pause(t) {
			return nil, errors.Join(context.Cause(t), err)
		}
	}
}

// attempt asks once. Its answer has what the turn sent before.
func (a *actor) attempt(t hostTurn, r *turnRequest) (*turnAnswer, error) {
	at, err := a.turns.begin(t)
	if err != nil {
		return nil, err
	}
	r.Turn = at.id
	answer, err := a.application.turn(t, r)
	sends := a.turns.end(at)
	if err != nil {
		return nil, err
	}
	answer.Sends = append(sends, answer.Sends...)
	return answer, nil
}

// apply makes an answer so.
func (a *actor) apply(t hostTurn, answer *turnAnswer) ([]byte, error) {
	if answer.Error != "" {
		return nil, &host.Error{Text: answer.Error}
	}
	for _, s := range answer.Sends {
		if err := t.Send(s.To.actor(), s.Function, orNull(s.Body)); err != nil {
			return nil, fmt.Errorf("send to %s: %w", s.To.actor(), err)
		}
	}
	for _, timer := range answer.Timers {
		if timer.Clear {
			t.ClearTimer(timer.Name)
		} else if err := t.SetTimer(timer.Name, seconds(timer.After), seconds(timer.Period), orNull(timer.Body)); err != nil {
			return nil, fmt.Errorf("timer %q: %w", timer.Name, err)
		}
	}
	for property, names := range answer.References {
		to := make([]placement.Actor, len(names))
		for i, n := range names {
			to[i] = n.actor()
		}
		t.References(property, to...)
	}
	for name, value := range answer.Metrics {
		t.Metric(name, value)
	}
	switch {
	case bytes.Equal(answer.State, null):
		a.state = nil
		t.Delete()
	case answer.State != nil:
		a.state = answer.State
	}
	return orNull(answer.Body), nil
}

func orNull(b []byte) []byte {
	if b == nil {
		return null
	}
	return b
}

// Save gives the state as it is stored.
func (a *actor) Save() ([]byte, error) { return a.state, nil }

// Load takes in a state that was stored.
func (a *actor) Load(state []byte) error {
	var err error
	a.state, err = bodyOf(state)
	return err
}
