package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/claim/claimtest"
	"github.com/peregrine-dev/peregrine/shim/pool/priority"
)

func TestMain(m *testing.M) {
	claimtest.Main()
	if dir := os.Getenv(keeperDir); dir != "" {
		keepForever(dir)
	}
	goleak.VerifyTestMain(m)
}

// keeperDir makes the test binary a daemon that a test kills.
const keeperDir = "POOLTEST_KEEPER"

func keepForever(dir string) {
	k := newKeeper(dir, filepath.Join(filepath.Dir(dir), claim.ShimBinary))
	if err := k.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// recorder keeps what a keeper told last.
type recorder struct {
	sync.Mutex
	built, failed, ready, target int
}

func (r *recorder) Built(time.Duration) { r.Lock(); r.built++; r.Unlock() }
func (r *recorder) BuildFailed()        { r.Lock(); r.failed++; r.Unlock() }

func (r *recorder) Kept(ready, target, _ int, _ int64) {
	r.Lock()
	r.ready, r.target = ready, target
	r.Unlock()
}

func (r *recorder) get() (built, failed, ready, target int) {
	r.Lock()
	defer r.Unlock()
	return r.built, r.failed, r.ready, r.target
}

func newKeeper(dir, shim string) *Keeper {
	p := DefaultPace()
	p.Retry = 20 * time.Millisecond
	return &Keeper{
		Dir: dir, Shim: shim, Limits: Limits{Min: 3, Max: 5, Memory: 1 << 40, MaxAge: time.Hour},
		Pace: p, Events: &recorder{}, Tick: 50 * time.Millisecond,
	}
}

// place is a profile's directory with a stand-in of the shim beside it. All parts in it
// are killed in the end.
func place(t *testing.T) (dir, shim string) {
	t.Helper()
	root := t.TempDir()
	dir = filepath.Join(root, "d")
	if err := claim.Prepare(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { claimtest.KillParts(t, dir) })
	return dir, claimtest.Install(t, root)
}

func endPart(t *testing.T, part string) {
	t.Helper()
	all, err := processes(part)
	if err != nil {
		return
	}
	for _, p := range all {
		if err := p.kill(unix.SIGKILL); err != nil {
			t.Error(err)
		}
		reap(p.pid)
	}
}

// run runs a keeper until stop is called or the test ends.
func run(t *testing.T, k *Keeper) (events *recorder, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run returned %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return k.Events.(*recorder), stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func readyParts(dir string) []string { return directories(filepath.Join(dir, claim.Ready)) }

func full(t *testing.T, dir string, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " parts ready"), func() bool { return len(readyParts(dir)) == n })
}

func take(t *testing.T, dir, shim string) claimtest.Report {
	t.Helper()
	c := claim.Claimer{Dir: dir, Shim: func() string { return shim }}
	address, err := c.Take(&claim.Request{ID: "c", Namespace: "n", Bundle: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return claimtest.Ask(t, address)
}

func TestKeepsThePoolFull(t *testing.T) {
	dir, shim := place(t)
	events, stop := run(t, newKeeper(dir, shim))
	full(t, dir, 3)
	for range 3 {
		r := take(t, dir, shim)
		if r.SelfMade || r.Session != r.Pid || r.Cwd != "/" || len(r.Files) != 3 {
			t.Errorf("got %+v", r)
		}
		if nice, err := priority.Nice(r.Pid); err != nil || nice != 0 {
			t.Errorf("the part has nice %d, %v", nice, err)
		}
		full(t, dir, 3)
		// A claimed part that ends is not left as a zombie.
		if err := unix.Kill(r.Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of a part", func() bool { return errors.Is(unix.Kill(r.Pid, 0), unix.ESRCH) })
	}
	stop()
	full(t, dir, 3)
	for _, name := range readyParts(dir) {
		if all, err := processes(filepath.Join(dir, claim.Ready, name)); err != nil || !all[0].alive() {
			t.Errorf("a part died with its keeper: %v", err)
		}
	}
	if built, failed, _, _ := events.get(); built != 6 || failed != 0 {
		t.Errorf("built %d, failed %d", built, failed)
	}
}

func TestStatus(t *testing.T) {
	dir, shim := place(t)
	run(t, newKeeper(dir, shim))
	full(t, dir, 3)
	take(t, dir, shim)
	full(t, dir, 3)
	if err := claim.Count(dir, claim.Fallback+"/checkpoint"); err != nil {
		t.Fatal(err)
	}
	s, err := ReadStatus(filepath.Dir(dir))
	p := s.Profiles["d"]
	if err != nil || s.Daemon || p.Ready != 3 || p.Claimed != 1 || p.Hits != 1 || p.Misses != 0 || p.Fallbacks["checkpoint"] != 1 || p.Memory < 1<<20 || p.Failure != "" {
		t.Errorf("got %+v, %v", s, err)
	}
	if s, err := ReadStatus("/nonexistent"); err != nil || len(s.Profiles) != 0 {
		t.Errorf("of nothing: %+v, %v", s, err)
	}
}

func TestGrowsWithABurst(t *testing.T) {
	dir, shim := place(t)
	k := newKeeper(dir, shim)
	k.Pace.Quiet, k.Pace.Patience = 3*time.Second, time.Minute // longer than all takes
	run(t, k)
	full(t, dir, 3)
	for range 4 {
		take(t, dir, shim) // the last one finds nothing and starts its own
	}
	full(t, dir, 4)
}

func TestDeadReadyPartsAreReplaced(t *testing.T) {
	dir, shim := place(t)
	run(t, newKeeper(dir, shim))
	full(t, dir, 3)
	victim := readyParts(dir)[0]
	endPart(t, filepath.Join(dir, claim.Ready, victim))
	eventually(t, "a new part", func() bool {
		names := readyParts(dir)
		for _, name := range names {
			if name == victim {
				return false
			}
		}
		return len(names) == 3
	})
}

func TestFailedBuildsAreToldAndRetried(t *testing.T) {
	dir, shim := place(t)
	k := newKeeper(dir, filepath.Join(filepath.Dir(dir), "absent"))
	events, _ := run(t, k)
	failure := func() string {
		s, err := ReadStatus(filepath.Dir(dir))
		if err != nil {
			t.Fatal(err)
		}
		return s.Profiles["d"].Failure
	}
	eventually(t, "a failure", func() bool { return strings.Contains(failure(), "no such file") })
	if err := os.Symlink(shim, k.Shim); err != nil {
		t.Fatal(err)
	}
	// A program of that name is no stand-in: it fails by itself.
	eventually(t, "more failures", func() bool { _, failed, _, _ := events.get(); return failed >= 3 })
	if left := directories(filepath.Join(dir, claim.Building)); len(left) > 1 {
		t.Errorf("left %v", left)
	}
}

func TestExitAndHang(t *testing.T) {
	for mode, says := range map[string]string{
		"exit": "exit status 1: no cube today", "hang": "not ready after",
		"die": "a part that was ready ended: exit status 1", "remove": "exit status 1: removed",
	} {
		t.Run(mode, func(t *testing.T) {
			dir, shim := place(t)
			k := newKeeper(dir, shim)
			k.Pace.Timeout = time.Minute
			if mode == "hang" {
				k.Pace.Timeout = 300 * time.Millisecond
			}
			t.Setenv(claimtest.Mode, mode)
			events, stop := run(t, k)
			eventually(t, "two failures", func() bool { _, failed, _, _ := events.get(); return failed >= 2 })
			s, err := ReadStatus(filepath.Dir(dir))
			if got := s.Profiles["d"].Failure; err != nil || !strings.Contains(got, says) {
				t.Errorf("failure is %q, %v; want %q", got, err, says)
			}
			stop()
		})
	}
}

func TestLowPriorityIsMended(t *testing.T) {
	dir, shim := place(t)
	t.Setenv(claimtest.Mode, "nice")
	events, _ := run(t, newKeeper(dir, shim))
	eventually(t, "parts", func() bool { built, _, _, _ := events.get(); return built >= 3 })
	for _, name := range readyParts(dir) {
		all, err := processes(filepath.Join(dir, claim.Ready, name))
		if err != nil {
			t.Fatal(err)
		}
		if nice, err := priority.Nice(all[0].pid); err != nil || nice != 0 {
			t.Errorf("nice is %d, %v", nice, err)
		}
	}
}

func TestOtherVersionsAreReplaced(t *testing.T) {
	dir, shim := place(t)
	_, stop := run(t, newKeeper(dir, shim))
	full(t, dir, 3)
	stop()
	old := readyParts(dir)
	// Another file of the same content.
	text, err := os.ReadFile(shim)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(shim); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(shim, text, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, newKeeper(dir, shim))
	eventually(t, "three new parts", func() bool {
		names := readyParts(dir)
		for _, name := range names {
			for _, o := range old {
				if name == o {
					return false
				}
			}
		}
		return len(names) == 3
	})
	eventually(t, "no retired part", func() bool { return len(directories(filepath.Join(dir, claim.Retired))) == 0 })
}

func TestPartsShareTheInit(t *testing.T) {
	dir, shim := place(t)
	k := newKeeper(dir, shim)
	k.Init = filepath.Join(filepath.Dir(dir), claim.InitBinary)
	_, stop := run(t, k)
	eventually(t, "a failure", func() bool { return claim.Exists(filepath.Join(dir, failureFile)) })
	install := func() {
		t.Helper()
		if err := os.WriteFile(k.Init, []byte("#!/bin/true\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	install()
	full(t, dir, 3)
	first := readyParts(dir)[0]
	r := take(t, dir, shim)
	eventually(t, "an end of the failure", func() bool { return !claim.Exists(filepath.Join(dir, failureFile)) })
	if len(r.Files) != 4 || r.Files[3] != "3 /memfd:flashcube-init (deleted)" {
		t.Errorf("the part has %q", r.Files)
	}
	install() // another version: also parts that an earlier keeper built are replaced
	eventually(t, "new parts", func() bool { return !claim.Exists(filepath.Join(dir, claim.Ready, first)) && len(readyParts(dir)) == 3 })
	stop()
}

func TestOldPartsAreReplaced(t *testing.T) {
	dir, shim := place(t)
	k := newKeeper(dir, shim)
	k.Limits.MaxAge = 300 * time.Millisecond
	events, _ := run(t, k)
	eventually(t, "replacements", func() bool { built, _, _, _ := events.get(); return built >= 8 })
}

func TestSurvivesTheLossOfItsDirectories(t *testing.T) {
	dir, shim := place(t)
	run(t, newKeeper(dir, shim))
	full(t, dir, 3)
	for _, name := range readyParts(dir) {
		endPart(t, filepath.Join(dir, claim.Ready, name))
	}
	eventually(t, "removal", func() bool { return os.RemoveAll(dir) == nil })
	full(t, dir, 3)
	take(t, dir, shim)
	full(t, dir, 3)
}

func writeJSON(t *testing.T, path string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
