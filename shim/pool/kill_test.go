package pool

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// TestKillAndAdopt kills a keeper that is a process of its own: its parts live, can be
// claimed, and are adopted by the next one.
func TestKillAndAdopt(t *testing.T) {
	dir, shim := place(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.CommandContext(t.Context(), self)
	daemon.Env = append(os.Environ(), keeperDir+"="+dir)
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	full(t, dir, 3)
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	r := take(t, dir, shim)
	if r.SelfMade {
		t.Error("without a keeper a ready part was not taken")
	}
	before := readyParts(dir)
	// What a build leaves when it is killed with its keeper.
	leftover := filepath.Join(dir, claim.Building, "leftover")
	if err := os.Mkdir(leftover, 0o700); err != nil {
		t.Fatal(err)
	}
	events, _ := run(t, newKeeper(dir, shim))
	full(t, dir, 3)
	for _, name := range before {
		if !slices.Contains(readyParts(dir), name) {
			t.Errorf("part %s was not adopted", name)
		}
	}
	eventually(t, "one new part", func() bool { built, _, ready, _ := events.get(); return built == 1 && ready == 3 })
	if claim.Exists(leftover) {
		t.Error("the leftover is still there")
	}
}
