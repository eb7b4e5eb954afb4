// Package pooltest makes file systems and devices for tests, and takes them away.
package pooltest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// NeedRoot skips a test that needs root. CI runs as root, where it never does.
func NeedRoot(tb testing.TB) {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("needs root: mounts file systems")
	}
}

// Device attaches a new file of size bytes to a loop device. The caller calls detach.
func Device(file string, size int64) (device string, detach func() error, err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return "", nil, err
	}
	device, err = mount.AttachLoopDevice(file)
	return device, func() error { return mount.DetachLoopDevice(device) }, err
}

// XFS makes an XFS with reflinks in a new file and mounts it at dir. Remove(dir)
// takes it away.
func XFS(ctx context.Context, file, dir string, size int64) error {
	return Mount(ctx, file, dir, size, "mkfs.xfs", "-q", "-m", "reflink=1")
}

// Mount makes a file system in a new file with a mkfs command and mounts it at dir.
func Mount(ctx context.Context, file, dir string, size int64, mkfs ...string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close(), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, mkfs[0], append(mkfs[1:], file)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", mkfs[0], err, out)
	}
	dev, err := mount.SetupLoop(file, mount.LoopParams{Autoclear: true})
	if err != nil {
		return err
	}
	defer dev.Close()
	for _, fstype := range []string{"xfs", "ext4", "btrfs"} {
		if err = unix.Mount(dev.Name(), dir, fstype, 0, ""); err == nil {
			return nil
		}
	}
	return err
}

// Remove unmounts dir. A process that was just killed may hold it for a moment yet.
func Remove(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // not mounted
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
