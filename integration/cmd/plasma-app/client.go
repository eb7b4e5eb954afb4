package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// request is a call that the client is to make, a line of JSON; answer is what came of it.
type request struct {
	ID       uint64        `json:"id"`
	Type     string        `json:"type"`
	Key      string        `json:"key"`
	Function string        `json:"function"`
	Body     string        `json:"body"`
	Patience time.Duration `json:"patience"`
}

type answer struct {
	ID   uint64 `json:"id"`
	Body string `json:"body,omitempty"`
	// Error is the application's if Own is set.
	Error string `json:"error,omitempty"`
	Own   bool   `json:"own,omitempty"`
}

// client makes the calls that standard input asks for, all at once, from where it runs: the
// answers go to standard output as they come.
func client(ctx context.Context, agent, peers string) error {
	c, err := host.Dial(ctx, agent, peers)
	if err != nil {
		return err
	}
	defer c.Close()
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	tell := func(a answer) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(a) // whoever doesn't read any more has ended
	}
	tell(answer{})
	var calls sync.WaitGroup
	defer calls.Wait()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return err
		}
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, r.Patience)
			defer cancel()
			body, err := c.Call(ctx, placement.Actor{Type: r.Type, Key: r.Key}, r.Function, []byte(r.Body))
			a := answer{ID: r.ID, Body: string(body)}
			if err != nil {
				var own *host.Error
				a.Error, a.Own = err.Error(), errors.As(err, &own)
			}
			tell(a)
		})
	}
	return lines.Err()
}
