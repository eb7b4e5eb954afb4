package offer

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// makeNamespace makes a network namespace, with lo up, that a bind mount on path holds.
// The file is made, and must not be there. After an error there may be the file.
func makeNamespace(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the file to mount a network namespace on: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w; raise user.max_net_namespaces if there are too many", err)
		}
		// LOOPBACK_IFINDEX of include/net/net_namespace.h.
		if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}); err != nil {
			return fmt.Errorf("bring up lo in a new network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount a network namespace on %s: %w", path, err)
		}
		return nil
	})
}

// onOwnThread runs f on an OS thread that ends with it. Whatever f changes of its thread,
// nobody else runs on that.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread can't end before it, and is what /proc/PID shows.
			// While it is locked here, another runs f.
			result <- onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		result <- f() // and still locked, so the thread ends
	}()
	return <-result
}

// checkNamespace is an error unless a network namespace is mounted on path.
func checkNamespace(path string) error {
	// Not to wait if it is a FIFO.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("%s is no namespace: %w", path, err)
	}
	if kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is no network namespace: %w", path, unix.EINVAL)
	}
	return nil
}

// unmount takes off all that is mounted on path, also while it is open somewhere. Nothing
// there is no error.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil: // there may be another mount below
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}
