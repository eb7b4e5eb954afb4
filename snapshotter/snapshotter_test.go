package baoverlay

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// fakeSpace is room that says what it is told to, and what it was asked.
type fakeSpace struct {
	dir                string
	admit, sync, limit error
	onSync             func()
	calls              []string
}

func (s *fakeSpace) Dir() string { return s.dir }

func (s *fakeSpace) Admit(context.Context) error {
	s.calls = append(s.calls, "admit")
	return s.admit
}

func (s *fakeSpace) Sync() error {
	s.calls = append(s.calls, "sync")
	if s.onSync != nil {
		s.onSync()
	}
	return s.sync
}

func (s *fakeSpace) Limit(dir string, size uint64) error {
	s.calls = append(s.calls, "limit "+filepath.Base(dir))
	return s.limit
}

// newFake opens a snapshotter on room that obeys the test.
func newFake(t *testing.T) (snapshots.Snapshotter, *fakeSpace) {
	t.Helper()
	pooltest.NeedRoot(t)
	space := &fakeSpace{dir: t.TempDir()}
	return newSnapshotter(t, space), space
}

func newSnapshotter(t *testing.T, space Space) snapshots.Snapshotter {
	t.Helper()
	sn, err := NewSnapshotter(t.Context(), space, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
	})
	return sn
}

func prepare(t *testing.T, sn snapshots.Snapshotter, key, parent string, opts ...snapshots.Opt) []mount.Mount {
	t.Helper()
	mounts, err := sn.Prepare(t.Context(), key, parent, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return mounts
}

func commit(t *testing.T, sn snapshots.Snapshotter, name, key string) {
	t.Helper()
	if err := sn.Commit(t.Context(), name, key); err != nil {
		t.Fatal(err)
	}
}

func usage(t *testing.T, sn snapshots.Snapshotter, key string) snapshots.Usage {
	t.Helper()
	u, err := sn.Usage(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// within runs fn in a mounted snapshot.
func within(t *testing.T, mounts []mount.Mount, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := pooltest.Remove(dir); err != nil {
			t.Error(err)
		}
	}()
	fn(dir)
}

// names lists the snapshots.
func names(t *testing.T, sn snapshots.Snapshotter) []string {
	t.Helper()
	var list []string
	err := sn.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		list = append(list, info.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// cleanUp deletes what was removed and lists the directories that are left.
func cleanUp(t *testing.T, sn snapshots.Snapshotter, dir string) string {
	t.Helper()
	if err := sn.(snapshots.Cleaner).Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	return entries(t, filepath.Join(dir, "snapshots"))
}

// orphan makes a directory that no snapshot owns, with a file that can't be written.
func orphan(t *testing.T, dir, name string) {
	t.Helper()
	fs := filepath.Join(dir, "snapshots", name, "fs")
	if err := os.MkdirAll(fs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(fs, "f"), []byte("x"), 0o400); err != nil {
		t.Fatal(err)
	}
}

func TestOrphansGoAtStart(t *testing.T) {
	pooltest.NeedRoot(t)
	for name, snapshots := range map[string][]string{"metadata that never had a snapshot": nil, "snapshots": {"a", "b"}} {
		t.Run(name, func(t *testing.T) {
			space := &fakeSpace{dir: t.TempDir()}
			sn := newSnapshotter(t, space)
			for _, key := range snapshots {
				prepare(t, sn, key, "")
			}
			if len(snapshots) > 0 { // one that was removed and not yet deleted
				prepare(t, sn, "gone", "")
				if err := sn.Remove(t.Context(), "gone"); err != nil {
					t.Fatal(err)
				}
			}
			want := len(snapshots)
			if err := sn.Close(); err != nil {
				t.Fatal(err)
			}
			// What a kill within Prepare and a kill before the metadata leave.
			orphan(t, space.dir, "new-1234")
			orphan(t, space.dir, "99")
			newSnapshotter(t, space)
			left := strings.Fields(entries(t, filepath.Join(space.dir, "snapshots")))
			if len(left) != want || slices.Contains(left, "99") || slices.Contains(left, "new-1234") {
				t.Errorf("left %q, want %d directories", left, want)
			}
		})
	}
}

// TestLostMetadata starts on snapshots whose metadata went.
func TestLostMetadata(t *testing.T) {
	pooltest.NeedRoot(t)
	space := &fakeSpace{dir: t.TempDir()}
	orphan(t, space.dir, "1")
	sn := newSnapshotter(t, space)
	if left := entries(t, filepath.Join(space.dir, "snapshots")); left != "" {
		t.Errorf("left %q", left)
	}
	prepare(t, sn, "a", "") // would be given number 1
}

func TestPrepareRefused(t *testing.T) {
	sn, space := newFake(t)
	prepare(t, sn, "base", "")
	commit(t, sn, "layer", "base")
	before := cleanUp(t, sn, space.dir)
	space.admit = errdefs.ErrResourceExhausted
	if _, err := sn.Prepare(t.Context(), "a", "layer"); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("got %v, want ErrResourceExhausted that names the snapshot", err)
	}
	if got := names(t, sn); !slices.Equal(got, []string{"layer"}) {
		t.Errorf("there are snapshots %q", got)
	}
	if after := entries(t, filepath.Join(space.dir, "snapshots")); after != before {
		t.Errorf("left directories %q, there were %q", after, before)
	}
	// What takes no space needs no room.
	if _, err := sn.View(t.Context(), "view", "layer"); err != nil {
		t.Error(err)
	}
	space.admit = nil
	prepare(t, sn, "a", "layer")
}

func maxSizeLabel(value string) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotMaxSize: value})
}

func TestMaxSize(t *testing.T) {
	sn, space := newFake(t)
	for name, value := range map[string]string{
		"empty": "", "zero": "0", "negative": "-1", "a word": "big", "a unit": "1GiB", "a fraction": "1.5",
		"too large": "99999999999999999999", "blank": " 1",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sn.Prepare(t.Context(), "a", "", maxSizeLabel(value))
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), snapshots.LabelSnapshotMaxSize) {
				t.Errorf("got %v, want ErrInvalidArgument that names the label", err)
			}
			if got := names(t, sn); len(got) > 0 {
				t.Errorf("there are snapshots %q", got)
			}
		})
	}
	t.Run("unsupported", func(t *testing.T) {
		space.limit = errdefs.ErrNotImplemented
		if _, err := sn.Prepare(t.Context(), "a", "", maxSizeLabel("4096")); !errdefs.IsNotImplemented(err) {
			t.Errorf("got %v, want ErrNotImplemented", err)
		}
		if got := names(t, sn); len(got) > 0 {
			t.Errorf("there are snapshots %q", got)
		}
		if left := cleanUp(t, sn, space.dir); left != "" {
			t.Errorf("left directories %q", left)
		}
	})
	t.Run("supported", func(t *testing.T) {
		space.limit, space.calls = nil, nil
		prepare(t, sn, "a", "", maxSizeLabel("4096"))
		// The number that the project gets is the snapshot's directory.
		want := []string{"admit", "limit " + cleanUp(t, sn, space.dir)}
		if !slices.Equal(space.calls, want) {
			t.Errorf("asked for %q, want %q", space.calls, want)
		}
	})
}

// TestUsage is of snapshots on a pool, where a copy-up is a clone.
func TestUsage(t *testing.T) {
	const mib, block = 1 << 20, 4096
	p, _ := mustOpen(t, Options{Root: newRoot(t), Engine: PoolLoop})
	sn := newSnapshotter(t, p)
	within(t, prepare(t, sn, "base", ""), func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, mib), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	commit(t, sn, "layer", "base")
	if u := usage(t, sn, "layer"); u.Size != mib || u.Inodes != 2 {
		t.Errorf("a layer of 1 MiB: %+v", u)
	}
	// One block of the file is written: the copy has that one, the rest is the layer's.
	change := func(key string, then func()) {
		within(t, prepare(t, sn, key, "layer"), func(dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "f"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, block), 10*block); err != nil {
				t.Fatal(err)
			}
			then() // still mounted: unmounting writes what is in memory
		})
	}
	change("changed", func() {
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
	})
	if u := usage(t, sn, "changed"); u.Size != block || u.Inodes != 2 {
		t.Errorf("active, with one block of 1 MiB changed: %+v", u)
	}
	change("committed", func() { commit(t, sn, "upper", "committed") })
	if u := usage(t, sn, "upper"); u.Size != block || u.Inodes != 2 {
		t.Errorf("committed, with one block of 1 MiB changed: %+v", u)
	}
	prepare(t, sn, "untouched", "upper")
	if u := usage(t, sn, "untouched"); u.Size != 0 || u.Inodes != 1 {
		t.Errorf("untouched: %+v", u)
	}
	if _, err := sn.Usage(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Errorf("no snapshot: %v", err)
	}
}

func TestUpperdirLabel(t *testing.T) {
	pooltest.NeedRoot(t)
	space := &fakeSpace{dir: t.TempDir()}
	sn, err := NewSnapshotter(t.Context(), space, true)
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	prepare(t, sn, "a", "")
	info, err := sn.Stat(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if dir := info.Labels["containerd.io/snapshot/overlay.upperdir"]; !strings.HasPrefix(dir, space.dir) {
		t.Errorf("the label is %q", dir)
	}
}

func TestWalk(t *testing.T) {
	sn, _ := newFake(t)
	if got := names(t, sn); len(got) > 0 { // nothing was ever there
		t.Errorf("there are snapshots %q", got)
	}
	prepare(t, sn, "a", "")
	err := sn.Walk(t.Context(), func(context.Context, snapshots.Info) error { return errdefs.ErrNotFound })
	if !errdefs.IsNotFound(err) {
		t.Errorf("the caller's own error became %v", err)
	}
	if err := sn.Walk(t.Context(), nil, "[no filter"); err == nil {
		t.Error("took a broken filter")
	}
}

func TestCloseTwice(t *testing.T) {
	sn, _ := newFake(t)
	if err := errors.Join(sn.Close(), sn.Close()); err != nil {
		t.Error(err)
	}
}
