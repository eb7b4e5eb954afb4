package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
)

// Bundle is a private containerd with every plugin of the bundle registered.
type Bundle struct {
	*Containerd
	Snapshotter *Snapshotter
	Flashcube   *Flashcube

	dir *Dir
}

// StartBundle runs the bundle's daemons from bin and a containerd of a version, with
// everything of theirs in a new directory. change, if not nil, alters the snapshotter's
// configuration. The caller calls Remove.
func StartBundle(ctx context.Context, cache, bin, version string, change func(*config.Config)) (_ *Bundle, err error) {
	b := &Bundle{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Remove(ctx))
		}
	}()
	if b.dir, err = NewDir(cache); err != nil {
		return nil, err
	}
	if b.Snapshotter, err = StartSnapshotter(ctx, bin, b.dir.Path, change); err != nil {
		return nil, err
	}
	var shims []Shim
	if _, err := os.Stat(filepath.Join(bin, "flashcubed")); err == nil {
		if b.Flashcube, err = StartFlashcube(ctx, cache, bin, b.dir.Path, nil); err != nil {
			return nil, err
		}
		shims = append(shims, b.Flashcube.Shim())
	}
	dropIn, err := b.Snapshotter.DropIn()
	if err != nil {
		return nil, err
	}
	b.Containerd, err = StartContainerd(ctx, cache, version, b.dir.Path, map[string][]byte{"baoverlay.toml": dropIn}, shims...)
	return b, err
}

// Dir is the bundle's directory on the host's disk; callers may keep files of theirs in
// it.
func (b *Bundle) Dir() string { return b.dir.Path }

// Pull pulls an image onto snapshotters, at the same time, from a registry that lives as
// long as the pull, and returns the image's name in containerd.
func (b *Bundle) Pull(ctx context.Context, image images.Image, snapshotters ...string) (ref string, err error) {
	registry, err := images.NewRegistry(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	if ref, err = registry.Push(ctx, image); err != nil {
		return "", err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range snapshotters {
		g.Go(func() error {
			_, err := b.Ctr(ctx, "image", "pull", "--plain-http", "--snapshotter", name, ref)
			return err
		})
	}
	return ref, g.Wait()
}

// Remove ends it all and deletes the directory, also after ctx is done.
func (b *Bundle) Remove(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs error
	if b.Containerd != nil && b.Containerd.Process != nil {
		errs = b.Containerd.Remove(ctx)
	}
	if b.Flashcube != nil && b.Flashcube.Process != nil {
		errs = errors.Join(errs, b.Flashcube.Remove())
	}
	if b.Snapshotter != nil && b.Snapshotter.Process != nil {
		errs = errors.Join(errs, b.Snapshotter.Remove())
	}
	if b.dir != nil {
		errs = errors.Join(errs, b.dir.Remove())
	}
	return errs
}

// Dir is a directory on the host's disk for one run.
type Dir struct {
	Path string
	lock *os.File
}

// NewDir makes a directory in the cache, and deletes those of runs that were killed.
func NewDir(cache string) (*Dir, error) {
	all := filepath.Join(cache, "run")
	if err := os.MkdirAll(all, 0o700); err != nil {
		return nil, err
	}
	// One at a time: a directory that is not locked yet looks like one of the dead.
	turn, err := os.Open(all)
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	if err := unix.Flock(int(turn.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", all, err)
	}
	entries, err := os.ReadDir(all)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dead, err := lockDir(filepath.Join(all, e.Name()))
		if err != nil {
			continue // alive
		}
		if err := dead.Remove(); err != nil {
			return nil, fmt.Errorf("delete what a killed run left: %w", err)
		}
	}
	path, err := os.MkdirTemp(all, "")
	if err != nil {
		return nil, err
	}
	return lockDir(path)
}

// lockDir claims a directory for this process, by a lock that ends with it.
func lockDir(path string) (*Dir, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Dir{path, f}, nil
}

// Remove deletes the directory and the cgroups of its containers.
func (d *Dir) Remove() error {
	return errors.Join(removeCgroups(namespaceOf(d.Path)), os.RemoveAll(d.Path), d.lock.Close())
}

// namespaceOf is the containerd namespace of the containers that run from a directory.
func namespaceOf(dir string) string { return "peregrine-" + filepath.Base(dir) }
