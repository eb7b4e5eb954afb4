// Package baoverlay is a containerd snapshotter on which the first write into a
// file of an image copies the touched blocks and never the file: stock overlayfs,
// its lower and upper directories on one file system with reflinks (BAOverlay,
// SoCC'20, with what kernels have learned since). An Engine is where that file
// system comes from.
package baoverlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/snapshotter/extents"
)

// Space is the room that snapshots live in. Implementations are safe for
// concurrent use.
type Space interface {
	// Dir is the directory to keep snapshots in.
	Dir() string
	// Admit says whether a writable snapshot may be added now; a refusal is
	// errdefs.ErrResourceExhausted.
	Admit(context.Context) error
	// Sync makes everything written so far durable.
	Sync() error
	// Limit bounds what is written below dir to size bytes; where the file
	// system can't, it is errdefs.ErrNotImplemented.
	Limit(dir string, size uint64) error
}

// snapshotter is containerd's own overlay snapshotter, with what a pool changes:
// space is asked for before it is promised, a committed layer is on the disk, and
// usage leaves out what is shared.
type snapshotter struct {
	snapshots.Snapshotter
	cleaner snapshots.Cleaner
	ms      *storage.MetaStore
	space   Space
}

// NewSnapshotter opens the snapshots in space, finishing removals that a crash left
// half done. With upperdirLabel, each snapshot's info has the label
// containerd.io/snapshot/overlay.upperdir, as with the stock snapshotter's option of
// that name. It is closed by Close, which leaves the space as it is.
func NewSnapshotter(ctx context.Context, space Space, upperdirLabel bool) (snapshots.Snapshotter, error) {
	db := filepath.Join(space.Dir(), "metadata.db")
	if err := reserveMetadata(db); err != nil {
		return nil, fmt.Errorf("reserve space for %s: %w", db, err)
	}
	ms, err := storage.NewMetaStore(db)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", db, err)
	}
	opts := []overlay.Opt{
		overlay.WithMetaStore(ms),
		overlay.AsynchronousRemove,
		overlay.WithMountOptions(mountOptions()),
	}
	if upperdirLabel {
		opts = append(opts, overlay.WithUpperdirLabel)
	}
	if ok, err := overlayutils.SupportsIDMappedMounts(); err == nil && ok {
		opts = append(opts, overlay.WithRemapIDs)
	}
	o, err := overlay.NewSnapshotter(space.Dir(), opts...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open snapshots in %s: %w", space.Dir(), err), ms.Close())
	}
	s := &snapshotter{Snapshotter: o, cleaner: o.(snapshots.Cleaner), ms: ms, space: space}
	// A kill between two steps leaves directories that no snapshot owns. They go
	// now: the next Prepare may be given the same number.
	if err := s.removeOrphans(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("clean up snapshots in %s: %w", space.Dir(), err), s.Close())
	}
	if err := s.limitAgain(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("limit snapshots in %s: %w", space.Dir(), err), s.Close())
	}
	return s, nil
}

// limitAgain bounds the snapshots that ask for it: a kill may have come between the
// making of one and its bound.
func (s *snapshotter) limitAgain(ctx context.Context) error {
	limits := map[string]uint64{}
	err := s.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindActive {
			return nil
		}
		size, err := maxSize([]snapshots.Opt{snapshots.WithLabels(info.Labels)})
		if err != nil || size == 0 {
			return err
		}
		limits[info.Name] = size
		return nil
	})
	for key, size := range limits {
		err = errors.Join(err, s.limit(ctx, key, size))
	}
	return err
}

// mountOptions are what every overlay mount gets, where the kernel knows them.
// redirect_dir lets a directory of an image be renamed instead of answering EXDEV,
// which makes mv copy it; metacopy must be off whatever the kernel's default is, for
// a layer that is committed has to hold its data.
func mountOptions() []string {
	// Asking for the file system by name loads its module, and with it the parameters.
	if fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC); err == nil {
		unix.Close(fd)
	}
	var options []string
	for _, o := range []struct{ name, value string }{{"redirect_dir", "on"}, {"metacopy", "off"}} {
		if _, err := os.Stat("/sys/module/overlay/parameters/" + o.name); err == nil {
			options = append(options, o.name+"="+o.value)
		}
	}
	return options
}

// reserveMetadata allocates blocks behind the end of the metadata's file, so that
// snapshots can be removed from a file system that containers have filled.
func reserveMetadata(db string) error {
	f, err := os.OpenFile(db, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, max(16<<20, 2*fi.Size()))
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil // then it is as good as any other snapshotter
	case errors.Is(err, unix.ENOSPC):
		return nil // full already: opening it is what lets the operator make room
	}
	return err
}

// Prepare makes a writable snapshot, with room for what is written to it.
func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	limit, err := maxSize(opts)
	if err != nil {
		return nil, err
	}
	if err := s.space.Admit(ctx); err != nil {
		return nil, fmt.Errorf("prepare snapshot %q: %w", key, err)
	}
	mounts, err := s.Snapshotter.Prepare(ctx, key, parent, opts...)
	if err != nil || limit == 0 {
		return mounts, err
	}
	err = s.limit(ctx, key, limit)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("limit snapshot %q to %d bytes: %w", key, limit, err), s.Remove(ctx, key))
	}
	return mounts, nil
}

// maxSize reads the label that bounds a snapshot's size: 0 where there is none.
func maxSize(opts []snapshots.Opt) (uint64, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return 0, err
		}
	}
	value, ok := info.Labels[snapshots.LabelSnapshotMaxSize]
	if !ok {
		return 0, nil
	}
	size, err := strconv.ParseUint(value, 10, 63)
	if err != nil || size == 0 {
		return 0, fmt.Errorf("label %s is %q, want a number of bytes: %w", snapshots.LabelSnapshotMaxSize, value, errdefs.ErrInvalidArgument)
	}
	return size, nil
}

func (s *snapshotter) limit(ctx context.Context, key string, size uint64) error {
	id, _, err := s.lookup(ctx, key)
	if err != nil {
		return err
	}
	return s.space.Limit(s.path(id), size)
}

// lookup returns the number that a snapshot's directory is named by.
func (s *snapshotter) lookup(ctx context.Context, key string) (id string, info snapshots.Info, err error) {
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		id, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return id, info, err
}

// path is the directory of a snapshot; its files are in fs below it.
func (s *snapshotter) path(id string) string {
	return filepath.Join(s.space.Dir(), "snapshots", id)
}

// Commit turns an active snapshot into a layer. The layer is on the disk before the
// metadata says that it is there: a power cut leaves no layer of empty files
// (containerd issues 5854, 9401).
func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	// Writing and measuring take long and need no transaction, which would keep
	// all others waiting.
	id, _, err := s.lookup(ctx, key)
	if err != nil {
		return err
	}
	if err := s.space.Sync(); err != nil {
		return fmt.Errorf("commit snapshot %q: %w", key, err)
	}
	// After writing: what is only in memory has no place of its own yet.
	usage, err := s.measure(ctx, id)
	if err != nil {
		return err
	}
	return s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		now, _, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		if now != id {
			return fmt.Errorf("snapshot %q was replaced while it was committed: %w", key, errdefs.ErrAborted)
		}
		if _, err := storage.CommitActive(ctx, key, name, usage, opts...); err != nil {
			return fmt.Errorf("failed to commit snapshot %s: %w", key, err)
		}
		return nil
	})
}

// Usage returns what a snapshot takes for itself; blocks that it shares with the
// layers below are theirs. For an active snapshot it walks the files.
func (s *snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	id, info, err := s.lookup(ctx, key)
	if err != nil {
		return snapshots.Usage{}, err
	}
	if info.Kind != snapshots.KindActive {
		return s.Snapshotter.Usage(ctx, key) // as measured at Commit
	}
	return s.measure(ctx, id)
}

func (s *snapshotter) measure(ctx context.Context, id string) (snapshots.Usage, error) {
	return extents.Usage(ctx, filepath.Join(s.path(id), "fs"))
}

// Walk calls fn for each snapshot.
func (s *snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	called := false
	err := s.Snapshotter.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		called = true
		return fn(ctx, info)
	}, filters...)
	// Metadata that never had a snapshot has no bucket to look for them in.
	if errdefs.IsNotFound(err) && !called {
		return nil
	}
	return err
}

// Cleanup deletes the files of removed snapshots.
func (s *snapshotter) Cleanup(ctx context.Context) error {
	// Metadata that never had a snapshot has no bucket to look them up in.
	if err := s.cleaner.Cleanup(ctx); !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// removeOrphans deletes all directories that no snapshot owns. Nothing else may use
// the snapshotter yet.
func (s *snapshotter) removeOrphans(ctx context.Context) error {
	err := s.cleaner.Cleanup(ctx)
	if !errdefs.IsNotFound(err) {
		return err
	}
	dir := filepath.Join(s.space.Dir(), "snapshots")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// Close closes the metadata. Closing twice is no error.
func (s *snapshotter) Close() error {
	return s.Snapshotter.Close()
}
