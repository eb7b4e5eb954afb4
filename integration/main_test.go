package integration

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }

// bin is where make build puts the bundle.
const bin = "../bin"

// setUp runs the bundle on a containerd of a version until the test ends.
func setUp(t *testing.T, version string) (*harness.Containerd, *harness.Snapshotter) {
	t.Helper()
	b := setUpBundle(t, version)
	return b.Containerd, b.Snapshotter
}

// setUpBundle is setUp for who needs more of the bundle.
func setUpBundle(t *testing.T, version string) *harness.Bundle {
	t.Helper()
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	b, err := harness.StartBundle(t.Context(), cache(t), bin, version, smallPool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return b
}

func smallPool(cfg *config.Config) {
	cfg.Pool.Size, cfg.Pool.Headroom, cfg.Pool.Reserve = 512<<20, 128<<20, 64<<20
}

// workDir is a directory on the disk that goes with the test.
func workDir(t *testing.T) string {
	t.Helper()
	dir, err := harness.NewDir(cache(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dir.Remove(); err != nil {
			t.Error(err)
		}
	})
	return dir.Path
}

func cache(t *testing.T) string {
	t.Helper()
	dir, err := harness.Cache()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// serve pushes an image to a registry that lives as long as the test.
func serve(t *testing.T, image images.Image) (ref string) {
	t.Helper()
	registry, err := images.NewRegistry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	ref, err = registry.Push(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func busybox(t *testing.T) images.Image {
	t.Helper()
	image, err := images.Busybox(t.Context(), cache(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// ctr runs ctr and fails the test when it fails.
func ctr(t *testing.T, c *harness.Containerd, args ...string) string {
	t.Helper()
	out, err := c.Ctr(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// run runs a program of the host.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// blocks is how many bytes of the disk a file has.
func blocks(fi os.FileInfo) int64 { return fi.Sys().(*syscall.Stat_t).Blocks * 512 }
