package cube_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/cube"
)

// layers makes n layers, each with a file of its number, below dir.
func layers(tb testing.TB, dir string, n int) []string {
	tb.Helper()
	var all []string
	for i := range n {
		layer := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(layer, 0o755); err != nil {
			tb.Fatal(err)
		}
		for name, text := range map[string]string{fmt.Sprint("file", i): "", "top": fmt.Sprint(i)} {
			if err := os.WriteFile(filepath.Join(layer, name), []byte(text), 0o644); err != nil {
				tb.Fatal(err)
			}
		}
		all = append(all, layer)
	}
	return all
}

// tmpfs is a directory with a filesystem of its own.
func tmpfs(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

func overlay(tb testing.TB, dir string, lower []string, options ...string) mount.Mount {
	tb.Helper()
	for _, name := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	return mount.Mount{Type: "overlay", Source: "overlay", Options: append([]string{
		"workdir=" + filepath.Join(dir, "work"), "upperdir=" + filepath.Join(dir, "upper"), "lowerdir=" + strings.Join(lower, ":"),
	}, options...)}
}

func TestOpenRoot(t *testing.T) {
	dir := tmpfs(t)
	t.Setenv("TMPDIR", t.TempDir())
	plain := layers(t, filepath.Join(dir, "plain"), 300)
	odd := layers(t, filepath.Join(dir, "odd"), 2)
	for i, name := range []string{`with,comma`, `back\slash`} {
		to := filepath.Join(dir, name)
		if err := os.Rename(odd[i], to); err != nil {
			t.Fatal(err)
		}
		odd[i] = to
	}
	far := dir
	for range 4 {
		far = filepath.Join(far, strings.Repeat("n", 90))
	}
	long := layers(t, far, 3)
	bind := func(options ...string) mount.Mount {
		return mount.Mount{Type: "bind", Source: plain[0], Options: options}
	}
	for _, c := range []struct {
		name   string
		mounts []mount.Mount
		top    string // what is in the file of that name
		ro     bool
	}{
		{"no mounts", nil, "0", false},
		{"one layer", []mount.Mount{overlay(t, dir+"/1", plain[:1])}, "0", false},
		{"three layers", []mount.Mount{overlay(t, dir+"/3", plain[:3], "index=off")}, "0", false},
		{"300 layers", []mount.Mount{overlay(t, dir+"/300", plain)}, "0", false},
		{"far", []mount.Mount{overlay(t, dir+"/far", long)}, "0", false},
		{"backslash", []mount.Mount{overlay(t, dir+"/back", []string{strings.ReplaceAll(odd[1], `\`, `\\`), plain[5]})}, "1", false},
		{"read-only", []mount.Mount{overlay(t, dir+"/ro", plain[:2], "ro")}, "0", true},
		{"flags", []mount.Mount{overlay(t, dir+"/flags", plain[:2], "noatime", "nosuid")}, "0", false},
		{"no upper", []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + plain[2] + ":" + plain[1]}}}, "2", true},
		{"bind", []mount.Mount{bind("rbind", "rw")}, "0", false},
		{"bind read-only", []mount.Mount{bind("bind", "ro")}, "0", true},
		{"bind with more", []mount.Mount{bind("rbind", "ro", "nosuid")}, "0", true},
		{"two mounts", []mount.Mount{bind("rbind", "rw"), overlay(t, dir+"/2", plain[3:5])}, "3", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := mountinfo(t)
			root, err := cube.OpenRoot(c.mounts, plain[0])
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			fd, err := unix.Openat(int(root.Fd()), "top", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 8)
			n, err := unix.Read(fd, buf)
			unix.Close(fd)
			if err != nil || string(buf[:n]) != c.top {
				t.Errorf("%q, %v", buf[:n], err)
			}
			err = unix.Mkdirat(int(root.Fd()), "new", 0o755)
			if c.ro != (err == unix.EROFS) || !c.ro && err != nil {
				t.Errorf("mkdir: %v", err)
			}
			_ = unix.Unlinkat(int(root.Fd()), "new", unix.AT_REMOVEDIR)
			if now := mountinfo(t); now != before {
				t.Error("the host sees it")
			}
		})
	}
	for name, m := range map[string]mount.Mount{
		"no source": {Type: "bind", Source: dir + "/no", Options: []string{"rbind"}},
		"no layer":  {Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + dir + "/no:" + plain[0]}},
		"no type":   {Type: "nofs", Source: "x"},
		"option":    overlay(t, dir+"/bad", plain[:2], "no_such_option=1"),
	} {
		if root, err := cube.OpenRoot([]mount.Mount{m}, ""); err == nil {
			root.Close()
			t.Errorf("%s: no error", name)
		} else if name == "no source" && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "flashcube-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// BenchmarkOpenRoot has images of as many layers as there are.
func BenchmarkOpenRoot(b *testing.B) {
	dir := tmpfs(b)
	plain := layers(b, dir+"/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots", 30)
	for _, c := range []struct {
		n       int
		options []string // these have it mounted aside
	}{{1, nil}, {3, nil}, {10, nil}, {30, nil}, {10, []string{"nosuid"}}} {
		m := []mount.Mount{overlay(b, fmt.Sprintf("%s/%d", dir, c.n), plain[:c.n], c.options...)}
		b.Run(fmt.Sprint(c.n, "layers", strings.Join(c.options, "")), func(b *testing.B) {
			for b.Loop() {
				root, err := cube.OpenRoot(m, "")
				if err != nil {
					b.Fatal(err)
				}
				root.Close()
			}
		})
	}
}
