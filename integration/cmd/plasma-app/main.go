// Command plasma-app is an application for tests of PLASMA: its actors write down what they are
// told, so that it can be seen whether anything was lost, came twice or in another order, and use
// as much of the processor as they are told to.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if len(os.Args) == 4 && os.Args[1] == "client" {
		if err := client(ctx, os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "plasma-app:", err)
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv("APP_ARM"); dir != "" {
		arm(ctx, dir)
	}
	o := host.FromEnv()
	o.Types = []host.Type{
		{Name: "Ledger", New: host.JSON(ledger)},
		{Name: "Sender", New: host.JSON(sender)},
		{Name: "Burner", Durable: host.None, New: host.JSON(burner)},
		{Name: "Blob", New: func() host.Behavior { return new(blob) }},
		{Name: "Register", New: host.JSON(register)},
		{Name: "Life", New: host.JSON(tally)},
		{Name: "Tally", Durable: host.None, New: host.JSON(tally)},
		{Name: "Fleeting", Durable: host.None, New: func() host.Behavior { return new(blob) }},
		{Name: "Probe", Durable: host.None, Timeout: 2 * time.Minute, New: func() host.Behavior { return probe{} }},
	}
	if err := host.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "plasma-app:", err)
		os.Exit(1)
	}
}

// entries is a ledger: by sender, what it has sent, in the order in which it came.
type entries struct {
	Last  map[string]int64 `json:"last"`
	Count map[string]int64 `json:"count"`
	// Wrong is what came twice or in another order: there should be none.
	Wrong []string `json:"wrong,omitempty"`
}

// ledger takes "SENDER NUMBER" by put, and gives all by read.
func ledger(_ *host.Turn, s *entries, function string, body []byte) ([]byte, error) {
	if function == "read" {
		return json.Marshal(s)
	}
	var from string
	var number int64
	if _, err := fmt.Sscan(string(body), &from, &number); err != nil {
		return nil, err
	}
	if s.Last == nil {
		s.Last, s.Count = map[string]int64{}, map[string]int64{}
	}
	if number != s.Last[from]+1 && len(s.Wrong) < 100 {
		s.Wrong = append(s.Wrong, fmt.Sprintf("%s: %d after %d", from, number, s.Last[from]))
	}
	s.Last[from] = number
	s.Count[from]++
	return fmt.Append(nil, number), nil
}

// sender sends numbers to a ledger, as many as it is told to: "KEY N". It answers how many it has
// sent in all, with "full" if it could not send more.
func sender(c *host.Turn, sent *map[string]int64, _ string, body []byte) ([]byte, error) {
	var key string
	var n int
	if _, err := fmt.Sscan(string(body), &key, &n); err != nil {
		return nil, err
	}
	if *sent == nil {
		*sent = map[string]int64{}
	}
	for range n {
		message := fmt.Appendf(nil, "%s %d", strings.ReplaceAll(c.Self().Key, " ", "_"), (*sent)[key]+1)
		err := c.Send(placement.Actor{Type: "Ledger", Key: key}, "put", message)
		if errdefs.IsResourceExhausted(err) {
			return fmt.Append(nil, (*sent)[key], " full"), nil
		}
		if err != nil {
			return nil, err
		}
		(*sent)[key]++
	}
	return fmt.Append(nil, (*sent)[key]), nil
}

// burner uses the processor for the microseconds that it is told.
func burner(_ *host.Turn, n *int64, function string, body []byte) ([]byte, error) {
	if function == "where" {
		return []byte(os.Getenv("PLASMA_SERVER")), nil
	}
	var micros int64
	if _, err := fmt.Sscan(string(body), &micros); err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Duration(micros) * time.Microsecond); time.Now().Before(end); {
		*n++
	}
	return fmt.Append(nil, *n), nil
}

// blob is as large as it is told by size.
type blob struct{ state []byte }

func (b *blob) Turn(_ *host.Turn, function string, body []byte) ([]byte, error) {
	switch function {
	case "where":
		return []byte(os.Getenv("PLASMA_SERVER")), nil
	case "size":
		var n int
		if _, err := fmt.Sscan(string(body), &n); err != nil {
			return nil, err
		}
		b.state = make([]byte, min(n, host.MaxState))
	}
	return fmt.Append(nil, len(b.state)), nil
}

func (b *blob) Save() ([]byte, error) { return b.state, nil }

func (b *blob) Load(state []byte) error { b.state = state; return nil }
