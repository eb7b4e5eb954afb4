package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Supported says why no pool in an image file can be made on this host: nil,
// or an error that is errdefs.ErrNotImplemented and names the remedy.
func Supported() error {
	if err := haveTools(); err != nil {
		return err
	}
	if err := knowsXFS(); err != nil {
		return err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("no loop devices (%v); load the loop module: %w", err, errdefs.ErrNotImplemented)
	}
	defer control.Close()
	if _, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE); err != nil {
		return fmt.Errorf("no free loop device (%v); detach some or raise max_loop: %w", err, errdefs.ErrNotImplemented)
	}
	return nil
}

// haveTools looks for the programs that make and grow a pool, before anything is made.
func haveTools() error {
	for _, tool := range []string{"mkfs.xfs", "xfs_growfs"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not on PATH; install xfsprogs: %w", tool, errdefs.ErrNotImplemented)
		}
	}
	return nil
}

// knowsXFS asks the kernel for XFS by name, which loads the module where it is one.
func knowsXFS() error {
	fd, err := unix.Fsopen("xfs", unix.FSOPEN_CLOEXEC)
	if err == nil {
		unix.Close(fd)
		return nil
	}
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("this kernel has no XFS: %w", errdefs.ErrNotImplemented)
	}
	// Kernels before 5.2 have no fsopen; the list of file systems has what is loaded.
	list, err := os.ReadFile("/proc/filesystems")
	if err == nil && strings.Contains(string(list), "\txfs\n") {
		return nil
	}
	return fmt.Errorf("this kernel doesn't show XFS; load the xfs module: %w", errdefs.ErrNotImplemented)
}

// format makes a pool's file system on an image file or a device.
func format(ctx context.Context, path string) error {
	// -f: the caller knows that nothing is there. -K: a discard would give back the blocks that were just allocated.
	cmd := exec.CommandContext(ctx, "mkfs.xfs", "-q", "-f", "-K", "-L", Label,
		"-m", "reflink=1,crc=1", "-s", "size=4096", "-b", "size=4096", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.xfs %s: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// createImage makes an image file of size bytes, all of them allocated. The file
// appears under its name only when it is whole: a crash leaves path+".new", which
// the next call replaces.
func createImage(ctx context.Context, path string, size int64) (err error) {
	unfinished := path + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(unfinished)
		}
	}()
	f, err := os.OpenFile(unfinished, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create the pool's image: %w", err)
	}
	defer f.Close()
	if err := allocate(f, 0, size); err != nil {
		return fmt.Errorf("allocate %d MiB for the pool's image %s: %w", size/miB, path, err)
	}
	if err := promised(f, size); err != nil {
		return err
	}
	if err := format(ctx, unfinished); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write the pool's image: %w", err)
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return syncDir(path)
}

// allocate extends f by size bytes from offset, with blocks behind them. When the
// host can't, f is as long as before and the error is errdefs.ErrResourceExhausted.
func allocate(f *os.File, offset, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, offset, size)
	if err == nil {
		return nil
	}
	if terr := f.Truncate(offset); terr != nil {
		return errors.Join(err, terr)
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the file system can't allocate space ahead: %w", errdefs.ErrNotImplemented)
	}
	return err
}

// promised says that a file's blocks are not there although the file system said so, as
// ZFS does.
func promised(f *os.File, size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if st.Blocks*512 < size {
		return fmt.Errorf("the file system of %s only promises space: %w", f.Name(), errdefs.ErrNotImplemented)
	}
	return nil
}

// attach binds image to a free loop device with direct I/O. The device frees
// itself when its last user is gone, which is the mount once there is one; a crash
// before the mount leaves nothing. The caller closes the device after mounting.
func attach(image string) (*os.File, error) {
	dev, err := mount.SetupLoop(image, mount.LoopParams{Autoclear: true})
	if err != nil {
		return nil, fmt.Errorf("attach %s to a loop device: %w", image, err)
	}
	// 4 KiB blocks, so that direct I/O works on disks of 4 KiB sectors too.
	// Without direct I/O everything is right, but cached twice.
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_BLOCK_SIZE, 4096); err == nil {
		_ = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_DIRECT_IO, 1)
	}
	tune(dev.Name())
	return dev, nil
}

// tune sets what a pool's loop device does otherwise than others.
//
// It takes no discards: fstrim on the host would give back blocks of the image that were
// promised to the pool. And it completes a request where the answer is, not on the
// processor that asked, which costs an interrupt more: random reads that are not cached
// took 15 % longer with it (2 cores, virtual machine).
func tune(device string) {
	set(device, "discard_max_bytes", "0")
	set(device, "rq_affinity", "0")
}

// untune undoes tune before the device is anybody's again.
func untune(device string) {
	if most, err := os.ReadFile(queue(device, "discard_max_hw_bytes")); err == nil {
		set(device, "discard_max_bytes", string(most))
	}
	set(device, "rq_affinity", "1") // the kernel's default
}

// set sets an attribute of a device's queue, where the kernel has it.
func set(device, attribute, value string) {
	_ = os.WriteFile(queue(device, attribute), []byte(value), 0)
}

func queue(device, attribute string) string {
	return filepath.Join("/sys/block", filepath.Base(device), "queue", attribute)
}

// attachedTo lists the loop devices that image is attached to, by any name or link.
func attachedTo(image string) ([]string, error) {
	want, err := os.Stat(image)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var devices []string
	for _, file := range files {
		name, err := os.ReadFile(file)
		if err != nil {
			continue // detached meanwhile
		}
		backing, err := os.Stat(strings.TrimSuffix(string(name), "\n"))
		if err == nil && os.SameFile(want, backing) {
			devices = append(devices, "/dev/"+strings.Split(file, "/")[3])
		}
	}
	return devices, nil
}
