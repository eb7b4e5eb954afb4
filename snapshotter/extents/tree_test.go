package extents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }

const block = 4096

// xfs is a mounted XFS until the test ends.
func xfs(tb testing.TB) string {
	tb.Helper()
	pooltest.NeedRoot(tb)
	tmp := tb.TempDir()
	dir := filepath.Join(tmp, "xfs")
	if err := pooltest.XFS(tb.Context(), filepath.Join(tmp, "xfs.img"), dir, 512<<20); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := pooltest.Remove(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// writeAt writes the blocks of a file, which reach the disk: until then nobody knows
// what is shared.
func writeAt(tb testing.TB, path string, offsets ...int64) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	// A file that is as long already: what is appended, XFS allocates ahead of.
	if fi, err := f.Stat(); err != nil {
		tb.Fatal(err)
	} else if len(offsets) > 0 {
		if err := f.Truncate(max(fi.Size(), slices.Max(offsets)+block)); err != nil {
			tb.Fatal(err)
		}
	}
	for i, off := range offsets {
		data := make([]byte, block)
		data[0], data[1] = byte(i), 1
		if _, err := f.WriteAt(data, off); err != nil {
			tb.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		tb.Fatal(err)
	}
}

// blocks are the offsets of n blocks, each stride blocks after the one before.
func blocks(n, stride int64) []int64 {
	offsets := make([]int64, n)
	for i := range offsets {
		offsets[i] = int64(i) * stride * block
	}
	return offsets
}

// reflink is cp --reflink=always.
func reflink(tb testing.TB, from, to string) {
	tb.Helper()
	src, err := os.Open(from)
	if err != nil {
		tb.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		tb.Fatal(err)
	}
	defer dst.Close()
	if err := errors.Join(unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())), dst.Sync()); err != nil {
		tb.Fatal(err)
	}
}

func TestUsage(t *testing.T) {
	fs := xfs(t)
	no := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		// make fills the tree; lower is a tree beside it.
		make   func(t *testing.T, tree, lower string)
		blocks int64
		inodes int64 // without the root
	}{
		"nothing": {func(*testing.T, string, string) {}, 0, 0},
		"plain file": {func(t *testing.T, tree, _ string) {
			writeAt(t, tree+"/f", blocks(16, 1)...)
		}, 16, 1},
		"hard links": {func(t *testing.T, tree, _ string) {
			writeAt(t, tree+"/f", blocks(16, 1)...)
			no(t, os.Mkdir(tree+"/d", 0o700))
			no(t, os.Link(tree+"/f", tree+"/d/g"))
			no(t, os.Link(tree+"/f", tree+"/h"))
		}, 16, 2},
		"clone inside": {func(t *testing.T, tree, _ string) {
			writeAt(t, tree+"/f", blocks(16, 1)...)
			reflink(t, tree+"/f", tree+"/g")
			reflink(t, tree+"/f", tree+"/h")
		}, 16, 3},
		"clone from outside": {func(t *testing.T, tree, lower string) {
			writeAt(t, lower+"/f", blocks(16, 1)...)
			reflink(t, lower+"/f", tree+"/f")
		}, 0, 1},
		"clone overwritten": {func(t *testing.T, tree, lower string) {
			writeAt(t, lower+"/f", blocks(16, 1)...)
			reflink(t, lower+"/f", tree+"/f")
			writeAt(t, tree+"/f", 5*block)
		}, 1, 1},
		"clone appended to": {func(t *testing.T, tree, lower string) {
			writeAt(t, lower+"/f", blocks(16, 1)...)
			reflink(t, lower+"/f", tree+"/f")
			writeAt(t, tree+"/f", 16*block, 17*block)
		}, 2, 1},
		"clone whose origin is gone": {func(t *testing.T, tree, lower string) {
			writeAt(t, lower+"/f", blocks(16, 1)...)
			reflink(t, lower+"/f", tree+"/f")
			no(t, os.Truncate(lower+"/f", 0)) // removing it frees the blocks some time later
		}, 16, 1},
		"sparse file": {func(t *testing.T, tree, _ string) {
			writeAt(t, tree+"/f", 0, 1<<30, 5<<30)
			no(t, os.Truncate(tree+"/f", 100<<30))
		}, 3, 1},
		"empty and truncated files": {func(t *testing.T, tree, _ string) {
			writeAt(t, tree+"/f")
			no(t, os.WriteFile(tree+"/g", nil, 0o600))
			no(t, os.Truncate(tree+"/g", 1<<40))
		}, 0, 2},
		"one batch of extents":           {func(t *testing.T, tree, _ string) { writeAt(t, tree+"/f", blocks(batch, 2)...) }, batch, 1},
		"one extent more than a batch":   {func(t *testing.T, tree, _ string) { writeAt(t, tree+"/f", blocks(batch+1, 2)...) }, batch + 1, 1},
		"many batches of extents":        {func(t *testing.T, tree, _ string) { writeAt(t, tree+"/f", blocks(5*batch, 2)...) }, 5 * batch, 1},
		"many batches of shared extents": {sharedBatches, 150, 1},
		"special files": {func(t *testing.T, tree, _ string) {
			no(t, unix.Mkfifo(tree+"/fifo", 0o600)) // opening it would wait for a writer
			no(t, os.Symlink("/dev/zero", tree+"/link"))
			no(t, unix.Mknod(tree+"/zero", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
			no(t, unix.Mknod(tree+"/whiteout", unix.S_IFCHR, 0))
			no(t, unix.Mknod(tree+"/block", unix.S_IFBLK|0o600, int(unix.Mkdev(7, 9999))))
			no(t, unix.Mknod(tree+"/socket", unix.S_IFSOCK|0o600, 0))
		}, 0, 6},
		"unreadable file": {func(t *testing.T, tree, _ string) {
			writeAt(t, tree+"/f", blocks(3, 1)...)
			no(t, os.Chmod(tree+"/f", 0))
		}, 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			base, err := os.MkdirTemp(fs, "case-")
			if err != nil {
				t.Fatal(err)
			}
			tree, lower := filepath.Join(base, "tree"), filepath.Join(base, "lower")
			no(t, errors.Join(os.Mkdir(tree, 0o700), os.Mkdir(lower, 0o700)))
			c.make(t, tree, lower)
			got, err := Usage(t.Context(), tree)
			if err != nil {
				t.Fatal(err)
			}
			if got.Size != c.blocks*block || got.Inodes != c.inodes+1 {
				t.Errorf("got %d blocks and %d inodes, want %d and %d",
					got.Size/block, got.Inodes, c.blocks, c.inodes+1)
			}
		})
	}
}

// sharedBatches makes a file whose extents alternate between own and shared, over
// several batches.
func sharedBatches(t *testing.T, tree, lower string) {
	writeAt(t, lower+"/f", blocks(600, 1)...)
	reflink(t, lower+"/f", tree+"/f")
	writeAt(t, tree+"/f", blocks(150, 4)...)
}

// removing is a context that removes a file when it is asked whether it is done: at
// that moment the walk has seen the name and not yet the file.
type removing struct {
	context.Context
	steps map[int]string
	step  *int
}

func (r removing) Err() error {
	*r.step++
	if path, ok := r.steps[*r.step]; ok {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return r.Context.Err()
}

func TestFilesVanish(t *testing.T) {
	tree := xfs(t)
	for _, name := range []string{"a", "c", "d", "g"} {
		writeAt(t, filepath.Join(tree, name), 0)
	}
	for _, name := range []string{"b", "e"} {
		if err := os.Mkdir(filepath.Join(tree, name), 0o700); err != nil {
			t.Fatal(err)
		}
		writeAt(t, filepath.Join(tree, name, "f"), 0)
	}
	// The walk: tree, a, b, b/f, c, d, e, ...
	ctx := removing{t.Context(), map[int]string{
		3: filepath.Join(tree, "b"), // the directory itself
		4: filepath.Join(tree, "c"), // the file about to be looked at
		5: filepath.Join(tree, "e"), // what comes later
	}, new(int)}
	got, err := Usage(ctx, tree)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(3 * block); got.Size != want { // a, d, g
		t.Errorf("got %d bytes, want %d", got.Size, want)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Usage(ctx, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

// TestWithoutFiemap walks a file system that knows no extents: what it says it uses
// counts.
func TestWithoutFiemap(t *testing.T) {
	pooltest.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pooltest.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	writeAt(t, filepath.Join(dir, "f"), 0, 1<<20)
	got, err := Usage(t.Context(), dir)
	if err != nil || got.Size != 2*block || got.Inodes != 2 {
		t.Errorf("got %+v, %v, want 2 blocks and 2 inodes", got, err)
	}
}

func BenchmarkUsage(b *testing.B) {
	tree := xfs(b)
	const files = 1000
	for i := range files {
		dir := filepath.Join(tree, fmt.Sprint(i%20))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, block), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := Usage(b.Context(), tree); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*files), "ns/file")
}
