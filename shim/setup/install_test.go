package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/claim/claimtest"
	"github.com/peregrine-dev/peregrine/shim/config"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

func TestMain(m *testing.M) {
	claimtest.Main()
	os.Exit(leaktest.Main(m))
}

// newRoot is a root with a pool that has no parts.
func newRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "r")
	if err := claim.Prepare(claim.Profile(root, profile)); err != nil {
		t.Fatal(err)
	}
	return root
}

// build makes a part that is ready.
func build(t *testing.T, root, name string) {
	t.Helper()
	parts := claim.Profile(root, profile)
	dir := filepath.Join(parts, claim.Building, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	cmd := exec.Command(claimtest.Install(t, bin), "-dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	err := until(t.Context(), time.Minute, func() (bool, error) {
		return claim.Exists(filepath.Join(parts, claim.Ready, name)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// take claims a ready part for a container with an id.
func take(t *testing.T, root, id string) *claim.Request {
	t.Helper()
	c := claim.Claimer{Dir: claim.Profile(root, profile), Shim: func() string { return "" }}
	r := &claim.Request{ID: id, Namespace: "ns", Bundle: t.TempDir()}
	if _, err := c.Take(r); err != nil {
		t.Fatal(err)
	}
	return r
}

func wantInUse(t *testing.T, root string, want ...string) {
	t.Helper()
	got, err := inUse(root)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("in use by %q, %v; want %q", got, err, want)
	}
}

func TestInUse(t *testing.T) {
	root := newRoot(t)
	wantInUse(t, root)
	wantInUse(t, filepath.Join(root, "not-there"))
	build(t, root, "1")
	wantInUse(t, root) // a ready part is nobody's
	r := take(t, root, "web")
	wantInUse(t, root, "container web in namespace ns")

	// Its shim dies: as long as containerd has not deleted it, it needs the program.
	claimtest.KillParts(t, claim.Profile(root, profile))
	all, err := parts(root, claim.Claimed)
	if err != nil || len(all) != 1 {
		t.Fatalf("parts %v, %v", all, err)
	}
	if err := until(t.Context(), time.Minute, func() (bool, error) { return !all[0].alive(), nil }); err != nil {
		t.Fatal(err)
	}
	wantInUse(t, root)
	if err := os.WriteFile(filepath.Join(r.Bundle, claim.StateFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantInUse(t, root, "container web in namespace ns, whose shim is dead")
}

func TestInUseCold(t *testing.T) {
	root := newRoot(t)
	dir := filepath.Join(claim.Profile(root, profile), claim.Claimed, "cold-1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	wantInUse(t, root)
	// Of one that wrote something we can't read we don't say that it is nothing.
	if err := os.WriteFile(filepath.Join(dir, claim.ClaimFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantInUse(t, root, "part "+dir)
	if err := os.WriteFile(filepath.Join(dir, claim.PidFile), []byte("1 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := inUse(root); err == nil {
		t.Errorf("a part of process 1 is in use by %q", got)
	}
}

func TestRelease(t *testing.T) {
	root := newRoot(t)
	for i := range 3 {
		build(t, root, fmt.Sprint(i))
	}
	// One in the making that died, and one without a process.
	for _, state := range []string{claim.Building, claim.Ready} {
		if err := os.Mkdir(filepath.Join(claim.Profile(root, profile), state, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := release(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{claim.Ready, claim.Retired} {
		if all, err := parts(root, state); err != nil || len(all) > 0 {
			t.Errorf("%s has %v, %v", state, all, err)
		}
	}
	if err := release(t.Context(), filepath.Join(root, "not-there")); err != nil {
		t.Errorf("release of nothing: %v", err)
	}
	if claim.Exists(filepath.Join(root, "not-there")) {
		t.Error("releasing made the root")
	}
}

// TestReleaseSparesContainers leaves a part alone that was claimed after all.
func TestReleaseSparesContainers(t *testing.T) {
	root := newRoot(t)
	build(t, root, "1")
	take(t, root, "web")
	build(t, root, "2")
	if err := release(t.Context(), root); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "container web") {
		t.Errorf("got %v, want ErrFailedPrecondition that names the container", err)
	}
	wantInUse(t, root, "container web in namespace ns")
}

func TestReleaseWhileKept(t *testing.T) {
	root := newRoot(t)
	build(t, root, "1")
	lock, err := pool.Lock(root)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := release(t.Context(), root); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v, want ErrFailedPrecondition", err)
	}
	if all, err := parts(root, claim.Ready); err != nil || len(all) != 1 {
		t.Errorf("ready are %v, %v", all, err)
	}
}

func TestReleaseInterrupted(t *testing.T) {
	root := newRoot(t)
	build(t, root, "1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := drain(ctx, root); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// program puts programs on PATH, by scripts of sh, and nothing else.
func program(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestPlugin(t *testing.T) {
	t.Setenv("FLASHCUBE_ROOT", newRoot(t))
	root := claim.Root()
	program(t, map[string]string{"systemctl": "exit 1"})
	p, err := Plugin(t.Context(), "/opt/bin")
	if err != nil {
		t.Fatal(err)
	}
	if users, err := p.InUse(t.Context()); err != nil || len(users) > 0 {
		t.Errorf("in use by %q, %v", users, err)
	}
	if err := p.Release(t.Context()); err != nil {
		t.Errorf("release of nothing: %v", err)
	}
	written := map[string]string{}
	for _, f := range p.Files {
		if !filepath.IsAbs(f.Path) || len(f.Text) == 0 {
			t.Errorf("file %q of %d bytes", f.Path, len(f.Text))
		}
		written[f.Path] = string(f.Text)
	}
	for _, unit := range p.Units {
		text := written["/etc/systemd/system/"+unit]
		if !strings.Contains(text, "ExecStart=/opt/bin/") || !strings.Contains(text, "\nLimitNOFILE=infinity\n") || !strings.Contains(text, "OOMScoreAdjust=-998\n") {
			t.Errorf("unit %s is\n%s", unit, text)
		}
	}
	// What is removed is in the root and is not the root: it may hold more.
	for _, path := range p.State {
		if rel, err := filepath.Rel(root, path); err != nil || rel == "." || !filepath.IsLocal(rel) {
			t.Errorf("removes %s", path)
		}
	}
	// Without a containerd nobody knows what it would make of a drop-in.
	if _, ok := written[dropInPath]; ok {
		t.Error("wrote a drop-in for no containerd")
	}
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(written[config.DefaultPath]), 0o600); err != nil {
		t.Fatal(err)
	}
	if cfg, err := config.Load(file, true); err != nil || cfg != config.Default() {
		t.Errorf("its configuration reads %+v, %v", cfg, err)
	}
}

// TestStateIsEverything leaves nothing of a root that was used.
func TestStateIsEverything(t *testing.T) {
	t.Setenv("FLASHCUBE_ROOT", newRoot(t))
	program(t, nil)
	build(t, claim.Root(), "1")
	p, err := Plugin(t.Context(), "/opt/bin")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range p.State {
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	}
	if list, err := os.ReadDir(claim.Root()); err != nil || len(list) > 0 {
		t.Errorf("left %v, %v", list, err)
	}
}

func TestContainerdLimits(t *testing.T) {
	usual := []string{"LimitNOFILE=infinity", "LimitNPROC=infinity", "LimitCORE=infinity"}
	for name, c := range map[string]struct {
		systemctl string
		limits    []string
		oom       int
		bad       bool
	}{
		"no systemd": {"exit 1", usual, -998, false},
		"no unit":    {"echo LoadState=not-found; echo OOMScoreAdjust=0; echo LimitNOFILE=524288", usual, -998, false},
		"containerd 2's": {
			"echo LoadState=loaded; echo OOMScoreAdjust=-999; echo LimitNOFILE=524288; echo LimitNOFILESoft=1024; echo LimitNPROC=infinity; echo LimitNPROCSoft=infinity",
			[]string{"LimitNOFILE=1024:524288", "LimitNPROC=infinity"},
			-998, false,
		},
		"the first to go": {"echo LoadState=loaded; echo OOMScoreAdjust=1000", nil, 1000, false},
		"nonsense":        {"echo LoadState=loaded; echo OOMScoreAdjust=high", nil, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			program(t, map[string]string{"systemctl": c.systemctl})
			got, err := containerdLimits(t.Context())
			if (err != nil) != c.bad {
				t.Fatalf("error %v", err)
			}
			if !c.bad && (!slices.Equal(got.limits, c.limits) || got.oom != c.oom) {
				t.Errorf("got %+v", got)
			}
		})
	}
}
