package pool

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/claim/claimtest"
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

// TestAdoptsABuild kills a keeper while it builds: the next one gives the part its time,
// and then gives it up.
func TestAdoptsABuild(t *testing.T) {
	dir, shim := place(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.CommandContext(t.Context(), self)
	daemon.Env = append(os.Environ(), keeperDir+"="+dir, claimtest.Mode+"=hang")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	building := filepath.Join(dir, claim.Building)
	var builder process
	eventually(t, "a build", func() bool {
		names := directories(building)
		if len(names) == 0 {
			return false
		}
		all, err := processes(filepath.Join(building, names[0]))
		if err == nil {
			builder = all[0]
		}
		return err == nil
	})
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	if !builder.alive() {
		t.Fatal("the build ended with its keeper")
	}
	k := newKeeper(dir, shim)
	k.Pace.Timeout = 2 * time.Second
	events, _ := run(t, k)
	full(t, dir, 3)
	if _, failed, _, _ := events.get(); failed < 1 {
		t.Error("the build that hung was not given up")
	}
	eventually(t, "the end of the build", func() bool { return !builder.alive() })
}
