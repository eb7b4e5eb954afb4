package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// withoutUnified makes a hybrid of cgroup v1 and v2, which crun 1.8 refuses, look like v1
// alone, until restore is called. It does so only where no other mount namespace sees it,
// and does nothing where there is no hybrid.
func withoutUnified() (restore func() error, err error) {
	restore = func() error { return nil }
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(cgroupRoot))
	if err != nil {
		return restore, fmt.Errorf("look for a hybrid of cgroups: %w", err)
	}
	hybrid := false
	for _, m := range mounts {
		if strings.Contains(m.Optional, "shared:") {
			return restore, fmt.Errorf("cgroup v2 beside v1 can't be hidden from crun, as others see what is mounted at %s: run in a mount namespace", m.Mountpoint)
		}
		hybrid = hybrid || m.Mountpoint == filepath.Join(cgroupRoot, "unified")
	}
	if !hybrid {
		return restore, nil
	}
	links, err := linksIn(cgroupRoot) // such as cpu -> cpu,cpuacct
	if err != nil {
		return restore, err
	}
	v1 := map[string]int{} // copies of mounts by name
	for _, m := range mounts {
		if m.FSType != "cgroup" {
			continue
		}
		fd, err := copyMount(m.Mountpoint, 0)
		if err != nil {
			return restore, err
		}
		defer unix.Close(fd)
		v1[filepath.Base(m.Mountpoint)] = fd
	}
	// Unmounted, not covered: who reads /proc/self/mountinfo sees what is covered, too.
	all, err := copyMount(cgroupRoot, unix.AT_RECURSIVE)
	if err != nil {
		return restore, err
	}
	if err := unix.Unmount(cgroupRoot, unix.MNT_DETACH); err != nil {
		_ = unix.Close(all)
		return restore, fmt.Errorf("unmount %s: %w", cgroupRoot, err)
	}
	mounted := false
	restore = func() error {
		defer unix.Close(all)
		var err error
		if mounted {
			err = unix.Unmount(cgroupRoot, unix.MNT_DETACH)
		}
		if err == nil {
			err = moveMount(all, cgroupRoot)
		}
		if err != nil {
			return fmt.Errorf("show cgroup v2 again: %w", err)
		}
		return nil
	}
	if err := unix.Mount("tmpfs", cgroupRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return restore, fmt.Errorf("mount cgroup v1 alone: %w", err)
	}
	mounted = true
	var errs error
	for name, fd := range v1 {
		at := filepath.Join(cgroupRoot, name)
		errs = errors.Join(errs, os.Mkdir(at, 0o755), moveMount(fd, at))
	}
	for name, to := range links {
		errs = errors.Join(errs, os.Symlink(to, filepath.Join(cgroupRoot, name)))
	}
	return restore, errs
}

// copyMount copies a mount; the copy goes with the descriptor unless moveMount puts it
// somewhere.
func copyMount(path string, flags uint) (fd int, err error) {
	fd, err = unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
	if err != nil {
		return -1, fmt.Errorf("copy the mount of %s: %w", path, err)
	}
	return fd, nil
}

func moveMount(fd int, to string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", to, err)
	}
	return nil
}

// linksIn are the symbolic links of a directory and where they lead.
func linksIn(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	links := map[string]string{}
	for _, e := range entries {
		if e.Type() != os.ModeSymlink {
			continue
		}
		if links[e.Name()], err = os.Readlink(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return links, nil
}
