package parity

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
)

var (
	candidate = flag.String("candidate", "flashcube", "the runtime to compare with runc: flashcube, crun or runc")
	only      = flag.String("only", "", "run the cases whose names match")
	verbose   = flag.Bool("facts", false, "print everything that was found out")
)

const bin = "../../bin"

// TestParity runs every case under runc and under the candidate.
func TestParity(t *testing.T) {
	match, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	runner, ctx, second := setUp(t)
	first := Runtime{Name: "io.containerd.runc.v2", Version: second.Version}
	// As many as the processors of a small machine can do with: runtimes spend half
	// their time waiting for the disk.
	slots := make(chan struct{}, 4)
	var group sync.WaitGroup
	defer group.Wait()
	for _, c := range Cases() {
		if !match.MatchString(c.Name) {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if c.Newer != nil {
				newer(ctx, t, runner, second, c)
				return
			}
			a, err := runner.Run(ctx, first, c)
			if err != nil {
				t.Errorf("runc: %v", err)
				return
			}
			b, err := runner.Run(ctx, second, c)
			if err != nil {
				t.Errorf("%s: %v", *candidate, err)
				return
			}
			report(t, c, a, b)
		})
	}
}

// newer runs a case that runc is too old for.
func newer(ctx context.Context, t *testing.T, runner *Runner, runtime Runtime, c Case) {
	if *candidate == "runc" {
		return
	}
	facts, err := runner.Run(ctx, runtime, c)
	if err != nil {
		t.Errorf("%s: %v", *candidate, err)
		return
	}
	for _, missing := range Check(c, facts) {
		if c.Wanted(missing) {
			continue
		}
		t.Errorf("%s: ignored: %v\n\t%s has %q and said %q", c.Name, missing, *candidate, facts[missing.Section], facts["message"])
	}
}

// report fails the test when two runs of a case differ where they should not.
func report(t *testing.T, c Case, a, b Facts) {
	var text strings.Builder
	for _, d := range Compare(a, b) {
		if !c.Wanted(d) {
			text.WriteString("\n\t" + d.String())
		}
	}
	if *verbose {
		t.Logf("%s:\n%s", c.Name, a)
	}
	if text.Len() > 0 {
		t.Errorf("%s:%s\n\trunc said %q\n\t%s said %q", c.Name, text.String(), a["message"], *candidate, b["message"])
	}
}

// setUp starts a containerd that knows the runtimes.
func setUp(t *testing.T) (*Runner, context.Context, Runtime) {
	cache, err := harness.Cache()
	if err != nil {
		t.Fatal(err)
	}
	disk, err := harness.NewDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	// Users of user namespaces must get to the bundles, which a cache in somebody's home
	// would not let them.
	dir := filepath.Join("/run", filepath.Base(disk.Path))
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(disk.Path, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(disk.Path, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range []error{unix.Unmount(dir, 0), os.Remove(dir), disk.Remove()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	runtime, shims := second(t, cache, dir)
	c, err := harness.StartContainerd(t.Context(), cache, "2.4", dir, nil, shims...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	ctx := namespaces.WithNamespace(t.Context(), c.Namespace)
	runner, err := NewRunner(ctx, client, dir, probe(t), filepath.Join(cache, "debian/bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	return runner, ctx, runtime
}

// second is the candidate and what containerd needs to run it.
func second(t *testing.T, cache, dir string) (Runtime, []harness.Shim) {
	switch *candidate {
	case "runc":
		return Runtime{Name: "io.containerd.runc.v2"}, nil
	case "crun":
		program, shim, err := harness.Crun(cache)
		if err != nil {
			t.Fatal(err)
		}
		// Debian's does not know newer specifications, nor a v2 hierarchy beside v1 ones.
		if err := unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		return Runtime{Name: "io.containerd.runc.v2", Options: &options.Options{BinaryName: program}, Version: "1.0.2"}, []harness.Shim{shim}
	case "flashcube":
		f, err := harness.StartFlashcube(t.Context(), cache, bin, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := f.Remove(); err != nil {
				t.Error(err)
			}
		})
		return Runtime{Name: harness.FlashcubeRuntime}, []harness.Shim{f.Shim()}
	}
	t.Fatalf("no runtime %q", *candidate)
	return Runtime{}, nil
}

// probe builds the program that runs in the containers.
func probe(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "probe")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "./probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var diagnostics bytes.Buffer
	cmd.Stderr = &diagnostics
	if err := cmd.Run(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, &diagnostics)
	}
	return file
}
