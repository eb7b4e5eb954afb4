//go:build suite

package suite

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/peregrine-dev/peregrine/integration/harness"
)

var (
	runtime = flag.String("runtime", harness.FlashcubeRuntime, "the runtime to test")
	update  = flag.Bool("update", false, "write the outcomes into tests.txt instead of comparing them")
	only    = flag.String("only", "", "run this one test")
)

const (
	list  = "tests.txt"
	tools = "../tools"
	bin   = "../../bin"
)

// leftOut are tests that no runtime but runc can pass, and why.
var leftOut = map[string]string{
	"TestKillContainerDeletedByRunc": "it deletes the container behind containerd's back, with runc itself",
}

// TestSuite fails for each test of containerd's that passes with runc and not with the
// runtime.
func TestSuite(t *testing.T) {
	text, err := os.ReadFile(list)
	if err != nil && !*update {
		t.Fatal(err)
	}
	want, err := ParseList(text)
	if err != nil {
		t.Fatal(err)
	}
	got := runSuite(t, want)
	if *update {
		var out bytes.Buffer
		if err := WriteList(&out, got, want); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(list, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if *only != "" {
		want = map[string]Result{*only: want[*only]}
	}
	for name, why := range leftOut {
		t.Logf("%s is left out: %s", name, why)
		delete(want, name)
		delete(got, name)
	}
	for _, worse := range Worse(want, got) {
		t.Error(worse)
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is not in %s: run with -runtime io.containerd.runc.v2 -update", name, list)
		}
	}
}

func runSuite(t *testing.T, known map[string]Result) map[string]Result {
	cache, err := harness.Cache()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := Build(t.Context(), cache, tools)
	if err != nil {
		t.Fatal(err)
	}
	names, err := Names(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	if *only != "" {
		names = []string{*only}
	}
	if !*update {
		// What fails or is skipped with runc proves nothing about another.
		names = passing(names, known)
	}
	dir, err := harness.NewDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(RemoveCgroups(), Unmount(dir.Path), dir.Remove()); err != nil {
			t.Error(err)
		}
	})
	if err := RemoveCgroups(); err != nil {
		t.Fatal(err)
	}
	registry, err := NewRegistry(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	if err := HideHost(dir.Path); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(cache, "suite", *runtime+".log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	t.Logf("the output goes to %s", log.Name())
	ours, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Dir(binary) + ":" + ours
	for _, d := range []string{"containerd-2.4", "debian/usr/bin", "debian/usr/sbin"} {
		path += ":" + filepath.Join(cache, d)
	}
	path += ":" + os.Getenv("PATH")
	t.Setenv("PATH", path) // of a daemon that falls back on runc
	var env []string
	if *runtime == harness.FlashcubeRuntime {
		daemon, err := harness.StartFlashcube(t.Context(), cache, ours, dir.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := daemon.Remove(); err != nil {
				t.Error(err)
			}
		})
		env = daemon.Shim().Env
	}
	run := Run{
		Binary: binary, Dir: dir.Path, Path: path, Runtime: *runtime, Log: log,
		Env: env,
	}
	got, err := run.Tests(context.WithoutCancel(t.Context()), registry, names)
	if err != nil {
		t.Error(err)
	}
	return got
}

// passing keeps the tests that pass with runc and those nobody knows yet.
func passing(names []string, known map[string]Result) []string {
	var kept []string
	for _, name := range names {
		if r, ok := known[name]; !ok || r.Outcome == Pass {
			kept = append(kept, name)
		}
	}
	return kept
}
