package lane

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestClockJumps has the machine's clock jump by a day, either way, while lanes are in use: what
// they know stays, as only a table that is full forgets.
func TestClockJumps(t *testing.T) {
	for name, jump := range map[string]time.Duration{"back": -24 * time.Hour, "forward": 24 * time.Hour} {
		var table Table
		now := time.Now()
		for i := range 100 {
			table.Answer(id(i), 1, []byte("first"), "", now)
		}
		now = now.Add(jump)
		for i := range 100 {
			if v, l, err := table.Check(id(i), 1, now); err != nil || v != Repeat || string(l.GetBody()) != "first" {
				t.Fatalf("%s: the first message again: %v %v %v", name, v, l, err)
			}
			if v, _, err := table.Check(id(i), 2, now); err != nil || v != Process {
				t.Fatalf("%s: the second message: %v %v", name, v, err)
			}
			if _, forget := table.Answer(id(i), 2, nil, "", now); len(forget) > 0 {
				t.Fatalf("%s: a lane is forgotten", name)
			}
		}
		if v, _, err := table.Check(id(1000), 1, now); err != nil || v != Process {
			t.Fatalf("%s: a new lane: %v %v", name, v, err)
		}
	}
	// A full table whose lanes were seen in what is the future now takes no new ones.
	var table Table
	now := time.Now()
	for i := range Max {
		table.Answer(id(i), 1, nil, "", now)
	}
	if _, _, err := table.Check(id(Max), 1, now.Add(-24*time.Hour)); !errdefs.IsResourceExhausted(err) {
		t.Fatal(err)
	}
}
