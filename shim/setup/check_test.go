package setup

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

// TestKernel is run where the runtime works: that is what the bundle needs.
func TestKernel(t *testing.T) {
	for range 2 { // the first must not spoil the second
		for _, r := range Kernel() {
			if r.Plugin != Name || r.Probe == "" || r.Detail == "" {
				t.Errorf("a result without a head: %+v", r)
			}
			if r.Status == check.Missing {
				t.Errorf("%s: %s", r.Probe, r.Detail)
			}
		}
	}
}

// TestProbe says what is missing, and what follows.
func TestProbe(t *testing.T) {
	for _, p := range kernelProbes() {
		p.try = func() error { return unix.ENOSYS }
		r := p.run()
		if r.Status == check.OK || r.Detail != "function not implemented: "+p.without {
			t.Errorf("%+v", r)
		}
	}
}

// TestAside keeps what it does from everybody else.
func TestAside(t *testing.T) {
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	seen := errors.New("seen")
	err = aside(func() error {
		if err := scratch(); err != nil {
			return err
		}
		if entries, err := os.ReadDir("/run"); err != nil || len(entries) > 0 {
			return fmt.Errorf("/run has %v, %w", entries, err)
		}
		return seen
	})
	if !errors.Is(err, seen) {
		t.Error(err)
	}
	if after, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !bytes.Equal(after, before) {
		t.Errorf("mounts are\n%s%v, and were\n%s", after, err, before)
	}
}

func TestAppArmor(t *testing.T) {
	for text, want := range map[string]string{"Y\n": "on", "N\n": "off", "": "off"} {
		file := filepath.Join(t.TempDir(), "enabled")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := appArmor(file); !strings.HasPrefix(r.Detail, want) {
			t.Errorf("%q: %s", text, r.Detail)
		}
	}
	if r := appArmor("/not-there"); !strings.HasPrefix(r.Detail, "off") {
		t.Errorf("without the module: %s", r.Detail)
	}
}

func TestCheck(t *testing.T) {
	t.Setenv("FLASHCUBE_ROOT", newRoot(t))
	program(t, nil)
	before, err := os.ReadDir(claim.Root())
	if err != nil {
		t.Fatal(err)
	}
	results, err := Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]check.Result{}
	for _, r := range results {
		if _, twice := seen[r.Probe]; twice || r.Plugin != Name || r.Detail == "" {
			t.Errorf("%+v", r)
		}
		seen[r.Probe] = r
	}
	for _, probe := range []string{"programs", "flashcubed", "CRI handler"} {
		if seen[probe].Status == check.OK {
			t.Errorf("there is none and yet: %+v", seen[probe])
		}
	}
	after, err := os.ReadDir(claim.Root())
	if err != nil || len(after) != len(before) {
		t.Errorf("left %v, %v", after, err)
	}
}

func TestDirectory(t *testing.T) {
	open, closed := t.TempDir(), newRoot(t)
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(closed, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for root, want := range map[string]check.Status{
		closed:                            check.OK,
		filepath.Join(closed, "to", "be"): check.OK,
		open:                              check.Limited,
		file:                              check.Missing,
		filepath.Join(file, "below"):      check.Missing,
		"/run/" + strings.Repeat("x", 52): check.Missing,
		"/run/" + strings.Repeat("x", 40): check.OK,
	} {
		if r := directory(root); r.Status != want || r.Detail == "" {
			t.Errorf("%s: %+v, want %s", root, r, want)
		}
	}
}

// TestLongestSocket agrees with who has the last word.
func TestLongestSocket(t *testing.T) {
	base := t.TempDir()
	root := base + "/" + strings.Repeat("x", 107-len(longestSocket)-len(base)-1)
	for _, c := range []struct {
		root string
		fits bool
	}{{root, true}, {root + "x", false}} {
		claimer := claim.Claimer{Dir: claim.Profile(c.root, profile), Shim: func() string { return "" }}
		_, err := claimer.Take(&claim.Request{ID: "1", Bundle: base})
		if tooLong := strings.Contains(err.Error(), "bytes and may have"); tooLong == c.fits {
			t.Errorf("%d bytes: %v", len(c.root), err)
		}
		if r := directory(c.root); (r.Status == check.OK) != c.fits && r.Status != check.Limited {
			t.Errorf("%d bytes: %+v", len(c.root), r)
		}
	}
}

func TestFallback(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "runc")
	if err := os.WriteFile(file, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "crun"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		want       check.Status
	}{
		{"runc", "/not-there:" + dir, check.OK},
		{file, "", check.OK},
		{"runc", "/not-there", check.Limited},
		{"crun", dir, check.Limited},
		{file + "2", dir, check.Limited},
	} {
		if r := fallback(c.name, c.path); r.Status != c.want {
			t.Errorf("%s in %s: %+v", c.name, c.path, r)
		}
	}
}

func TestKeeper(t *testing.T) {
	root := newRoot(t)
	want := func(s check.Status, text string) {
		t.Helper()
		if r := keeper(t.Context(), root); r.Status != s || !strings.Contains(r.Detail, text) {
			t.Errorf("%+v, want %s with %q", r, s, text)
		}
	}
	want(check.Limited, "doesn't run")
	l, err := net.Listen("unix", filepath.Join(root, pool.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	srv, h := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(srv, h)
	served := make(chan error)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	want(check.OK, "0 parts are ready")
	if err := os.WriteFile(filepath.Join(claim.Profile(root, profile), "failure"), []byte("no memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want(check.Limited, "no memory")
	h.Shutdown()
	want(check.Limited, "not_serving")
}

// TestStatus is readable by people and has all there is.
func TestStatus(t *testing.T) {
	t.Setenv("FLASHCUBE_ROOT", newRoot(t))
	dir := claim.Profile(claim.Root(), profile)
	for _, counter := range []string{claim.Hit, claim.Hit, claim.Miss, claim.Fallback + "/hook-prestart"} {
		if err := claim.Count(dir, counter); err != nil {
			t.Fatal(err)
		}
	}
	build(t, claim.Root(), "1")
	r, err := Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	row := strings.Fields(lines[2])
	if len(row) != 8 || row[0] != "default" || row[1] != "1" || row[5] != "2" || row[6] != "1" || row[7] != "1" {
		t.Errorf("the row is %q", row)
	}
	for _, text := range []string{"flashcubed doesn't run", "1 of default fell back: hook-prestart"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("no %q in\n%s", text, &out)
		}
	}
}
