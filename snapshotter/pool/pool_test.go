package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/leak"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }

// small are limits under which a pool stays as small as it can be.
var small = Limits{Initial: minImage, Headroom: 64 * miB, Reserve: 32 * miB, HostReserve: 16 * miB}

// place is where a test's pool is.
type place struct{ root, image, dir string }

// newPlace is a place on the host's disk.
func newPlace(t *testing.T) place {
	t.Helper()
	pooltest.NeedRoot(t)
	return placeIn(t, t.TempDir())
}

// placeOn is a place on a host of its own: a small ext4.
func placeOn(t *testing.T, size int64) place {
	t.Helper()
	pooltest.NeedRoot(t)
	tmp := t.TempDir()
	host := filepath.Join(tmp, "host")
	if err := pooltest.Mount(t.Context(), filepath.Join(tmp, "host.img"), host, size, "mkfs.ext4", "-q", "-m", "0"); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, host)
	return placeIn(t, host)
}

func placeIn(t *testing.T, root string) place {
	t.Helper()
	pl := place{root, filepath.Join(root, "pool.img"), filepath.Join(root, "pool")}
	cleanUp(t, pl.dir)
	return pl
}

func cleanUp(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		if err := pooltest.Remove(dir); err != nil {
			t.Error(err)
		}
	})
}

func (pl place) open(t *testing.T, l Limits) *Pool {
	t.Helper()
	p, err := OpenImage(t.Context(), pl.image, pl.dir, l)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reopen unmounts the pool and opens it again.
func (pl place) reopen(t *testing.T, l Limits) *Pool {
	t.Helper()
	pl.close(t)
	return pl.open(t, l)
}

func (pl place) close(t *testing.T) {
	t.Helper()
	if err := Unmount(pl.dir); err != nil {
		t.Fatal(err)
	}
}

// fails opens the pool, which must fail with a class of errors and say all of says,
// and must leave nothing that was not there.
func (pl place) fails(t *testing.T, is func(error) bool, says ...string) {
	t.Helper()
	failsLeaving(t, pl.root, func() error {
		_, err := OpenImage(t.Context(), pl.image, pl.dir, small)
		return err
	}, is, says...)
}

func failsLeaving(t *testing.T, root string, open func() error, is func(error) bool, says ...string) {
	t.Helper()
	before, state := files(t, root), look(t, root)
	err := open()
	if err == nil || !is(err) {
		t.Errorf("got error %v, which is of another class", err)
	}
	for _, what := range says {
		if !strings.Contains(fmt.Sprint(err), what) {
			t.Errorf("%q doesn't say %q", err, what)
		}
	}
	if after := files(t, root); after != before {
		t.Errorf("left files:\n%swhere there were:\n%s", after, before)
	}
	// An unmounted pool's loop device goes a little later than the call returns.
	deadline := time.Now().Add(time.Minute)
	more := look(t, root).Since(state)
	for len(more) > 0 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
		more = look(t, root).Since(state)
	}
	for _, what := range more {
		t.Error("left ", what)
	}
}

// look is what the kernel holds for this process and, of what all processes share, for
// the files below root: other packages' tests run at the same time.
func look(t *testing.T, root string) leak.State {
	t.Helper()
	state, err := leak.Look()
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(state, func(what string, _ struct{}) bool {
		return !strings.HasPrefix(what, "mount ") && !strings.HasPrefix(what, "process ") && !strings.Contains(what, root)
	})
	return state
}

// files lists what is in a directory, but for an empty pool directory.
func files(t *testing.T, dir string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if !d.IsDir() {
			fmt.Fprintln(&list, path, fi.Size(), fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list.String()
}

// edit writes into an image that is not mounted.
func edit(t *testing.T, image string, offset int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Error(err)
	}
	// A loop device with direct I/O reads what is on the disk.
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// editSuperblock changes the primary superblock of an image or a device and sets its
// checksum right.
func editSuperblock(t *testing.T, image string, change func(head []byte)) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 4096)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	change(head)
	sum(head)
	edit(t, image, 0, head)
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, path, text string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != text {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, text)
	}
}

func imageSize(t *testing.T, image string) int64 {
	t.Helper()
	fi, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

func stats(t *testing.T, p *Pool) Stats {
	t.Helper()
	st, err := p.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestImage(t *testing.T) {
	pl := newPlace(t)
	p := pl.open(t, small)
	if p.Dir() != pl.dir || !isXFS(pl.dir) {
		t.Errorf("no XFS at %s", p.Dir())
	}
	var st unix.Stat_t
	if err := unix.Stat(pl.image, &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != minImage || st.Blocks*512 < st.Size || st.Mode&0o777 != 0o600 {
		t.Errorf("the image has %d bytes, %d of them allocated, mode %o", st.Size, st.Blocks*512, st.Mode)
	}
	from, to := filepath.Join(pl.dir, "a"), filepath.Join(pl.dir, "b")
	put(t, from, "hello")
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		t.Errorf("clone: %v", err)
	}
	src.Close()
	dst.Close()
	if err := p.Sync(); err != nil {
		t.Error(err)
	}
	pl.reopen(t, small)
	wants(t, to, "hello")
}

// TestAdopt is a restart of the daemon: the pool is mounted, containers run on it.
func TestAdopt(t *testing.T) {
	pl := newPlace(t)
	pl.open(t, small)
	f, err := os.Create(filepath.Join(pl.dir, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := look(t, pl.root)
	p := pl.open(t, small)
	if more := look(t, pl.root).Since(before); len(more) > 0 {
		t.Errorf("opened again, it made %q", more)
	}
	if _, err := f.WriteString("still here"); err != nil {
		t.Error(err)
	}
	wants(t, filepath.Join(p.Dir(), "open"), "still here")
}

// TestSymbolicLinks opens a pool by a path that the mount table doesn't have.
func TestSymbolicLinks(t *testing.T) {
	pl := newPlace(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(pl.root, link); err != nil {
		t.Fatal(err)
	}
	image, dir := filepath.Join(link, "pool.img"), filepath.Join(link, "pool")
	for range 2 {
		if _, err := OpenImage(t.Context(), image, dir, small); err != nil {
			t.Fatal(err)
		}
	}
	if err := Unmount(dir); err != nil {
		t.Fatal(err)
	}
	if at, err := mountedAt(pl.dir); err != nil || at != nil {
		t.Errorf("still mounted: %+v, %v", at, err)
	}
}

func TestUnmount(t *testing.T) {
	pl := newPlace(t)
	if err := Unmount(pl.dir); err != nil {
		t.Errorf("no directory: %v", err)
	}
	pl.open(t, small)
	f, err := os.Create(filepath.Join(pl.dir, "open"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmount(pl.dir); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "containers") {
		t.Errorf("busy: got %v, want ErrFailedPrecondition", err)
	}
	f.Close()
	for range 2 {
		if err := Unmount(pl.dir); err != nil {
			t.Error(err)
		}
	}
}

func TestOnHost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "host")
	p, err := OnHost(dir, Limits{Reserve: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Admit(t.Context()), p.Grow(t.Context()), p.Sync()); err != nil {
		t.Error(err)
	}
	if st := stats(t, p); st.Free != st.HostFree {
		t.Errorf("%+v: the host is the pool", st)
	}
	p.limits.Reserve = 1 << 62
	if err := p.Admit(t.Context()); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v, want ErrResourceExhausted", err)
	}
}

// TestSupported is what makes all the others run.
func TestSupported(t *testing.T) {
	pooltest.NeedRoot(t)
	if err := Supported(); err != nil {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := Supported(); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "install xfsprogs") {
		t.Errorf("without tools: %v", err)
	}
}

// TestCancelled gives up half-way.
func TestCancelled(t *testing.T) {
	pl := newPlace(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	failsLeaving(t, pl.root, func() error {
		_, err := OpenImage(ctx, pl.image, pl.dir, small)
		return err
	}, func(err error) bool { return errors.Is(err, context.Canceled) })
}
