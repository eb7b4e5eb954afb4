// Command counter hosts counters: actors whose state is a number. Each turn is stored before it
// is answered, so whatever fails, no addition is lost and none is done twice.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/host"
)

// counter is what is stored of one.
type counter struct {
	Value int64 `json:"value"`
}

// turn handles one message: "add" with how much as JSON, 1 if it isn't said, or "read". The
// answer is the value.
func turn(c *host.Turn, s *counter, function string, body []byte) ([]byte, error) {
	if function == "add" {
		by := int64(1)
		if len(body) > 0 {
			if err := json.Unmarshal(body, &by); err != nil {
				return nil, fmt.Errorf("how much: %w", err)
			}
		}
		if by < 0 {
			return nil, errors.New("counters only grow")
		}
		s.Value += by
	}
	c.Metric("value", float64(s.Value)) // what a policy calls metric("value")
	return json.Marshal(s.Value)
}

func types() []host.Type {
	return []host.Type{{
		Name:      "Counter",
		Durable:   host.EachTurn,
		New:       host.JSON(turn),
		Functions: []string{"add", "read"},
	}}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	// All else is in the environment of a server's container.
	if err := host.Run(ctx, host.Options{Types: types()}); err != nil {
		fmt.Fprintln(os.Stderr, "counter:", err)
		os.Exit(1)
	}
}
