package initproc

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// base is where a cube keeps what it needs, in a root of its own: an empty tmpfs, with
// nothing of the host's mounts in sight.
const (
	baseDir  = "/run"  // of the host: any directory, to mount the tmpfs over
	baseProc = "/proc" // a procfs of the cube's pid namespace, that no image can fake
	baseNull = "/null"
	baseRoot = "/root" // the container's root goes here
	// baseEmpty is a read-only mount without anything, to hide directories behind.
	baseEmpty = "/empty"
	baseTemp  = "/tmp" // where a mount is made before it moves to its place
)

// prepare does in a new mount namespace, and a network namespace if that is new too,
// whatever any container needs and no image can influence, but for mountProc.
func prepare(network bool) error {
	unix.Umask(0)
	// What is mounted here must not be seen in the host.
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("cube", baseDir, "tmpfs", unix.MS_NOSUID, "mode=700,size=64k,nr_inodes=64"); err != nil {
		return fmt.Errorf("mount the cube's root: %w", err)
	}
	if err := unix.Chdir(baseDir); err != nil {
		return err
	}
	for _, dir := range []string{baseProc, baseRoot, baseTemp, baseEmpty} {
		if err := unix.Mkdir("."+dir, 0o700); err != nil {
			return fmt.Errorf("make the cube's %s: %w", dir, err)
		}
	}
	if err := unix.Mknod("."+baseNull, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return fmt.Errorf("make the cube's null device: %w", err)
	}
	if err := unix.Mount("tmpfs", "."+baseEmpty, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount the cube's empty directory: %w", err)
	}
	if err := enterRoot(); err != nil {
		return fmt.Errorf("enter the cube's root: %w", err)
	}
	if network {
		return loopbackUp()
	}
	return nil
}

// mountProc mounts the procfs of this pid namespace in a cube.
func mountProc() error {
	if err := unix.Mount("proc", baseProc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount the cube's procfs: %w", err)
	}
	return nil
}

// enterCgroups joins cgroups by their files, this thread alone: that needs none of the
// wait that moving all of a process takes. What the others do is not the container's, and
// they end with execve(2).
func enterCgroups(fds []int) error {
	for _, fd := range fds {
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return fmt.Errorf("join the cgroups: %w", err)
		}
		unix.Close(fd)
	}
	return nil
}

// enterNamespaces joins the namespaces of a list of plan.Join.
func enterNamespaces(fds []int) error {
	var joins []plan.Join
	fds, err := decode(fds, &joins)
	if err != nil {
		return err
	}
	for _, j := range joins {
		fd, err := at(fds, j.FD)
		if err != nil {
			return err
		}
		if j.Type == unix.CLONE_NEWNS {
			// It wants a thread whose root and working directory are its own.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			unix.Umask(0)
		}
		if err := unix.Setns(fd, j.Type); err != nil {
			return fmt.Errorf("join a namespace (%#x): %w", j.Type, err)
		}
		if j.Type == unix.CLONE_NEWNS {
			if err := mountProc(); err != nil {
				return err
			}
		}
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return nil
}

// enterRoot makes the working directory, a mount, the root, and lets go of the old one.
func enterRoot() error {
	err := unix.PivotRoot(".", ".")
	if errors.Is(err, unix.EINVAL) {
		// The host's root is an initramfs, which can't be pivoted away from: cover it.
		if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return err
		}
		if err := unix.Chroot("."); err != nil {
			return err
		}
		return unix.Chdir("/")
	}
	if err != nil {
		return err
	}
	// The old root lies over the new one now.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// loopbackUp brings lo up, as every new network namespace of a container has it.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if flags := req.Uint16(); flags&unix.IFF_UP == 0 {
		req.SetUint16(flags | unix.IFF_UP)
		if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
	}
	return nil
}

// writeProc writes to a file of the cube's own procfs: one in the container's root could
// be anything.
func writeProc(file, text string) error {
	fd, err := unix.Open(baseProc+"/"+file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: file, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: file, Err: err}
	}
	return nil
}
