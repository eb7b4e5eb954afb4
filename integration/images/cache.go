package images

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// format is part of every key: raise it when the way an archive is written
// changes.
const format = "1"

// recipe is how an image is built.
type recipe struct {
	name  string // full reference
	from  string // everything that the image is built from
	build func(context.Context, *site) (v1.Image, error)
}

// site is where one image is being built. It is for one goroutine.
type site struct {
	dir      string // CACHE/images
	base     string // what the names of the image's files begin with
	progress Progress
	scratch  []io.Closer // open until the archive is written
}

// cached returns the recipe's image, building it if the cache has none that is
// whole. cache is made if it isn't there.
func (r recipe) cached(ctx context.Context, cache string, progress Progress) (Image, error) {
	tag, err := name.NewTag(r.name, name.StrictValidation)
	if err != nil {
		return Image{}, fmt.Errorf("name of an image: %w", err)
	}
	s := &site{
		dir:      filepath.Join(cache, "images"),
		base:     filepath.Base(tag.RepositoryStr()),
		progress: progress,
	}
	key := sha256.Sum256([]byte(format + "\n" + r.name + "\n" + r.from))
	path := filepath.Join(s.dir, fmt.Sprintf("%s.%x.tar", s.base, key[:8]))
	if image, err := inspect(path); err == nil {
		return image, nil
	}

	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return Image{}, fmt.Errorf("make the cache of images: %w", err)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	// Whoever held the lock may have built it.
	if image, err := inspect(path); err == nil {
		return image, nil
	}
	if err := s.build(ctx, r, path); err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", r.name, err)
	}
	return inspect(path)
}

// build makes the archive at path, replacing what is there. The caller holds the
// lock.
func (s *site) build(ctx context.Context, r recipe, path string) (err error) {
	s.sweep()
	defer func() {
		for _, file := range s.scratch {
			err = errors.Join(err, file.Close())
		}
		s.sweep()
	}()

	image, err := r.build(ctx, s)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(s.dir, s.base+".*.tmp")
	if err != nil {
		return fmt.Errorf("make the archive: %w", err)
	}
	if err := s.writeArchive(ctx, file, r.name, image); err != nil {
		return errors.Join(err, file.Close())
	}
	// On disk before it has its name: a power failure must not leave a name
	// with half an archive.
	if err := errors.Join(file.Chmod(0o644), file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("finish the archive: %w", err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("name the archive: %w", err)
	}
	return nil
}

// sweep removes what a build of this image left unfinished, be it this one or one
// that was killed. The caller holds the lock, so nobody else is at work on it.
func (s *site) sweep() {
	// The pattern has no error in it. What can't be removed does no harm: it is
	// never read, and the next build tries again.
	left, _ := filepath.Glob(filepath.Join(s.dir, s.base+".*.tmp"))
	for _, path := range left {
		_ = os.Remove(path)
	}
}

// lock waits until no other process and no other goroutine builds this image. The
// kernel drops the lock of a process that dies. The lock file stays: removing it
// would let two builders lock two files of the same name.
func (s *site) lock(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(s.dir, s.base+".lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock of image %s: %w", s.base, err)
	}
	for waiting := false; ; waiting = true {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		if !waiting {
			s.progress.tell("waiting for another process that builds "+s.base, 0, 0)
		}
		select {
		case <-ctx.Done():
			err := fmt.Errorf("wait for another process that builds image %s: %w", s.base, ctx.Err())
			return nil, errors.Join(err, file.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// layer makes a layer of the tar that write writes. It lies in a file without a
// name, which is there until the image is built. size is how many bytes to
// expect, for the progress only, or 0.
func (s *site) layer(ctx context.Context, step string, size int64, write func(io.Writer) error) (v1.Layer, error) {
	file, err := os.CreateTemp(s.dir, s.base+".*.tmp")
	if err != nil {
		return nil, fmt.Errorf("make a layer: %w", err)
	}
	s.scratch = append(s.scratch, file)
	if err := os.Remove(file.Name()); err != nil {
		return nil, fmt.Errorf("make a layer: %w", err)
	}
	s.progress.tell(step, 0, size)
	hash := sha256.New()
	out := &meter{ctx: ctx, w: io.MultiWriter(file, hash), progress: s.progress, step: step, total: size}
	if err := write(out); err != nil {
		return nil, fmt.Errorf("%s: %w", step, err)
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", hash.Sum(nil))}
	return blob{SectionReader: io.NewSectionReader(file, 0, out.done), digest: digest}, nil
}
