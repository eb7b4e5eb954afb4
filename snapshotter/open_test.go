package baoverlay

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }

// smallLimits are those of the smallest pool.
func smallLimits(int64) pool.Limits {
	return pool.Limits{Initial: 512 << 20, Headroom: 64 << 20, Reserve: 32 << 20, HostReserve: 16 << 20}
}

// newRoot is a root on the host's disk; its pool goes with the test.
func newRoot(t *testing.T) string {
	t.Helper()
	pooltest.NeedRoot(t)
	root := t.TempDir()
	removeLater(t, PoolDir(root))
	return root
}

func removeLater(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		if err := pooltest.Remove(dir); err != nil {
			t.Error(err)
		}
	})
}

func mustOpen(t *testing.T, opts Options) (*pool.Pool, Choice) {
	t.Helper()
	opts.Limits = smallLimits
	p, choice, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return p, choice
}

// openFails opens a root, which must fail with all of says and change nothing in it.
func openFails(t *testing.T, opts Options, is func(error) bool, says ...string) {
	t.Helper()
	before := entries(t, opts.Root)
	opts.Limits = smallLimits
	_, choice, err := Open(t.Context(), opts)
	if err == nil || !is(err) {
		t.Errorf("chose %q, error %v is of another class", choice.Engine, err)
		return
	}
	for _, what := range says {
		if !strings.Contains(err.Error(), what) {
			t.Errorf("%q doesn't say %q", err, what)
		}
	}
	if after := entries(t, opts.Root); after != before {
		t.Errorf("left %q where there was %q", after, before)
	}
}

func entries(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestOpenWithoutClones(t *testing.T) {
	root := newRoot(t)
	p, choice := mustOpen(t, Options{Root: root, Engine: Auto})
	if choice.Engine != PoolLoop || p.Dir() != PoolDir(root) {
		t.Errorf("chose %q at %s", choice.Engine, p.Dir())
	}
	if len(choice.Passed) != 1 || !strings.Contains(choice.Passed[0], "reflink-host: the file system of") {
		t.Errorf("passed over %q", choice.Passed)
	}
	if list := entries(t, root); list != "engine pool pool.img" {
		t.Errorf("the root holds %s", list)
	}
	for _, other := range []Engine{Overlay, ReflinkHost} {
		openFails(t, Options{Root: root, Engine: other}, errdefs.IsFailedPrecondition, "snapshots of engine pool-loop", "remove them first")
	}
	if _, again := mustOpen(t, Options{Root: root, Engine: Auto}); again.Engine != PoolLoop {
		t.Errorf("then chose %q", again.Engine)
	}
}

func TestOpenOnClones(t *testing.T) {
	pooltest.NeedRoot(t)
	tmp := t.TempDir()
	root := filepath.Join(tmp, "xfs")
	if err := pooltest.XFS(t.Context(), filepath.Join(tmp, "xfs.img"), root, 512<<20); err != nil {
		t.Fatal(err)
	}
	removeLater(t, root)
	p, choice := mustOpen(t, Options{Root: root, Engine: Auto})
	if choice.Engine != ReflinkHost || len(choice.Passed) > 0 || p.Dir() != hostDir(root) {
		t.Errorf("chose %+v at %s", choice, p.Dir())
	}
	if list := entries(t, root); list != "engine host" {
		t.Errorf("the root holds %s", list)
	}
}

func TestOpenDevice(t *testing.T) {
	root := newRoot(t)
	device, detach, err := pooltest.Device(filepath.Join(t.TempDir(), "disk"), 512<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(pooltest.Remove(PoolDir(root)), detach()); err != nil {
			t.Error(err)
		}
	})
	if _, choice := mustOpen(t, Options{Root: root, Engine: Auto, Device: device}); choice.Engine != PoolDevice {
		t.Errorf("chose %+v", choice)
	}
	// The device's snapshots are remembered while it is neither mounted nor named.
	if err := pool.Unmount(PoolDir(root)); err != nil {
		t.Fatal(err)
	}
	openFails(t, Options{Root: root, Engine: Auto}, errdefs.IsInvalidArgument, "needs the name of a device")
	openFails(t, Options{Root: root, Engine: PoolLoop}, errdefs.IsFailedPrecondition, "snapshots of engine pool-device")
}

func TestOpenWithoutTools(t *testing.T) {
	root := newRoot(t)
	t.Setenv("PATH", t.TempDir())
	openFails(t, Options{Root: root, Engine: PoolLoop}, errdefs.IsFailedPrecondition, "pool-loop", "mkfs.xfs is not on PATH; install xfsprogs")
	p, choice := mustOpen(t, Options{Root: root, Engine: Auto})
	if choice.Engine != Overlay || p.Dir() != hostDir(root) {
		t.Errorf("chose %q at %s", choice.Engine, p.Dir())
	}
	if len(choice.Passed) != 2 || !strings.Contains(choice.Passed[0], "no reflinks") || !strings.Contains(choice.Passed[1], "install xfsprogs") {
		t.Errorf("passed over %q", choice.Passed)
	}
}

// TestOpenPoolWithoutTools has snapshots in a pool that can't be opened: auto must not
// start without them.
func TestOpenPoolWithoutTools(t *testing.T) {
	root := newRoot(t)
	mustOpen(t, Options{Root: root, Engine: Auto})
	if err := pool.Unmount(PoolDir(root)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	openFails(t, Options{Root: root, Engine: Auto}, errdefs.IsFailedPrecondition, "install xfsprogs")
}

func TestOpenDamagedPool(t *testing.T) {
	root := newRoot(t)
	if err := errors.Join(os.Mkdir(PoolDir(root), 0o700), os.WriteFile(imageFile(root), make([]byte, 1<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	openFails(t, Options{Root: root, Engine: Auto}, errdefs.IsDataLoss, "damaged", imageFile(root))
}

func TestOpenImpossible(t *testing.T) {
	root := newRoot(t)
	openFails(t, Options{Root: root, Engine: ReflinkHost}, errdefs.IsFailedPrecondition, "reflink-host doesn't work here", "no reflinks")
	openFails(t, Options{Root: root, Engine: PoolDevice}, errdefs.IsInvalidArgument, "needs the name of a device")
	openFails(t, Options{Root: root, Engine: PoolDevice, Device: filepath.Join(root, "none")},
		func(err error) bool { return errors.Is(err, os.ErrNotExist) }, "the pool's device")
	openFails(t, Options{Root: root, Engine: "btrfs"}, errdefs.IsInvalidArgument, "want one of")
}

// TestOpenOverlaySnapshots has snapshots of overlay, which a pool would hide.
func TestOpenOverlaySnapshots(t *testing.T) {
	root := newRoot(t)
	p, _ := mustOpen(t, Options{Root: root, Engine: Overlay})
	sn, err := NewSnapshotter(t.Context(), p, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	if _, err := sn.Prepare(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	openFails(t, Options{Root: root, Engine: PoolLoop}, errdefs.IsFailedPrecondition, "snapshots of engine overlay")
	if _, choice := mustOpen(t, Options{Root: root, Engine: Auto}); choice.Engine != Overlay {
		t.Errorf("auto chose %q", choice.Engine)
	}
}

// TestOpenEmptyOverlay has no snapshots yet: a better engine may come.
func TestOpenEmptyOverlay(t *testing.T) {
	root := newRoot(t)
	mustOpen(t, Options{Root: root, Engine: Overlay})
	if _, choice := mustOpen(t, Options{Root: root, Engine: Auto}); choice.Engine != PoolLoop {
		t.Errorf("auto chose %q", choice.Engine)
	}
}

func TestOpenReadOnlyRoot(t *testing.T) {
	pooltest.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	removeLater(t, dir)
	readOnly := func(err error) bool { return errors.Is(err, unix.EROFS) }
	openFails(t, Options{Root: dir, Engine: Auto}, readOnly, dir, "make it writable or choose another root")
	openFails(t, Options{Root: filepath.Join(dir, "new"), Engine: Auto}, readOnly, dir)
}

func TestRootIsAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(t.Context(), Options{Root: file, Engine: Auto}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("got %v", err)
	}
}
