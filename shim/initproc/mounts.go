package initproc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// inProc may be covered in a container's /proc; anything else there may not. It is
// runc's list (libcontainer/rootfs_linux.go): files that lxcfs has views of.
var inProc = []string{
	"cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo",
	"net/dev", "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
}

// mountAll does the mounts of a plan below root.
func mountAll(root int, mounts []plan.Mount, fds []int) error {
	for i := range mounts {
		if err := mount(root, &mounts[i], fds); err != nil {
			return fmt.Errorf("mount %s at %s: %w", mounts[i].Type, mounts[i].Destination, err)
		}
	}
	return nil
}

func mount(root int, m *plan.Mount, fds []int) error {
	if m.FD != plan.None {
		fd, err := at(fds, m.FD)
		if err != nil {
			return err
		}
		return attach(root, m, fd)
	}
	return mountNew(root, m)
}

// attach puts a detached mount in its place.
func attach(root int, m *plan.Mount, fd int) error {
	dest, err := provide(root, m.Destination, m.File)
	if err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	defer unix.Close(dest)
	if err := checkProc(dest, m.Proc); err != nil {
		return err
	}
	if err := move(fd, dest); err != nil {
		return err
	}
	return propagate(fd, m.Propagation)
}

// mountNew mounts a filesystem: aside, where nothing can interfere, and then moves it.
func mountNew(root int, m *plan.Mount) error {
	data := m.Data
	var dest int
	var err error
	switch m.Type {
	case "proc", "sysfs":
		// These look different from another place: only at an ordinary directory.
		if err := checkNoSymlink(root, m.Destination); err != nil {
			return err
		}
		dest, err = provide(root, m.Destination, false)
	case "tmpfs":
		// What was there lends its mode.
		if dest, err = lookup(root, m.Destination); err == nil {
			var st unix.Stat_t
			if err := unix.Fstat(dest, &st); err != nil {
				unix.Close(dest)
				return err
			}
			mode := fmt.Sprintf("mode=%04o", st.Mode&0o7777)
			if data != "" {
				data = mode + "," + data
			} else {
				data = mode
			}
		} else if err == errNotExist {
			dest, err = create(root, m.Destination, false)
		}
	default:
		dest, err = provide(root, m.Destination, false)
	}
	if err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	defer unix.Close(dest)
	if err := checkProc(dest, m.Type == "proc"); err != nil {
		return err
	}
	if err := unix.Mount(m.Source, baseTemp, m.Type, m.Flags, data); err != nil {
		return err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, baseTemp, unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for name, target := range m.Symlinks {
		if err := unix.Symlinkat(target, fd, name); err != nil && err != unix.EEXIST {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	if err := move(fd, dest); err != nil {
		return err
	}
	return propagate(fd, m.Propagation)
}

func move(fd, dest int) error {
	if err := unix.MoveMount(fd, "", dest, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

func propagate(fd int, flags []uintptr) error {
	for _, f := range flags {
		if err := unix.Mount("", procFD(fd), "", f, ""); err != nil {
			return fmt.Errorf("propagation %#x: %w", f, err)
		}
	}
	return nil
}

// procFD names a descriptor, for system calls that take a path only.
func procFD(fd int) string { return baseProc + "/self/fd/" + strconv.Itoa(fd) }

// checkProc refuses mounts that would hide what confinement rests on.
func checkProc(dest int, proc bool) error {
	path, err := whereIs(dest)
	if err != nil {
		return err
	}
	if path == "/proc" {
		if proc {
			return nil
		}
		return fmt.Errorf("only a procfs can be mounted at /proc: %w", unix.EPERM)
	}
	file, inside := strings.CutPrefix(path, "/proc/")
	if !inside || slices.Contains(inProc, file) {
		return nil
	}
	return fmt.Errorf("%s is inside /proc: %w", path, unix.EPERM)
}

// whereIs is the path of a descriptor in the container's root.
func whereIs(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(procFD(fd), buf)
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(string(buf[:n]), baseRoot), nil
}

func checkNoSymlink(root int, path string) error {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	}
	fd, err := unix.Openat2(root, path, &how)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s is no ordinary directory: %w", path, unix.ENOTDIR)
	}
	return nil
}

// mask hides what is at a path: a file behind the null device, a directory behind an
// empty one that can't be written. What isn't there needs no mask.
func mask(root int, path string) error {
	dest, err := lookup(root, path)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dest)
	var st unix.Stat_t
	if err := unix.Fstat(dest, &st); err != nil {
		return err
	}
	with := baseNull
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		with = baseEmpty
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, with, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return move(fd, dest)
}

// protect makes what is at a path read-only, by a mount of itself over itself.
func protect(root int, path string) error {
	dest, err := lookup(root, path)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dest)
	fd, err := unix.OpenTree(dest, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := readonly(fd); err != nil {
		return err
	}
	return move(fd, dest)
}

// readonly makes one mount so, whatever else it is.
func readonly(fd int) error {
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}
