package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/docker/go-units"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Pool is an open pool. All methods are safe for concurrent use. There is
// nothing to close: the mount outlives the process on purpose, and Unmount takes
// it away.
type Pool struct {
	dir    string
	image  string // the image file; empty on a device and on the host
	device string // what is mounted at dir; empty on the host
	limits Limits
	quota  bool // project quotas are enforced

	grow sync.Mutex // one growth at a time
}

// Stats is the space of a pool, in bytes.
type Stats struct {
	Size, Free int64
	// HostFree is what the host's file system has left; for a pool on the host
	// or on a device it is Free.
	HostFree int64
}

// OnHost is the pool of a host whose file system needs none: dir itself. It
// keeps limits.Reserve and never grows.
func OnHost(dir string, limits Limits) (*Pool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create %s: %w", dir, err)
	}
	return &Pool{dir: dir, limits: limits}, nil
}

// OpenImage opens the pool in the image file at dir, making and mounting it as
// needed. A pool that is mounted there already is adopted, with the containers
// that run on it.
//
// Errors: ErrResourceExhausted when the host has no room for an image,
// ErrDataLoss for a damaged one, ErrFailedPrecondition for one that is another's,
// of another format or in use. Nothing half-made is left.
func OpenImage(ctx context.Context, image, dir string, limits Limits) (*Pool, error) {
	p := &Pool{dir: dir, image: image, limits: limits}
	return p.open(ctx, p.mountImage, func(source string) (bool, error) {
		devices, err := attachedTo(image)
		return slices.Contains(devices, source), err
	})
}

// open adopts the pool where it is mounted already, and mounts it where it isn't;
// isMine says whether a mount's source is this pool's medium.
func (p *Pool) open(ctx context.Context, mount func(context.Context) error, isMine func(source string) (bool, error)) (*Pool, error) {
	if err := haveTools(); err != nil {
		return nil, err
	}
	mounted, err := p.adopt(isMine)
	if err != nil {
		return nil, err
	}
	if !mounted {
		if err := mount(ctx); err != nil {
			return nil, err
		}
	}
	if p.image != "" {
		tune(p.device) // an adopted one too, of an older release
	}
	p.quota = quotasOn(p.device)
	// A growth that a crash cut short, a volume that was enlarged.
	if err := p.fill(ctx); err != nil {
		if !mounted {
			err = errors.Join(err, unmount(p.dir))
		}
		return nil, err
	}
	return p, nil
}

// Unmount takes the pool at dir out of the mount table; its loop device frees
// itself. It fails with ErrFailedPrecondition while containers use the pool, and
// succeeds when nothing is mounted.
func Unmount(dir string) error {
	at, err := mountOn(dir)
	if err != nil || at == nil {
		return err
	}
	loop := strings.HasPrefix(at.Source, "/dev/loop")
	if loop {
		untune(at.Source)
	}
	err = unmount(at.Mountpoint)
	if err != nil && loop {
		tune(at.Source)
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: containers still run on the pool: %w", err, errdefs.ErrFailedPrecondition)
	}
	return err
}

// Mounted reports whether something is mounted at dir.
func Mounted(dir string) (bool, error) {
	at, err := mountOn(dir)
	return at != nil, err
}

// mountOn is mountedAt for a path that may have symbolic links, or not be there.
func mountOn(dir string) (*mountinfo.Info, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return mountedAt(dir)
}

// Dir is the directory that the pool's file system is seen at.
func (p *Pool) Dir() string { return p.dir }

// Stats returns the pool's space now.
func (p *Pool) Stats() (Stats, error) {
	size, free, err := space(p.dir)
	if err != nil {
		return Stats{}, err
	}
	st := Stats{Size: size, Free: free, HostFree: free}
	if p.image != "" {
		if _, st.HostFree, err = space(p.image); err != nil {
			return Stats{}, err
		}
	}
	return st, nil
}

// Admit says whether a new writable snapshot may be made: nil while the pool has
// its reserve, else ErrResourceExhausted. It grows a pool that is short of space
// before it refuses.
func (p *Pool) Admit(ctx context.Context) error {
	st, err := p.Stats()
	if err != nil || st.Free >= p.limits.Reserve {
		return err
	}
	if err := p.Grow(ctx); err != nil {
		return err
	}
	if st, err = p.Stats(); err != nil || st.Free >= p.limits.Reserve {
		return err
	}
	return fmt.Errorf("%s has %s left and keeps %s in reserve for running containers; "+
		"remove images or containers, or make room on the host (%s free there, %s kept): %w",
		p.dir, units.BytesSize(float64(st.Free)), units.BytesSize(float64(p.limits.Reserve)),
		units.BytesSize(float64(st.HostFree)), units.BytesSize(float64(p.limits.HostReserve)),
		errdefs.ErrResourceExhausted)
}

// Sync writes the pool, and no other file system, to its disk.
func (p *Pool) Sync() error { return syncfs(p.dir) }

// Watch grows the pool ahead of need until ctx is done.
func (p *Pool) Watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := time.Minute
		if st, err := p.Stats(); err != nil {
			log.G(ctx).WithError(err).Warn("can't see the pool's free space")
		} else {
			next = untilFull(st.Free)
		}
		if err := p.Grow(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("the pool can't grow")
		}
		timer.Reset(next)
	}
}

// untilFull is how soon free bytes could be written by a fast disk, and so when to
// look again.
func untilFull(free int64) time.Duration {
	const bytesPerSecond = 8 * giB
	d := time.Duration(float64(free) / float64(bytesPerSecond) * float64(time.Second))
	return max(100*time.Millisecond, min(d, 10*time.Second))
}

// Grow enlarges an image that has less free than its headroom, as far as the
// limits and the host allow; having nothing to grow by is no error.
func (p *Pool) Grow(ctx context.Context) error {
	if p.image == "" {
		return nil
	}
	p.grow.Lock()
	defer p.grow.Unlock()
	st, err := p.Stats()
	if err != nil {
		return err
	}
	img, err := os.OpenFile(p.image, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the pool's image: %w", err)
	}
	defer img.Close()
	fi, err := img.Stat()
	if err != nil {
		return err
	}
	by := p.limits.growth(fi.Size(), st.Free, st.HostFree)
	if by == 0 {
		return nil
	}
	// A growth that came half-way comes first: while that fails, none is added to it.
	if err := p.fill(ctx); err != nil {
		return err
	}
	if err := allocate(img, fi.Size(), by); err != nil {
		return fmt.Errorf("allocate %s for the pool's image: %w", units.BytesSize(float64(by)), err)
	}
	if err := img.Sync(); err != nil {
		return fmt.Errorf("write the pool's image: %w", err)
	}
	if err := p.fill(ctx); err != nil {
		return err
	}
	log.G(ctx).WithField("by", units.BytesSize(float64(by))).
		WithField("size", units.BytesSize(float64(fi.Size()+by))).Info("the pool grew")
	return nil
}

// fill lets the file system span all of its medium.
func (p *Pool) fill(ctx context.Context) error {
	if p.image != "" {
		dev, err := os.OpenFile(p.device, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("open the pool's loop device: %w", err)
		}
		defer dev.Close()
		if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
			return fmt.Errorf("resize %s: %w", p.device, err)
		}
	}
	for {
		cmd := exec.CommandContext(ctx, "xfs_growfs", "-d", p.dir)
		cmd.Env = append(os.Environ(), "LC_ALL=C") // its words decide, below
		out, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		if !strings.Contains(strings.ToLower(string(out)), unix.EWOULDBLOCK.Error()) {
			return fmt.Errorf("xfs_growfs %s: %w: %s", p.dir, err, strings.TrimSpace(string(out)))
		}
		// One that a killed daemon started is still at it.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// adopt reports whether the pool is mounted at its directory already.
func (p *Pool) adopt(isMine func(source string) (bool, error)) (bool, error) {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return false, fmt.Errorf("create %s: %w", p.dir, err)
	}
	// The mount table has paths without symbolic links.
	dir, err := filepath.EvalSymlinks(p.dir)
	if err != nil {
		return false, err
	}
	p.dir = dir
	at, err := mountedAt(p.dir)
	if err != nil || at == nil {
		return false, err
	}
	mine, err := isMine(at.Source)
	if err != nil {
		return false, err
	}
	if !mine || !isXFS(p.dir) {
		return false, fmt.Errorf("%s (%s) is mounted at %s, which is not this pool; unmount it or choose another root: %w",
			at.Source, at.FSType, p.dir, errdefs.ErrFailedPrecondition)
	}
	p.device = at.Source
	return true, nil
}

func (p *Pool) mountImage(ctx context.Context) (err error) {
	if err := p.emptyDir(); err != nil {
		return err
	}
	f, err := os.Open(p.image)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := p.makeImage(ctx); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				os.Remove(p.image)
			}
		}()
	case err != nil:
		return fmt.Errorf("open the pool's image: %w", err)
	default:
		defer f.Close()
		if err := checkImage(f); err != nil {
			return err
		}
	}
	dev, err := attach(p.image)
	if err != nil {
		return err
	}
	defer dev.Close()
	p.device = dev.Name()
	return p.mount(p.image)
}

func (p *Pool) makeImage(ctx context.Context) error {
	_, free, err := space(filepath.Dir(p.image))
	if err != nil {
		return err
	}
	size := p.limits.initial(free)
	if size == 0 {
		return fmt.Errorf("a pool takes at least %s and leaves %s free, and the file system of %s has %s; make room or choose another root: %w",
			units.BytesSize(float64(minImage)), units.BytesSize(float64(p.limits.HostReserve)), p.image,
			units.BytesSize(float64(free)), errdefs.ErrResourceExhausted)
	}
	return createImage(ctx, p.image, size)
}

// checkImage says why an existing image must not be mounted.
func checkImage(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is a %s, not an image file: %w", f.Name(), fi.Mode().Type(), errdefs.ErrFailedPrecondition)
	}
	sb, err := readSuperblock(f)
	if errors.Is(err, errNotXFS) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if err == nil {
		err = sb.usable(fi.Size())
	}
	if err != nil {
		return explain(f.Name(), err)
	}
	devices, err := attachedTo(f.Name())
	if err != nil {
		return err
	}
	if len(devices) > 0 {
		return fmt.Errorf("the pool's image %s is in use: it is attached to %s; unmount and detach that first (losetup -d): %w",
			f.Name(), strings.Join(devices, ", "), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// explain adds to an error about a pool's medium what to do.
func explain(medium string, err error) error {
	if errdefs.IsDataLoss(err) || errors.Is(err, unix.EUCLEAN) {
		return fmt.Errorf("the pool %s is damaged: %w; look with xfs_repair -n, repair with xfs_repair, "+
			"or move it away to start with an empty pool: %w", medium, err, errdefs.ErrDataLoss)
	}
	return fmt.Errorf("the pool %s can't be used: %w", medium, err)
}

// mount mounts p.device; medium is what the administrator knows it by.
func (p *Pool) mount(medium string) error {
	// Quotas where the kernel has them: the max-size label needs them.
	err := mountXFS(p.device, p.dir, "prjquota")
	if errors.Is(err, unix.EINVAL) {
		err = mountXFS(p.device, p.dir, "")
	}
	if err != nil {
		return explain(medium, err)
	}
	return nil
}

// emptyDir refuses to mount over files, which would hide them.
func (p *Pool) emptyDir() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is where the pool is mounted and has files in it (%s, ...); move them away: %w",
			p.dir, entries[0].Name(), errdefs.ErrFailedPrecondition)
	}
	return nil
}
