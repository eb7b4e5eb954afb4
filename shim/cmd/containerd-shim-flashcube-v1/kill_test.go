package main

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// TestKilledStarts kills the program at any moment of a start. No part is lost or there
// twice, none is half claimed for the next claimer, and starting goes on.
func TestKilledStarts(t *testing.T) {
	h := newHost(t, true)
	if err := claim.Prepare(h.dir()); err != nil {
		t.Fatal(err)
	}
	const parts = 16
	fill(t, h.dir())
	count := func(where string) []string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(h.dir(), where, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	r := rand.New(rand.NewPCG(1, 2))
	killed := 0
	for range 150 {
		cmd := exec.CommandContext(t.Context(), filepath.Join(h.bin, name), append(slices.Clone(flags), "start")...)
		cmd.Dir = h.bundle
		cmd.Env = []string{"FLASHCUBE_ROOT=" + h.root}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(4000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		}
		ready, claimed := count(claim.Ready), count(claim.Claimed)
		if len(ready)+len(claimed) != parts || len(claimed) > 1 {
			t.Fatalf("%d ready and %d claimed, of %d", len(ready), len(claimed), parts)
		}
		for _, part := range ready {
			if claim.Exists(filepath.Join(part, claim.ClaimFile)) {
				t.Fatalf("%s is ready and claimed", part)
			}
		}
		for _, part := range claimed { // as new
			_ = os.Remove(filepath.Join(part, claim.ClaimFile))
			_ = os.Remove(filepath.Join(part, claim.ClaimFile+".tmp"))
			if err := os.Rename(part, filepath.Join(h.dir(), claim.Ready, filepath.Base(part))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if killed == 0 {
		t.Error("nothing was killed")
	}
	if out, err := h.call(t, nil, nil, append(slices.Clone(flags), "start")...); err != nil {
		t.Errorf("after all that: %v, %s", err, out)
	}
}
