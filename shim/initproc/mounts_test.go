package initproc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// cubed runs f on a thread in a cube's root, with a tmpfs at baseRoot as the container's
// root; root is that.
func cubed(t *testing.T, entries []string, f func(root int) error) {
	t.Helper()
	aside(t, func() error {
		if err := prepare(false); err != nil {
			return err
		}
		if err := mountProc(); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", baseRoot, "tmpfs", 0, ""); err != nil {
			return err
		}
		for _, e := range entries {
			name, target, link := strings.Cut(e, ">")
			path := baseRoot + "/" + name
			var err error
			switch {
			case link:
				err = os.Symlink(target, path)
			case strings.HasSuffix(name, "/"):
				err = os.MkdirAll(path, 0o751)
			default:
				err = os.WriteFile(path, []byte(name), 0o644)
			}
			if err != nil {
				return err
			}
		}
		root, err := unix.Open(baseRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(root)
		return f(root)
	})
}

// TestPrepare: nothing of the host is in a cube's root.
func TestPrepare(t *testing.T) {
	aside(t, func() error {
		if err := errors.Join(prepare(true), mountProc()); err != nil {
			return err
		}
		list, err := os.ReadDir("/")
		if err != nil {
			return err
		}
		var names []string
		for _, e := range list {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != "empty null proc root tmp" {
			return errors.New(got)
		}
		text, err := os.ReadFile("/proc/thread-self/mountinfo")
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), "\n"); n != 3 {
			return fmt.Errorf("%d mounts: %s", n, text)
		}
		return nil
	})
}

func TestMask(t *testing.T) {
	entries := []string{"dir/sub/", "file", "link>/dir", "up>../../../file", "loop>loop"}
	cubed(t, entries, func(root int) error {
		for _, path := range []string{"/link", "/file", "/no", "/file/no", "/no/no", "/up"} {
			if err := mask(root, path); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		if err := mask(root, "/loop"); err != unix.ELOOP {
			return fmt.Errorf("loop: %w", err)
		}
		list, err := os.ReadDir(baseRoot + "/dir")
		if err != nil || len(list) > 0 {
			return fmt.Errorf("dir has %v, %w", list, err)
		}
		if err := os.Mkdir(baseRoot+"/dir/new", 0o755); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("mkdir: %w", err)
		}
		text, err := os.ReadFile(baseRoot + "/file")
		if err != nil || len(text) > 0 {
			return fmt.Errorf("file has %q, %w", text, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(baseRoot+"/file", &st); err != nil || st.Rdev != unix.Mkdev(1, 3) {
			return fmt.Errorf("%#x, %w", st.Rdev, err)
		}
		if _, err := os.Stat(baseTemp + "/x"); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}

func TestProtect(t *testing.T) {
	cubed(t, []string{"dir/sub/", "file", "link>dir", "rest/"}, func(root int) error {
		if err := unix.Mount("tmpfs", baseRoot+"/dir/sub", "tmpfs", unix.MS_NOSUID, ""); err != nil {
			return err
		}
		for _, path := range []string{"/link", "/file", "/no"} {
			if err := protect(root, path); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		if err := os.Mkdir(baseRoot+"/dir/x", 0o755); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("dir: %w", err)
		}
		if err := os.WriteFile(baseRoot+"/file", nil, 0o644); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("file: %w", err)
		}
		// As with runc, what is mounted below stays as it is, and so does the rest.
		if err := os.Mkdir(baseRoot+"/dir/sub/x", 0o755); err != nil {
			return err
		}
		return os.Mkdir(baseRoot+"/rest/x", 0o755)
	})
}

func TestMountAll(t *testing.T) {
	entries := []string{"target/", "link>/target", "run/", "away>/proc", "procs/"}
	cubed(t, entries, func(root int) error {
		if err := os.Chmod(baseRoot+"/run", 0o1731); err != nil {
			return err
		}
		tree, err := unix.OpenTree(unix.AT_FDCWD, baseNull, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(tree)
		none := plan.Mount{FD: plan.None}
		of := func(change func(*plan.Mount)) plan.Mount { m := none; change(&m); return m }
		err = mountAll(root, []plan.Mount{
			of(func(m *plan.Mount) { m.Type, m.Destination = "proc", "/proc" }),
			of(func(m *plan.Mount) { m.Type, m.Destination, m.Data = "tmpfs", "/link/made", "mode=711" }),
			of(func(m *plan.Mount) { m.Type, m.Destination = "tmpfs", "/run" }),
			of(func(m *plan.Mount) {
				m.Type, m.Destination, m.Symlinks = "tmpfs", "/run/cg", map[string]string{"cpu": "cpu,cpuacct"}
			}),
			of(func(m *plan.Mount) { m.Type, m.FD, m.File, m.Destination = "bind", 0, true, "/run/null" }),
		}, []int{tree})
		if err != nil {
			return err
		}
		for path, mode := range map[string]uint32{"/target/made": unix.S_IFDIR | 0o711, "/run": unix.S_IFDIR | 0o731, "/run/null": unix.S_IFCHR | 0o666} {
			var st unix.Stat_t
			if err := unix.Stat(baseRoot+path, &st); err != nil || st.Mode != mode {
				return fmt.Errorf("%s: %#o, %w", path, st.Mode, err)
			}
		}
		if got, err := os.Readlink(baseRoot + "/run/cg/cpu"); got != "cpu,cpuacct" {
			return fmt.Errorf("%q, %w", got, err)
		}
		for _, c := range []struct {
			name string
			m    plan.Mount
			want error
		}{
			{"over /proc", of(func(m *plan.Mount) { m.Type, m.Destination = "tmpfs", "/proc" }), unix.EPERM},
			{"over /proc by a link", of(func(m *plan.Mount) { m.Type, m.Destination = "tmpfs", "/away" }), unix.EPERM},
			{"in /proc", of(func(m *plan.Mount) { m.Type, m.Destination = "tmpfs", "/away/sys" }), unix.EPERM},
			{"in /proc by dots", of(func(m *plan.Mount) { m.Type, m.Destination = "tmpfs", "/target/../proc/fs" }), unix.EPERM},
			{"proc by a link", of(func(m *plan.Mount) { m.Type, m.Destination = "proc", "/link" }), unix.ENOTDIR},
			{"sysfs by a link", of(func(m *plan.Mount) { m.Type, m.Destination = "sysfs", "/link/x" }), unix.ELOOP},
			{"no such descriptor", of(func(m *plan.Mount) { m.FD, m.Destination = 7, "/target" }), nil},
			{"no such filesystem", of(func(m *plan.Mount) { m.Type, m.Destination = "nofs", "/target" }), unix.ENODEV},
		} {
			err := mountAll(root, []plan.Mount{c.m}, []int{tree})
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		// lxcfs covers these.
		again, err := unix.OpenTree(unix.AT_FDCWD, baseNull, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(again)
		return mountAll(root, []plan.Mount{{Type: "bind", FD: 0, File: true, Destination: "/proc/uptime"}}, []int{again})
	})
}

func TestFillDev(t *testing.T) {
	devices := []plan.Device{
		{Path: "/dev/null", Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(1, 3)},
		{Path: "/dev/sub/own", Mode: unix.S_IFCHR | 0o640, Rdev: unix.Mkdev(1, 5), UID: 5, GID: 6},
		{Path: "/dev/kept", Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(1, 3)},
		{Path: "/dev/ptmx", Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(5, 2)},
	}
	cubed(t, []string{"dev/", "dev/kept", "dev/ptmx", "dev/stdin>/elsewhere"}, func(root int) error {
		for range 2 { // what is there is no error
			if err := fillDev(root, devices); err != nil {
				return err
			}
		}
		for link, want := range map[string]string{
			"fd": "/proc/self/fd", "stdin": "/elsewhere", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
		} {
			if got, err := os.Readlink(filepath.Join(baseRoot, "dev", link)); got != want {
				return fmt.Errorf("%s is %q, %w", link, got, err)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(baseRoot+"/dev/sub/own", &st); err != nil || st.Mode != unix.S_IFCHR|0o640 || st.Uid != 5 || st.Gid != 6 || st.Rdev != unix.Mkdev(1, 5) {
			return fmt.Errorf("%+v, %w", st, err)
		}
		if err := unix.Stat(baseRoot+"/dev/kept", &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return fmt.Errorf("%+v, %w", st, err)
		}
		return nil
	})
}
