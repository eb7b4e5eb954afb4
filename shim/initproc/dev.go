package initproc

import (
	"fmt"
	"path"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// fillDev makes the nodes and links that the OCI specification wants in /dev.
func fillDev(root int, devices []plan.Device) error {
	for _, d := range devices {
		if err := makeNode(root, d); err != nil {
			return fmt.Errorf("make device %s: %w", d.Path, err)
		}
	}
	dev, err := provide(root, "/dev", false)
	if err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	defer unix.Close(dev)
	links := map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	}
	if kcore, err := lookup(root, "/proc/kcore"); err == nil {
		unix.Close(kcore)
		links["core"] = "/proc/kcore"
	}
	names := make([]string, 0, len(links))
	for name := range links {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := unix.Symlinkat(links[name], dev, name); err != nil && err != unix.EEXIST {
			return fmt.Errorf("link /dev/%s: %w", name, err)
		}
	}
	// The terminals are those of the container's own devpts.
	if err := unix.Unlinkat(dev, "ptmx", 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("replace /dev/ptmx: %w", err)
	}
	if err := unix.Symlinkat("pts/ptmx", dev, "ptmx"); err != nil {
		return fmt.Errorf("link /dev/ptmx: %w", err)
	}
	return nil
}

func makeNode(root int, d plan.Device) error {
	if path.Clean(d.Path) == "/dev/ptmx" {
		return nil // a link, later
	}
	dir, err := provide(root, path.Dir(d.Path), false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := path.Base(d.Path)
	if err := unix.Mknodat(dir, name, d.Mode, int(d.Rdev)); err != nil {
		if err == unix.EEXIST {
			return nil // what the image or a mount has stays
		}
		return err
	}
	return unix.Fchownat(dir, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}

// openNull replaces what of stdio is a null device from outside by the container's, so
// that no descriptor leads to a file that isn't in it.
func openNull() error {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null in the container: %w", err)
	}
	defer unix.Close(fd)
	var null, st unix.Stat_t
	if err := unix.Fstat(fd, &null); err != nil {
		return err
	}
	for i := range 3 {
		if err := unix.Fstat(i, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == null.Rdev {
			if err := unix.Dup3(fd, i, 0); err != nil {
				return err
			}
		}
	}
	return nil
}
