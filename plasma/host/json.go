package host

import (
	"encoding/json"
	"fmt"
)

// JSON gives the New of a type whose state is a Go value, stored as JSON: turn gets the state and
// may change it.
func JSON[S any](turn func(c *Turn, state *S, function string, body []byte) ([]byte, error)) func() Behavior {
	return func() Behavior { return &jsonActor[S]{turn: turn} }
}

type jsonActor[S any] struct {
	state S
	turn  func(*Turn, *S, string, []byte) ([]byte, error)
}

func (a *jsonActor[S]) Turn(c *Turn, function string, body []byte) ([]byte, error) {
	return a.turn(c, &a.state, function, body)
}

func (a *jsonActor[S]) Save() ([]byte, error) { return json.Marshal(&a.state) }

func (a *jsonActor[S]) Load(state []byte) error {
	if err := json.Unmarshal(state, &a.state); err != nil {
		return fmt.Errorf("the state as JSON: %w", err)
	}
	return nil
}
