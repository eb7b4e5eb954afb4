package pool

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// device is a block device of size bytes, and a place for a pool on it.
func device(t *testing.T, size int64) (pl place, device string) {
	t.Helper()
	pooltest.NeedRoot(t)
	tmp := t.TempDir()
	device, detach, err := pooltest.Device(filepath.Join(tmp, "disk"), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := detach(); err != nil {
			t.Error(err)
		}
	})
	root := filepath.Join(tmp, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	return placeIn(t, root), device
}

func (pl place) openDevice(t *testing.T, device string) *Pool {
	t.Helper()
	p, err := OpenDevice(t.Context(), device, pl.dir, small)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// deviceFails opens the pool on a device, which must fail as in fails and must leave
// the device as it was.
func (pl place) deviceFails(t *testing.T, device string, is func(error) bool, says ...string) {
	t.Helper()
	before := head(t, device)
	failsLeaving(t, pl.root, func() error {
		_, err := OpenDevice(t.Context(), device, pl.dir, small)
		return err
	}, is, says...)
	if head(t, device) != before {
		t.Errorf("%s was written to", device)
	}
}

// head is the first mebibyte of a device.
func head(t *testing.T, device string) string {
	t.Helper()
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, miB)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

func TestDevice(t *testing.T) {
	pl, dev := device(t, minImage)
	// Administrators name devices by links, as in /dev/disk/by-id.
	link := filepath.Join(t.TempDir(), "by-id")
	if err := os.Symlink(dev, link); err != nil {
		t.Fatal(err)
	}
	pl.openDevice(t, link)
	put(t, filepath.Join(pl.dir, "f"), "kept")
	p := pl.openDevice(t, dev) // adopted
	wants(t, filepath.Join(pl.dir, "f"), "kept")
	if err := errors.Join(p.Grow(t.Context()), p.Admit(t.Context())); err != nil {
		t.Error(err)
	}
	pl.close(t)
	pl.openDevice(t, dev) // mounted again, not made again
	wants(t, filepath.Join(pl.dir, "f"), "kept")
}

// TestDeviceGrows finds a volume that the administrator enlarged.
func TestDeviceGrows(t *testing.T) {
	pl, dev := device(t, minImage)
	before := stats(t, pl.openDevice(t, dev))
	disk := filepath.Join(filepath.Dir(pl.root), "disk")
	if err := os.Truncate(disk, minImage+64*miB); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		t.Fatal(err)
	}
	if got := stats(t, pl.openDevice(t, dev)).Size - before.Size; got != 64*miB {
		t.Errorf("the file system grew by %d bytes, want 64 MiB", got)
	}
}

func TestDeviceOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		mkfs []string
		says []string
	}{
		"ext4":         {[]string{"mkfs.ext4", "-q"}, []string{"not blank", "ext4", "wipefs"}},
		"swap":         {[]string{"mkswap"}, []string{"not blank", "swap", "wipefs"}},
		"an XFS":       {[]string{"mkfs.xfs", "-q"}, []string{"somebody else's"}},
		"XFS labelled": {[]string{"mkfs.xfs", "-q", "-L", "data"}, []string{`"data"`, "somebody else's"}},
		"later pool":   {[]string{"mkfs.xfs", "-q", "-L", "baoverlay/2"}, []string{`"baoverlay/2"`, "use the release that made it"}},
		"no reflinks":  {[]string{"mkfs.xfs", "-q", "-L", Label, "-m", "reflink=0"}, []string{"without reflink=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			pl, dev := device(t, minImage)
			run(t, c.mkfs[0], append(c.mkfs[1:], dev)...)
			pl.deviceFails(t, dev, errdefs.IsFailedPrecondition, append(c.says, dev)...)
		})
	}
}

func TestDeviceInUse(t *testing.T) {
	pl, dev := device(t, minImage)
	pl.openDevice(t, dev)
	other := placeIn(t, t.TempDir())
	other.deviceFails(t, dev, errdefs.IsFailedPrecondition, "in use", dev)
}

func TestOtherDeviceAtDir(t *testing.T) {
	pl, dev := device(t, minImage)
	pl.openDevice(t, dev)
	_, other := device(t, minImage)
	pl.deviceFails(t, other, errdefs.IsFailedPrecondition, "not this pool")
}

func TestNoDevice(t *testing.T) {
	pl := newPlace(t)
	failsLeaving(t, pl.root, func() error {
		_, err := OpenDevice(t.Context(), filepath.Join(pl.root, "none"), pl.dir, small)
		return err
	}, func(err error) bool { return errors.Is(err, fs.ErrNotExist) }, "the pool's device")
	// A name that was meant for a device is of a file now: mkfs must not have it.
	file := filepath.Join(pl.root, "file")
	put(t, file, "precious")
	if err := os.Truncate(file, minImage); err != nil {
		t.Fatal(err)
	}
	precious := head(t, file)
	failsLeaving(t, pl.root, func() error {
		_, err := OpenDevice(t.Context(), file, pl.dir, small)
		return err
	}, errdefs.IsFailedPrecondition, file, "no block device")
	if head(t, file) != precious {
		t.Error("the file was written to")
	}
}

// TestDeviceHalfFormatted starts after a kill while mkfs ran.
func TestDeviceHalfFormatted(t *testing.T) {
	t.Run("ours", func(t *testing.T) {
		pl, dev := device(t, minImage)
		if err := format(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		editSuperblock(t, dev, func(head []byte) { head[sbInProgress] = 1 })
		pl.openDevice(t, dev)
		put(t, filepath.Join(pl.dir, "f"), "works")
		pl.close(t)
		pl.openDevice(t, dev)
		wants(t, filepath.Join(pl.dir, "f"), "works")
	})
	t.Run("before the superblock", func(t *testing.T) {
		pl, dev := device(t, minImage)
		if err := format(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		edit(t, dev, 0, make([]byte, 4096))
		pl.deviceFails(t, dev, errdefs.IsFailedPrecondition, "data of an unknown kind", dev)
		put(t, pl.dir+".formatting", dev)
		pl.openDevice(t, dev)
		if _, err := os.Stat(pl.dir + ".formatting"); !os.IsNotExist(err) {
			t.Error("the note that the device is being formatted is still there")
		}
	})
	t.Run("somebody's", func(t *testing.T) {
		pl, dev := device(t, minImage)
		run(t, "mkfs.xfs", "-q", "-s", "size=4096", "-L", "data", dev)
		editSuperblock(t, dev, func(head []byte) { head[sbInProgress] = 1 })
		pl.deviceFails(t, dev, errdefs.IsDataLoss, "mkfs did not finish")
	})
	t.Run("damaged", func(t *testing.T) {
		pl, dev := device(t, minImage)
		if err := format(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		edit(t, dev, 4000, []byte{1})
		pl.deviceFails(t, dev, errdefs.IsDataLoss, "damaged", "xfs_repair")
	})
}

// TestDeviceTooSmall has no room for the file system's own structures.
func TestDeviceTooSmall(t *testing.T) {
	pl, dev := device(t, miB)
	pl.deviceFails(t, dev, errdefs.IsFailedPrecondition, "1MiB", "at least 512MiB", dev)
}
