package initproc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a root with directories ("d/"), files ("f") and symlinks ("l>target"), and
// something outside that must stay empty.
func tree(t testing.TB, entries ...string) (root, outside string) {
	t.Helper()
	top := t.TempDir()
	root, outside = filepath.Join(top, "root"), filepath.Join(top, "outside")
	for _, dir := range []string{root, outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range entries {
		name, target, link := strings.Cut(e, ">")
		path := filepath.Join(root, name)
		var err error
		switch {
		case link:
			err = os.Symlink(strings.ReplaceAll(target, "OUTSIDE", outside), path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root, outside
}

func TestProvide(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []string
		path    string
		file    bool
		want    string // below root
		err     error
	}{
		{"root", nil, "/", false, "", nil},
		{"above", nil, "/../../..", false, "", nil},
		{"there", []string{"a/b/"}, "/a/b", false, "/a/b", nil},
		{"made", nil, "/a/b/c", false, "/a/b/c", nil},
		{"made relative", nil, "a//./b/", false, "/a/b", nil},
		{"made file", nil, "/a/b/c", true, "/a/b/c", nil},
		{"file with slash", nil, "/a/b/", true, "/a/b", nil},
		{"there as file", []string{"a/", "a/f"}, "/a/f", false, "/a/f", nil},
		{"there as directory", []string{"a/b/"}, "/a/b", true, "/a/b", nil},
		{"up and down", []string{"a/"}, "/a/../../b/c", false, "/b/c", nil},
		{"up from what is made", nil, "/x/y/../z", false, "/x/z", nil},
		{"absolute link", []string{"l>/a", "a/"}, "/l/b", false, "/a/b", nil},
		{"absolute link outside", []string{"l>OUTSIDE"}, "/l/b", false, "OUTSIDE/b", nil},
		{"relative link outside", []string{"d/", "d/l>../../../outside"}, "/d/l/b", false, "/outside/b", nil},
		{"dangling link", []string{"l>/a/b"}, "/l/c", false, "/a/b/c", nil},
		{"dangling link at the end", []string{"l>a"}, "/l", false, "/a", nil},
		{"dangling link to a file", []string{"l>/a/b"}, "/l", true, "/a/b", nil},
		{"dangling link up", []string{"l>../../../a"}, "/l", true, "/a", nil},
		{"link to link", []string{"l>m/x", "m>n", "n/"}, "/l/y", false, "/n/x/y", nil},
		{"link to root", []string{"l>/"}, "/l/y", false, "/y", nil},
		{"loop", []string{"l>m", "m>l"}, "/l", false, "", unix.ELOOP},
		{"loop on the way", []string{"l>l/x"}, "/l/y", false, "", unix.ELOOP},
		{"loop by what is missing", []string{"l>no/../l"}, "/l", false, "", unix.ELOOP},
		{"file in the way", []string{"a"}, "/a/b", false, "", unix.ENOTDIR},
		{"file in the way of a link", []string{"a", "l>a/b/c"}, "/l", false, "", unix.ENOTDIR},
		{"long name", nil, "/" + strings.Repeat("n", 256), false, "", unix.ENAMETOOLONG},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, outside := tree(t, c.entries...)
			root := opened(t, dir)
			before := descriptors(t)
			fd, err := provide(root, c.path, c.file)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err == nil {
				want := filepath.Join(dir, strings.ReplaceAll(c.want, "OUTSIDE", outside))
				if got := place(t, fd); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				var st unix.Stat_t
				if err := unix.Fstat(fd, &st); err != nil {
					t.Fatal(err)
				}
				isFile := c.file && c.name != "there as directory" || c.name == "there as file"
				if kind := st.Mode & unix.S_IFMT; (kind == unix.S_IFREG) != isFile {
					t.Errorf("mode %#o", st.Mode)
				}
				// What exists now is found.
				again, err := lookup(root, "/"+strings.TrimRight(c.path, "/"))
				if err != nil || place(t, again) != want {
					t.Errorf("found at %d: %v", again, err)
				}
				unix.Close(again)
				unix.Close(fd)
			}
			if now := descriptors(t); now != before {
				t.Errorf("%d descriptors, %d before", now, before)
			}
			if list, _ := os.ReadDir(outside); len(list) > 0 {
				t.Errorf("made outside: %v", list)
			}
		})
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestLookupFindsNothingOutside(t *testing.T) {
	dir, outside := tree(t, "l>OUTSIDE", "m>../outside", "f", "d/", "p>/proc/self/fd")
	root := opened(t, dir)
	if err := os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"/l/secret": unix.ENOENT, "/m/secret": unix.ENOENT, "/../outside/secret": unix.ENOENT,
		"/f/x": unix.ENOTDIR, "/d/no": unix.ENOENT, "/p/0": unix.ENOENT,
	} {
		if fd, err := lookup(root, path); err != want {
			t.Errorf("%s: %d, %v, want %v", path, fd, err, want)
		}
	}
}

// TestMagicLinks: a link of procfs leads anywhere, in the container's root as well.
func TestMagicLinks(t *testing.T) {
	for _, path := range []string{"/proc/self/root", "/proc/self/cwd", "/proc/self/fd/0"} {
		if fd, err := provide(opened(t, "/"), path, false); err != unix.ELOOP {
			t.Errorf("%s: %d, %v", path, fd, err)
		}
	}
}

// TestSwapped has somebody, who shares a volume with the container, exchange a directory
// and symlinks outside all the time: nothing is ever made or found outside.
func TestSwapped(t *testing.T) {
	dir, outside := tree(t, "a/", "b>OUTSIDE", "c>../outside", "d>../../../../../../../../../../../../OUTSIDE")
	root := opened(t, dir)
	rename := func(a, b string) error { return unix.Renameat2(root, a, root, b, unix.RENAME_EXCHANGE) }
	racing(t, func() error {
		for _, other := range []string{"b", "c", "d"} {
			for range 2 {
				if err := rename("a", other); err != nil {
					return err
				}
			}
		}
		return nil
	}, func(i int) error {
		path := []string{"a/x", "a/y/z", "a/../a/w", "a/x/../../a/v"}[i%4]
		fd, err := provide(root, path, i%8 > 4)
		if err != nil {
			// It may have been a file, or renamed between two steps.
			if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ENOENT) {
				return err
			}
			return nil
		}
		defer unix.Close(fd)
		if got := place(t, fd); !strings.HasPrefix(got, dir+"/") {
			return errors.New("found " + got)
		}
		return nil
	})
	if list, _ := os.ReadDir(outside); len(list) > 0 {
		t.Errorf("made outside: %v", list)
	}
}

// TestMovedOut has a directory leave the root while ".." is looked up in it.
func TestMovedOut(t *testing.T) {
	dir, outside := tree(t, "a/b/c/")
	root, out := opened(t, dir), opened(t, outside)
	racing(t, func() error {
		if err := unix.Renameat(root, "a", out, "a"); err != nil {
			return err
		}
		return unix.Renameat(out, "a", root, "a")
	}, func(i int) error {
		fd, err := provide(root, []string{"a/b/c/../../../x/y", "a/../x/z", "a/b/../../../x"}[i%3], false)
		if err != nil {
			if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTEMPTY) {
				return err
			}
			return nil
		}
		defer unix.Close(fd)
		if got := place(t, fd); !strings.HasPrefix(got, dir) {
			return errors.New("found " + got)
		}
		return nil
	})
	for _, name := range []string{"x", "../x", "y", "z"} {
		if _, err := os.Lstat(filepath.Join(outside, name)); err == nil {
			t.Errorf("%s was made outside", name)
		}
	}
}

// racing does one thing over and over, and another a few thousand times meanwhile.
func racing(t *testing.T, disturb func() error, try func(int) error) {
	t.Helper()
	const times = 3000
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := disturb(); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
				t.Error("disturb:", err)
				return
			}
		}
	})
	for i := range times {
		if err := try(i); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	wg.Wait()
}

func FuzzProvide(f *testing.F) {
	f.Add("/a/b", "/a", false)
	f.Add("/l/../l/x", "../../l", true)
	f.Fuzz(func(t *testing.T, path, target string, file bool) {
		dir, outside := tree(t, "d/")
		_ = os.Symlink(target, filepath.Join(dir, "l"))
		if fd, err := provide(opened(t, dir), path, file); err == nil {
			if got := place(t, fd); got != dir && !strings.HasPrefix(got, dir+"/") {
				t.Errorf("%q with %q is %s", path, target, got)
			}
			unix.Close(fd)
		}
		if list, _ := os.ReadDir(outside); len(list) > 0 {
			t.Errorf("made outside: %v", list)
		}
	})
}

func BenchmarkProvide(b *testing.B) {
	dir, _ := tree(b, "a/b/c/")
	root := opened(b, dir)
	for b.Loop() {
		fd, err := provide(root, "/a/b/c", false)
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(fd)
	}
}
