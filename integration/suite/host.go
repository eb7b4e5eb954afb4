package suite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// hidden are the directories of the host that a containerd with default settings writes
// to.
var hidden = []string{"/etc", "/opt"}

// HideHost lays scratch space in dir over the host's directories, so that the suite's
// containerd can write to them. It needs a mount namespace of the caller's own.
func HideHost(dir string) error {
	scratch := filepath.Join(dir, "host")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return err
	}
	// Not on the disk, which may be an overlay itself.
	if err := unix.Mount("tmpfs", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount %s: %w", scratch, err)
	}
	for _, target := range hidden {
		upper := filepath.Join(scratch, "upper"+strings.ReplaceAll(target, "/", "-"))
		work := filepath.Join(scratch, "work"+strings.ReplaceAll(target, "/", "-"))
		if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
			return err
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", target, upper, work)
		if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
			return fmt.Errorf("hide %s: %w", target, err)
		}
	}
	return nil
}

// Unmount takes away what HideHost mounted and what containerd left mounted below dir and in its state.
func Unmount(dir string) error {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(table)), "\n")
	var errs error
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		below := strings.HasPrefix(fields[1], dir+"/") || strings.HasPrefix(fields[1], state+"/")
		if !below && !strings.Contains(lines[i], "upperdir="+filepath.Join(dir, "host")+"/") {
			continue
		}
		if err := unix.Unmount(fields[1], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = errors.Join(errs, fmt.Errorf("unmount %s: %w", fields[1], err))
		}
	}
	return errs
}

// ours are the cgroups that tests make: containerd names them after its namespace, and one
// test takes the time for a name.
var ours = regexp.MustCompile(`^(testing(-.*)?|[0-9]+)$`)

// RemoveCgroups deletes the cgroups that tests, also of a run that was killed, left empty.
func RemoveCgroups() error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/*")
	if err != nil {
		return err
	}
	direct, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return err
	}
	var errs error
	for _, root := range append(roots, direct...) {
		if ours.MatchString(filepath.Base(root)) {
			errs = errors.Join(errs, removeCgroup(root))
		}
	}
	return errs
}

// removeCgroup deletes a cgroup and those below it.
func removeCgroup(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		if rm := os.Remove(dirs[i]); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove cgroup: %w", rm))
		}
	}
	return err
}
