package pool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const xfsMagic = 0x58465342

// mountedAt returns the topmost mount at target, nil where there is none.
func mountedAt(target string) (*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	if len(mounts) == 0 {
		return nil, nil
	}
	return mounts[len(mounts)-1], nil
}

// mountXFS mounts device at target in the host's mount namespace, so that the
// mount outlives the caller and containerd sees it. Where the caller lives in
// another namespace and the mount does not propagate to it, it is mounted there
// as well: the same file system twice, not a copy.
func mountXFS(device, target string, options string) error {
	mount := func() error {
		if err := unix.Mount(device, target, "xfs", 0, options); err != nil {
			return fmt.Errorf("mount %s at %s: %w", device, target, err)
		}
		return nil
	}
	if inHost, err := inHostMountNS(); err != nil {
		return err
	} else if inHost {
		return mount()
	}
	// A host namespace that may not be entered leaves the caller's own.
	if err := doInHostMountNS(mount); err != nil && !errors.Is(err, os.ErrPermission) {
		return err
	}
	if at, err := mountedAt(target); err != nil || at != nil {
		return err
	}
	return mount()
}

// unmount takes target out of the host's mount namespace and the caller's.
func unmount(target string) error {
	one := func() error {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
		return nil
	}
	if inHost, err := inHostMountNS(); err != nil {
		return err
	} else if !inHost {
		if err := doInHostMountNS(one); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	return one()
}

// inHostMountNS reports whether the caller's mount namespace is that of process 1.
// Mount tables may be compared where /proc/1/ns may not be looked at; a mount's ID
// is the same in no two namespaces.
func inHostMountNS() (bool, error) {
	first := func(table string) (string, error) {
		b, err := os.ReadFile(table)
		if err != nil {
			return "", fmt.Errorf("read the mount table: %w", err)
		}
		id, _, _ := strings.Cut(string(b), " ")
		return id, nil
	}
	host, err := first("/proc/1/mountinfo")
	if err != nil {
		return false, err
	}
	own, err := first("/proc/self/mountinfo")
	return own == host, err
}

// doInHostMountNS runs fn in the mount namespace of process 1. It runs on a thread
// of its own that ends with it: a thread can't come back to sharing its file
// system state with the others.
func doInHostMountNS(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread can't end and must stay where it is; held here, it
			// is not the next one either.
			defer runtime.UnlockOSThread()
			done <- doInHostMountNS(fn)
			return
		}
		done <- func() error {
			ns, err := os.Open("/proc/1/ns/mnt")
			if err != nil {
				return fmt.Errorf("open the host's mount namespace: %w", err)
			}
			defer ns.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare file system state: %w", err)
			}
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter the host's mount namespace: %w", err)
			}
			return fn()
		}()
	}()
	return <-done
}

// space is the size and the free bytes of the file system that holds path.
func space(path string) (size, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

func isXFS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == xfsMagic
}

// syncfs writes everything of the file system at path to its disk.
func syncfs(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: path, Err: err}
	}
	return nil
}

// syncDir makes a rename in the directory of path durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Size is how many bytes the file system that holds path has in all.
func Size(path string) (int64, error) {
	size, _, err := space(path)
	return size, err
}
