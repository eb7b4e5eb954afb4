package claim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/claim/claimtest"
)

func TestMain(m *testing.M) {
	claimtest.Main()
	goleak.VerifyTestMain(m)
}

// profile makes an empty pool.
func profile(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "d")
	if err := claim.Prepare(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// addReady makes n parts of which only the listeners are there, or not even these.
func addReady(t testing.TB, dir, prefix string, n int, alive bool) {
	t.Helper()
	for i := range n {
		part := filepath.Join(dir, claim.Ready, fmt.Sprint(prefix, i))
		if err := os.Mkdir(part, 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", filepath.Join(part, claim.Socket))
		if err != nil {
			t.Fatal(err)
		}
		if l.(*net.UnixListener).SetUnlinkOnClose(false); !alive {
			l.Close()
		}
		t.Cleanup(func() { l.Close() })
	}
}

func request(t testing.TB, id string) *claim.Request {
	t.Helper()
	return &claim.Request{ID: id, Namespace: "default", Bundle: t.TempDir(), TTRPCAddress: "/run/c.ttrpc", GRPCAddress: "/run/c", PublishBinary: "/usr/bin/containerd"}
}

func counted(t testing.TB, dir, name string) int64 {
	t.Helper()
	n, err := claim.Counted(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func at(path string) func() string { return func() string { return path } }

// end kills a stand-in, which is a child of this process or of none.
func end(t testing.TB, r claimtest.Report) {
	t.Helper()
	if err := syscall.Kill(r.Pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	_, _ = syscall.Wait4(r.Pid, nil, 0, nil)
}

func TestEveryPartIsClaimedOnce(t *testing.T) {
	const parts, claimers = 32, 64
	dir := profile(t)
	addReady(t, dir, "p", parts, true)
	shim := claimtest.Install(t, t.TempDir())
	var (
		wg        sync.WaitGroup
		addresses [claimers]string
		requests  [claimers]*claim.Request
	)
	begin := make(chan struct{})
	for i := range claimers {
		requests[i] = request(t, fmt.Sprint("c", i))
		wg.Go(func() {
			<-begin
			c := claim.Claimer{Dir: dir, Shim: at(shim)}
			var err error
			if addresses[i], err = c.Take(requests[i]); err != nil {
				t.Error(err)
			}
		})
	}
	close(begin)
	wg.Wait()
	taken := map[string]bool{}
	warm := 0
	for i, address := range addresses {
		if taken[address] {
			t.Errorf("%s was given twice", address)
		}
		taken[address] = true
		part := filepath.Dir(strings.TrimPrefix(address, "unix://"))
		if target, err := os.Readlink(filepath.Join(requests[i].Bundle, claim.Link)); err != nil || target != part {
			t.Errorf("the link points to %s, %v; want %s", target, err, part)
		}
		text, err := os.ReadFile(filepath.Join(part, claim.ClaimFile))
		if err != nil {
			t.Fatal(err)
		}
		var got claim.Request
		if err := json.Unmarshal(text, &got); err != nil || got != *requests[i] {
			t.Errorf("claim.json is %s, %v; want %+v", text, err, requests[i])
		}
		if strings.HasPrefix(filepath.Base(part), claim.ColdPrefix) {
			end(t, claimtest.Ask(t, address))
		} else {
			warm++
		}
	}
	if warm != parts {
		t.Errorf("%d claimers got a ready part, want %d", warm, parts)
	}
	if hits, misses := counted(t, dir, claim.Hit), counted(t, dir, claim.Miss); hits != parts || misses != claimers-parts {
		t.Errorf("counted %d hits and %d misses", hits, misses)
	}
}

func TestDeadPartsAreSkippedAndRemoved(t *testing.T) {
	dir := profile(t)
	addReady(t, dir, "dead", 20, false)
	addReady(t, dir, "live", 1, true)
	c := claim.Claimer{Dir: dir, Shim: at("")}
	address, err := c.Take(request(t, "a"))
	if err != nil || !strings.HasSuffix(address, "/live0/shim.sock") {
		t.Fatalf("got %s, %v", address, err)
	}
	if _, err := c.Take(request(t, "b")); err == nil || !strings.Contains(err.Error(), claim.ShimBinary) {
		t.Errorf("without parts and shim: %v", err)
	}
	for _, where := range []string{claim.Ready, claim.Claimed} {
		entries, err := os.ReadDir(filepath.Join(dir, where))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "live0" {
				t.Errorf("left %s/%s", where, e.Name())
			}
		}
	}
}

func TestColdOnAHostWithoutPool(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root", "default")
	c := claim.Claimer{Dir: dir, Shim: at(claimtest.Install(t, t.TempDir())), AddressFile: true}
	want := request(t, "cold")
	// Something that a caller forgot to close on exec.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, w.Fd(), syscall.F_SETFD, 0); errno != 0 {
		t.Fatal(errno)
	}
	address, err := c.Take(want)
	if err != nil {
		t.Fatal(err)
	}
	report := claimtest.Ask(t, address)
	defer end(t, report)
	if report.Claim != *want || !report.SelfMade || report.Session != report.Pid || report.Cwd != "/" {
		t.Errorf("reported %+v", report)
	}
	if got := strings.Join(report.Files, " "); !strings.HasPrefix(got, "0 /dev/null 1 /dev/null 2 /dev/null 3 socket:[") || len(report.Files) != 4 {
		t.Errorf("the shim has the descriptors %q", report.Files)
	}
	path := strings.TrimPrefix(address, "unix://")
	if text, err := os.ReadFile(filepath.Join(want.Bundle, "address")); err != nil || string(text) != address {
		t.Errorf("the file address has %q, %v; want %s", text, err, address)
	}
	for name, mode := range map[string]os.FileMode{path: 0o600 | fs.ModeSocket, filepath.Dir(dir): 0o700 | fs.ModeDir, dir: 0o700 | fs.ModeDir} {
		if fi, err := os.Stat(name); err != nil || fi.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, fi.Mode(), err, mode)
		}
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	dir := profile(t)
	c := claim.Claimer{Dir: dir, Shim: at("/nonexistent")}
	if _, err := c.Take(request(t, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
	if entries, err := os.ReadDir(filepath.Join(dir, claim.Claimed)); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	if n := counted(t, dir, claim.Miss); n != 0 {
		t.Errorf("counted %d misses", n)
	}
}

func TestLongRootIsRefusedBeforeAnythingIsTaken(t *testing.T) {
	c := claim.Claimer{Dir: "/" + strings.Repeat("r", 100), Shim: at("/nonexistent")}
	if _, err := c.Take(request(t, "a")); err == nil || !strings.Contains(err.Error(), "shorter FLASHCUBE_ROOT") {
		t.Errorf("got %v", err)
	}
}

func TestLinkOfAKilledStartIsReplaced(t *testing.T) {
	dir := profile(t)
	addReady(t, dir, "p", 1, true)
	r := request(t, "a")
	link := filepath.Join(r.Bundle, claim.Link)
	if err := os.Symlink("/elsewhere", link); err != nil {
		t.Fatal(err)
	}
	c := claim.Claimer{Dir: dir, Shim: at("")}
	if _, err := c.Take(r); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(link); err != nil || target != filepath.Join(dir, claim.Claimed, "p0") {
		t.Errorf("points to %s, %v", target, err)
	}
}

func TestCounters(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	name := claim.Fallback + "/checkpoint"
	if n := counted(t, dir, name); n != 0 {
		t.Errorf("begins with %d", n)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				if err := claim.Count(dir, name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := counted(t, dir, name); n != 1000 {
		t.Errorf("counted %d, want 1000", n)
	}
}

func BenchmarkTakeReady(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "flashcube") // a file system like /run's
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := claim.Prepare(dir); err != nil {
		b.Fatal(err)
	}
	addReady(b, dir, "p", 8, true)
	c := claim.Claimer{Dir: dir, Shim: at("")}
	r := request(b, "a")
	for b.Loop() {
		address, err := c.Take(r)
		if err != nil {
			b.Fatal(err)
		}
		part := filepath.Dir(strings.TrimPrefix(address, "unix://"))
		if err := os.Rename(part, filepath.Join(dir, claim.Ready, filepath.Base(part))); err != nil {
			b.Fatal(err)
		}
		// A listener nobody accepts from would fill up.
		b.StopTimer()
		drain(b, filepath.Join(dir, claim.Ready, filepath.Base(part)))
		b.StartTimer()
	}
}

// drain puts a new listener in the place of a part's.
func drain(b *testing.B, part string) {
	b.Helper()
	path := filepath.Join(part, claim.Socket)
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	b.Cleanup(func() { l.Close() })
}
