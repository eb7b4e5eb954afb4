package baoverlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/snapshotter/pool"
)

// Engine names where the file system with reflinks comes from.
type Engine string

// The engines, from the best to the last resort.
const (
	// Auto takes the engine that the root was set up with, else the first below
	// that works.
	Auto Engine = "auto"
	// PoolDevice is a pool on the block device that the administrator named.
	PoolDevice Engine = "pool-device"
	// ReflinkHost uses the root's own file system, which clones.
	ReflinkHost Engine = "reflink-host"
	// PoolLoop is a pool in an image file under the root.
	PoolLoop Engine = "pool-loop"
	// Overlay is overlayfs on a file system without reflinks: right, and as slow as
	// without this snapshotter.
	Overlay Engine = "overlay"
)

// Engines are all values that Engine may have.
var Engines = []Engine{Auto, ReflinkHost, PoolDevice, PoolLoop, Overlay}

// Check says which engines there are when e is none of them.
func (e Engine) Check() error {
	if slices.Contains(Engines, e) {
		return nil
	}
	names := make([]string, len(Engines))
	for i, e := range Engines {
		names[i] = string(e)
	}
	return fmt.Errorf("unknown engine %q, want one of %s", string(e), strings.Join(names, ", "))
}

// Options say where snapshots are kept and by which engine.
type Options struct {
	Root   string
	Engine Engine
	// Device is the block device of PoolDevice.
	Device string
	// Limits bound the space, given the size in bytes of the root's file system; nil
	// stands for pool.DefaultLimits.
	Limits func(total int64) pool.Limits
}

// Choice is the outcome of choosing an engine.
type Choice struct {
	Engine Engine
	// Passed are the better engines that don't work here and why.
	Passed []string
}

// Host is what a root directory and its host offer.
type Host struct {
	// Held is the engine that snapshots in the root belong to already; empty if
	// there are none.
	Held Engine
	// Reflink and Pool say why the root's file system doesn't clone, and why no
	// pool can be made; nil if they work.
	Reflink, Pool error
}

// Choose picks the engine. It is pure. An engine that was asked for and doesn't
// work, or that would hide the snapshots of another, is ErrFailedPrecondition.
func Choose(want Engine, device string, h Host) (Choice, error) {
	if err := want.Check(); err != nil {
		return Choice{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if want == Auto && device != "" {
		want = PoolDevice // naming a device means it
	}
	if h.Held != "" {
		if want != Auto && want != h.Held && !(onHost(want) && onHost(h.Held)) {
			return Choice{}, fmt.Errorf("the root has snapshots of engine %s, which %s would hide: "+
				"remove them first, or choose another root: %w", h.Held, want, errdefs.ErrFailedPrecondition)
		}
		if want == Auto {
			want = h.Held
			if want == Overlay && h.Reflink == nil {
				want = ReflinkHost
			}
		}
	}
	if want == PoolDevice && device == "" {
		return Choice{}, fmt.Errorf("engine %s needs the name of a device: %w", want, errdefs.ErrInvalidArgument)
	}
	broken := func(err error) (Choice, error) {
		return Choice{}, fmt.Errorf("engine %s doesn't work here: %w: %w", want, err, errdefs.ErrFailedPrecondition)
	}
	switch want {
	case ReflinkHost:
		if h.Reflink != nil {
			return broken(h.Reflink)
		}
	case PoolLoop:
		if h.Pool != nil {
			return broken(h.Pool)
		}
	case Auto:
		choice := Choice{Engine: ReflinkHost}
		if h.Reflink != nil {
			choice = Choice{PoolLoop, []string{fmt.Sprintf("%s: %v", ReflinkHost, h.Reflink)}}
			if h.Pool != nil {
				choice = Choice{Overlay, append(choice.Passed, fmt.Sprintf("%s: %v", PoolLoop, h.Pool))}
			}
		}
		return choice, nil
	}
	return Choice{Engine: want}, nil
}

func onHost(e Engine) bool { return e == ReflinkHost || e == Overlay }

// Probe looks at a root directory, which exists, and its host.
func Probe(root string) (Host, error) {
	held, err := held(root)
	if err != nil {
		return Host{}, err
	}
	h := Host{Held: held, Pool: pool.Supported()}
	if h.Reflink = clones(root); h.Reflink == nil {
		h.Reflink = overlayutils.Supported(root)
	}
	return h, nil
}

// Open chooses the engine and opens its space. Where the best engine turns out not
// to work at all, Auto takes the next; a pool that is full, damaged or in use is an
// error and never a reason to start without it.
func Open(ctx context.Context, opts Options) (*pool.Pool, Choice, error) {
	if err := os.MkdirAll(opts.Root, 0o700); err != nil {
		return nil, Choice{}, fmt.Errorf("create the root: %w", err)
	}
	if err := unix.Access(opts.Root, unix.W_OK); err != nil {
		return nil, Choice{}, fmt.Errorf("the root %s can't be written to (%w); make it writable or choose another root", opts.Root, err)
	}
	if opts.Limits == nil {
		opts.Limits = pool.DefaultLimits
	}
	total, err := pool.Size(opts.Root)
	if err != nil {
		return nil, Choice{}, err
	}
	limits := opts.Limits(total)
	for _, dir := range []string{opts.Root, hostDir(opts.Root)} {
		if err := removeChecks(dir); err != nil {
			return nil, Choice{}, err
		}
	}
	host, err := Probe(opts.Root)
	if err != nil {
		return nil, Choice{}, err
	}
	choice, err := Choose(opts.Engine, opts.Device, host)
	if err != nil {
		return nil, Choice{}, err
	}
	p, err := open(ctx, choice.Engine, opts, limits)
	if errdefs.IsNotImplemented(err) && opts.Engine == Auto && opts.Device == "" && host.Held == "" {
		choice = Choice{Overlay, append(choice.Passed, fmt.Sprintf("%s: %v", choice.Engine, err))}
		p, err = open(ctx, choice.Engine, opts, limits)
	}
	if err != nil {
		return nil, Choice{}, err
	}
	return p, choice, record(opts.Root, choice.Engine)
}

func open(ctx context.Context, engine Engine, opts Options, limits pool.Limits) (*pool.Pool, error) {
	switch engine {
	case PoolLoop:
		return pool.OpenImage(ctx, imageFile(opts.Root), PoolDir(opts.Root), limits)
	case PoolDevice:
		return pool.OpenDevice(ctx, opts.Device, PoolDir(opts.Root), limits)
	default:
		dir := hostDir(opts.Root)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("create %s: %w", dir, err)
		}
		if err := overlayutils.Supported(dir); err != nil {
			return nil, fmt.Errorf("overlayfs doesn't work on %s: %w", dir, err)
		}
		return pool.OnHost(dir, limits)
	}
}

// The files of a root. A pool and a host engine never share a directory, so that
// mounting the one can't hide the other.

// PoolDir is where the pool of a root is mounted.
func PoolDir(root string) string    { return filepath.Join(root, "pool") }
func imageFile(root string) string  { return filepath.Join(root, "pool.img") }
func hostDir(root string) string    { return filepath.Join(root, "host") }
func engineFile(root string) string { return filepath.Join(root, "engine") }

// Files is everything that the snapshotter keeps in a root.
func Files(root string) []string {
	return []string{
		PoolDir(root), PoolDir(root) + ".formatting", imageFile(root), imageFile(root) + ".new", hostDir(root),
		engineFile(root), engineFile(root) + ".new", filepath.Join(root, "lock"),
	}
}

// held reads which engine the snapshots in root belong to.
func held(root string) (Engine, error) {
	if _, err := os.Lstat(imageFile(root)); err == nil {
		return PoolLoop, nil
	}
	if entries, err := os.ReadDir(filepath.Join(hostDir(root), "snapshots")); err == nil && len(entries) > 0 {
		return Overlay, nil
	}
	text, err := os.ReadFile(engineFile(root))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	// Only a device leaves nothing else in the root.
	if Engine(strings.TrimSpace(string(text))) == PoolDevice {
		return PoolDevice, nil
	}
	return "", nil
}

// record notes the engine for the next start, all of it or nothing.
func record(root string, engine Engine) error {
	file := engineFile(root)
	if text, err := os.ReadFile(file); err == nil && string(text) == string(engine)+"\n" {
		return nil
	}
	if err := os.WriteFile(file+".new", []byte(engine+"\n"), 0o600); err != nil {
		return fmt.Errorf("note the engine: %w", err)
	}
	return os.Rename(file+".new", file)
}

// clones says why the file system of dir can't share blocks between files. The files
// that it tries with have no names, so that a kill leaves none.
func clones(dir string) error {
	none := func(err error) error {
		return fmt.Errorf("the file system of %s has no reflinks (%v): %w", dir, err, errdefs.ErrNotImplemented)
	}
	var files [2]*os.File
	for i := range files {
		f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return none(err) // those that clone under overlayfs have such files
		}
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	if _, err := files[0].Write(make([]byte, 4096)); err != nil {
		return err
	}
	if err := unix.IoctlFileClone(int(files[1].Fd()), int(files[0].Fd())); err != nil {
		return none(err)
	}
	return nil
}

// removeChecks takes away what overlayutils.Supported leaves in dir when it is killed: a
// directory with a mount in it. The caller holds the root's lock.
func removeChecks(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "multiple-lowerdir-check*"))
	if err != nil {
		return err
	}
	for _, check := range left {
		if err := unix.Unmount(filepath.Join(check, "merged"), unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount what a kill left: %w", err)
		}
		if err := os.RemoveAll(check); err != nil {
			return err
		}
	}
	return nil
}
