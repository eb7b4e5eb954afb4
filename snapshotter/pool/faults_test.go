package pool

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// tools makes a PATH of a few programs.
func tools(t *testing.T, names ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestToolsMissing(t *testing.T) {
	pl := newPlace(t)
	t.Run("mkfs.xfs", func(t *testing.T) {
		tools(t)
		pl.fails(t, errdefs.IsNotImplemented, "mkfs.xfs", "install xfsprogs")
	})
	t.Run("xfs_growfs", func(t *testing.T) {
		tools(t, "mkfs.xfs")
		pl.fails(t, errdefs.IsNotImplemented, "xfs_growfs", "install xfsprogs")
	})
}

// broken puts a program on PATH that fails.
func broken(t *testing.T, name string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho it broke >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestToolsFail(t *testing.T) {
	exited := func(err error) bool { _, ok := errors.AsType[*exec.ExitError](err); return ok }
	t.Run("mkfs.xfs", func(t *testing.T) {
		pl := newPlace(t)
		broken(t, "mkfs.xfs")
		pl.fails(t, exited, "mkfs.xfs", "it broke")
	})
	t.Run("xfs_growfs", func(t *testing.T) {
		pl := newPlace(t)
		pl.open(t, small)
		pl.close(t)
		broken(t, "xfs_growfs")
		pl.fails(t, exited, "xfs_growfs", "it broke")
	})
}

func TestNoSpaceForAnImage(t *testing.T) {
	pl := placeOn(t, 300*miB)
	pl.fails(t, errdefs.IsResourceExhausted, "at least 512MiB", "make room or choose another root")
	// Had the host looked roomy, allocating shows that it isn't.
	failsLeaving(t, pl.root, func() error {
		return createImage(t.Context(), pl.image, minImage)
	}, errdefs.IsResourceExhausted, "allocate 512 MiB")
}

func TestDamagedImages(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, image string)
		is     func(error) bool
		says   []string
	}{
		"zeroed superblock": {func(t *testing.T, image string) {
			edit(t, image, 0, make([]byte, 4096))
		}, errdefs.IsDataLoss, []string{"damaged", "xfs_repair"}},
		"bad checksum": {func(t *testing.T, image string) {
			edit(t, image, 4000, []byte{1})
		}, errdefs.IsDataLoss, []string{"damaged", "xfs_repair", "checksum"}},
		"bad metadata": {func(t *testing.T, image string) {
			// The headers of the first allocation group and the root directory.
			edit(t, image, 4096, make([]byte, miB))
		}, errdefs.IsDataLoss, []string{"damaged", "xfs_repair"}},
		"bad log": {func(t *testing.T, image string) {
			// The log is in the middle of the disk; as written there, it is no log.
			garbage := make([]byte, 64*miB)
			for i := range garbage {
				garbage[i] = 0xa5
			}
			edit(t, image, minImage/2, garbage)
		}, errdefs.IsDataLoss, []string{"damaged", "xfs_repair"}},
		"cut short": {func(t *testing.T, image string) {
			if err := os.Truncate(image, minImage-miB); err != nil {
				t.Fatal(err)
			}
		}, errdefs.IsDataLoss, []string{"cut short"}},
		"cut to nothing": {func(t *testing.T, image string) {
			if err := os.Truncate(image, 0); err != nil {
				t.Fatal(err)
			}
		}, errdefs.IsDataLoss, []string{"damaged"}},
		"unfinished": {func(t *testing.T, image string) {
			// An image has its name only when mkfs is done: this is no crash of ours.
			editSuperblock(t, image, func(head []byte) { head[sbInProgress] = 1 })
		}, errdefs.IsDataLoss, []string{"mkfs did not finish"}},
		"another version": {func(t *testing.T, image string) {
			editSuperblock(t, image, func(head []byte) { setLabel(head, "baoverlay/2") })
		}, errdefs.IsFailedPrecondition, []string{`"baoverlay/2"`, `"baoverlay/1"`, "use the release that made it"}},
		"somebody's": {func(t *testing.T, image string) {
			editSuperblock(t, image, func(head []byte) { setLabel(head, "data") })
		}, errdefs.IsFailedPrecondition, []string{`"data"`, "somebody else's"}},
		"a directory": {func(t *testing.T, image string) {
			if err := errors.Join(os.Remove(image), os.Mkdir(image, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, errdefs.IsFailedPrecondition, []string{"not an image file"}},
	} {
		t.Run(name, func(t *testing.T) {
			pl := newPlace(t)
			pl.open(t, small)
			put(t, filepath.Join(pl.dir, "f"), "kept")
			pl.close(t)
			c.damage(t, pl.image)
			pl.fails(t, c.is, append(c.says, pl.image)...)
		})
	}
}

func TestImageInUse(t *testing.T) {
	pl := newPlace(t)
	pl.open(t, small)
	pl.close(t)
	device, err := mount.AttachLoopDevice(pl.image)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mount.DetachLoopDevice(device); err != nil {
			t.Error(err)
		}
	}()
	pl.fails(t, errdefs.IsFailedPrecondition, "in use", device, "losetup -d")
}

func TestOtherMountAtDir(t *testing.T) {
	pl := newPlace(t)
	if err := errors.Join(os.Mkdir(pl.dir, 0o700), unix.Mount("mine", pl.dir, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	pl.fails(t, errdefs.IsFailedPrecondition, "mine (tmpfs)", pl.dir, "unmount it or choose another root")
}

func TestOtherPoolAtDir(t *testing.T) {
	pl := newPlace(t)
	other := placeIn(t, t.TempDir())
	pl.open(t, small)
	failsLeaving(t, other.root, func() error {
		_, err := OpenImage(t.Context(), pl.image, other.dir, small)
		return err
	}, errdefs.IsFailedPrecondition, "in use")
	put(t, other.image, "")
	failsLeaving(t, other.root, func() error {
		_, err := OpenImage(t.Context(), other.image, pl.dir, small)
		return err
	}, errdefs.IsFailedPrecondition, "not this pool")
}

// TestImageDeleted loses the image's name while the pool is mounted: a second image must
// not be made beside it.
func TestImageDeleted(t *testing.T) {
	pl := newPlace(t)
	pl.open(t, small)
	if err := os.Remove(pl.image); err != nil {
		t.Fatal(err)
	}
	pl.fails(t, errdefs.IsFailedPrecondition, "not this pool", pl.dir)
}

func TestFilesInDir(t *testing.T) {
	pl := newPlace(t)
	if err := os.Mkdir(pl.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(pl.dir, "precious"), "data")
	pl.fails(t, errdefs.IsFailedPrecondition, "precious", "move them away")
	wants(t, filepath.Join(pl.dir, "precious"), "data")
}

func TestDirIsAFile(t *testing.T) {
	pl := newPlace(t)
	put(t, pl.dir, "")
	pl.fails(t, func(err error) bool { return errors.Is(err, unix.ENOTDIR) || errors.Is(err, fs.ErrExist) }, pl.dir)
}

// TestCrashWhileMaking starts after a kill before the image had its name.
func TestCrashWhileMaking(t *testing.T) {
	pl := newPlace(t)
	put(t, pl.image+".new", "half an image")
	pl.open(t, small)
	if _, err := os.Lstat(pl.image + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s.new: %v, want it gone", pl.image, err)
	}
}
