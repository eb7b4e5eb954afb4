package main

import (
	"errors"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/host/hosttest"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCounter(t *testing.T) {
	root, err := os.MkdirTemp("", "p") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	d := hosttest.DirsOf(root, "node", "s-1")
	agent, err := hosttest.New("s-1").Serve("s-1", "node", d.Agent, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(agent.Close)
	a := placement.Actor{Type: "Counter", Key: "a"}
	for _, start := range []string{"5", "10"} { // once more, with what is stored
		h, err := host.Start(t.Context(), host.Options{Types: types(), Agent: d.Agent, Control: d.Control, Peers: d.Peers, State: d.State})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ function, body, want string }{
			{"add", "", ""}, {"add", "4", start}, {"read", "", start}, {"add", "-1", "refused"}, {"add", "x", "refused"},
		} {
			got, err := h.Call(t.Context(), a, c.function, []byte(c.body))
			var refused *host.Error
			if errors.As(err, &refused) != (c.want == "refused") || err != nil && refused == nil || c.want != "" && err == nil && string(got) != c.want {
				t.Errorf("%s %s: %s, %v, want %s", c.function, c.body, got, err, c.want)
			}
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}
