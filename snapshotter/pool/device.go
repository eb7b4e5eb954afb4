package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// OpenDevice opens the pool on a block device at dir, formatting the device if,
// and only if, nothing is on it. Errors as OpenImage.
func OpenDevice(ctx context.Context, device, dir string, limits Limits) (*Pool, error) {
	device, err := filepath.EvalSymlinks(device)
	if err != nil {
		return nil, fmt.Errorf("the pool's device: %w", err)
	}
	if block, err := sameDevice(device, device); err != nil {
		return nil, err
	} else if !block {
		return nil, fmt.Errorf("the pool's device %s is no block device: %w", device, errdefs.ErrFailedPrecondition)
	}
	p := &Pool{dir: dir, device: device, limits: limits}
	return p.open(ctx, p.mountDevice, func(source string) (bool, error) {
		return sameDevice(source, device)
	})
}

func (p *Pool) mountDevice(ctx context.Context) error {
	if err := p.emptyDir(); err != nil {
		return err
	}
	// O_EXCL on a block device fails while it is mounted or claimed.
	dev, err := os.OpenFile(p.device, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("the pool's device %s is in use, mounted or claimed by another: %w", p.device, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("open the pool's device: %w", err)
	}
	sb, err := readSuperblock(dev)
	dev.Close()
	size, serr := deviceSize(p.device)
	if serr != nil {
		return serr
	}
	switch {
	case errors.Is(err, errUnfinished) && sb.Label == Label:
		// An earlier start was killed while it formatted.
		if err := format(ctx, p.device); err != nil {
			return err
		}
	case errors.Is(err, errNotXFS):
		note, _ := os.ReadFile(p.formatting())
		if err := blank(ctx, p.device, string(note) == p.device); err != nil {
			return err
		}
		if size < minImage {
			return fmt.Errorf("the pool's device %s has %s and a pool takes at least %s: %w",
				p.device, units.BytesSize(float64(size)), units.BytesSize(float64(minImage)), errdefs.ErrFailedPrecondition)
		}
		// The note says to a start after a kill what the half of a file system is.
		if err := os.WriteFile(p.formatting(), []byte(p.device), 0o600); err != nil {
			return fmt.Errorf("note that %s is being formatted: %w", p.device, err)
		}
		if err := format(ctx, p.device); err != nil {
			return err
		}
	case err != nil:
		return explain(p.device, err)
	default:
		if err := sb.usable(size); err != nil {
			return explain(p.device, err)
		}
	}
	if err := p.mount(p.device); err != nil {
		return err
	}
	if err := os.Remove(p.formatting()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// formatting is the file that is there while a device is formatted.
func (p *Pool) formatting() string { return p.dir + ".formatting" }

// blank says what is on a device that ought to have nothing on it.
// half admits data of no known kind: an earlier start was killed while it formatted.
func blank(ctx context.Context, device string, half bool) error {
	out, err := exec.CommandContext(ctx, "blkid", "-p", device).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 {
		if half {
			return nil
		}
		return zeroed(device) // no signature found, but data without one is data
	}
	if err != nil {
		return fmt.Errorf("blkid %s: %w: %s", device, err, strings.TrimSpace(string(out)))
	}
	return fmt.Errorf("the pool's device is not blank (%s); choose another, or wipe it with wipefs -a if it may go: %w",
		strings.TrimSpace(string(out)), errdefs.ErrFailedPrecondition)
}

// zeroed says what is at the start of a device that blkid knows nothing about.
func zeroed(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("open the pool's device: %w", err)
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, miB))
	if err != nil {
		return fmt.Errorf("read %s: %w", device, err)
	}
	if len(bytes.TrimLeft(head, "\x00")) > 0 {
		return fmt.Errorf("the pool's device %s is not blank: it has data of an unknown kind; choose another, or zero its first MiB if it may go: %w",
			device, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func sameDevice(a, b string) (bool, error) {
	var x, y unix.Stat_t
	if err := unix.Stat(a, &x); err != nil {
		return false, &os.PathError{Op: "stat", Path: a, Err: err}
	}
	if err := unix.Stat(b, &y); err != nil {
		return false, &os.PathError{Op: "stat", Path: b, Err: err}
	}
	return x.Mode&unix.S_IFMT == unix.S_IFBLK && y.Mode&unix.S_IFMT == unix.S_IFBLK && x.Rdev == y.Rdev, nil
}

func deviceSize(device string) (int64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, fmt.Errorf("open the pool's device: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", device, err)
	}
	return size, nil
}
