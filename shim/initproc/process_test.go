package initproc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/yes": 0o755, "a/plain": 0o644, "b/yes": 0o755, "b/plain": 0o755} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "a/dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(dir, "b"))
	path := "PATH=" + dir + "/no::.:" + dir + "/a:" + dir + "/b"
	for _, c := range []struct {
		file string
		env  []string
		want string
		text string // in the error
		errs error
	}{
		{"yes", []string{path}, dir + "/a/yes", "", nil},
		{"plain", []string{path}, dir + "/b/plain", "", nil},
		{"yes", []string{"PATH=/no", path}, dir + "/a/yes", "", nil},
		{"no", []string{path}, "", "executable file not found in $PATH", nil},
		{"dir", []string{path}, "", "executable file not found in $PATH", nil},
		{"yes", nil, "", "executable file not found in $PATH", nil},
		{"yes", []string{"PATH="}, "", "executable file not found in $PATH", nil},
		{"yes", []string{"PATH=.:"}, "", "executable file not found in $PATH", nil},
		{"", []string{path}, "", "executable file not found in $PATH", nil},
		{"./yes", nil, "./yes", "", nil},
		{dir + "/a/yes", nil, dir + "/a/yes", "", nil},
		{"/no/such", nil, "", "stat /no/such: no such file or directory", unix.ENOENT},
		{dir + "/a/plain", nil, "", "permission denied", unix.EACCES},
		{dir + "/a/dir", nil, "", "permission denied", unix.EACCES},
	} {
		got, err := lookPath(c.file, c.env)
		if got != c.want || (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) || c.errs != nil && !errors.Is(err, c.errs) {
			t.Errorf("%q in %v: %q, %v", c.file, c.env, got, err)
		}
	}
}

// TestHome has containers with more and less of an /etc/passwd.
func TestHome(t *testing.T) {
	for _, c := range []struct {
		name  string
		etc   func(string) error // makes passwd
		uid   uint32
		env   []string
		want  string
		value []string
	}{
		{"none", nil, 0, nil, "HOME=/", nil},
		{"listed", passwd("root:x:0:0::/root:/bin/sh\nme:x:7:7::/home/me:\n"), 7, []string{"A=1"}, "HOME=/home/me", nil},
		{"not listed", passwd("root:x:0:0::/root:/bin/sh\n"), 7, nil, "HOME=/", nil},
		{"given", passwd("root:x:0:0::/root:/bin/sh\n"), 0, []string{"HOME=/h"}, "HOME=/h", nil},
		{"empty", passwd("root:x:0:0::/root:/bin/sh\n"), 0, []string{"HOME=", "B=2"}, "HOME=/root", nil},
		{"nonsense", passwd("\x00:::\n:\nroot"), 5, nil, "HOME=/", nil},
		{"long", passwd(strings.Repeat("x", 1<<20)), 0, nil, "HOME=/", nil},
		{"directory", func(f string) error { return os.Mkdir(f, 0o755) }, 0, nil, "HOME=/", nil},
		// Nobody ever writes to it: it must not be waited for.
		{"fifo", func(f string) error { return unix.Mkfifo(f, 0o644) }, 0, nil, "HOME=/", nil},
		{"endless", func(f string) error { return unix.Mknod(f, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }, 0, nil, "HOME=/", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
				t.Fatal(err)
			}
			if c.etc != nil {
				if err := c.etc(filepath.Join(dir, "etc/passwd")); err != nil {
					t.Fatal(err)
				}
			}
			before := slices.Clone(c.env)
			aside(t, func() error {
				if err := unix.Chroot(dir); err != nil {
					return err
				}
				got, err := withHome(&plan.Process{UID: c.uid, GID: c.uid, Env: c.env})
				if err != nil {
					return err
				}
				homes := 0
				for _, kv := range got {
					if strings.HasPrefix(kv, "HOME=") {
						homes++
					}
				}
				if homes != 1 || !slices.Contains(got, c.want) {
					return fmt.Errorf("got %v, want %s", got, c.want)
				}
				for _, kv := range before {
					if !strings.HasPrefix(kv, "HOME=") && !slices.Contains(got, kv) {
						return fmt.Errorf("%s is lost in %v", kv, got)
					}
				}
				return nil
			})
		})
	}
}

func passwd(text string) func(string) error {
	return func(file string) error { return os.WriteFile(file, []byte(text), 0o644) }
}

// TestRlimits starts a process whose limit of open files Go raises, and sees that the
// program gets what it was, or what the plan says.
func TestRlimits(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `ulimit -Sn 512; ulimit -Hn 4096; exec "$0"`, self)
	cmd.Env = append(os.Environ(), childEnv+"=rlimits")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(out); got != "true 512 100:200 7:9" {
		t.Error(got)
	}
}

func rlimitsChild() string {
	limit := func(kind int) unix.Rlimit {
		var l unix.Rlimit
		if err := unix.Prlimit(0, kind, nil, &l); err != nil {
			panic(err)
		}
		return l
	}
	raised := limit(unix.RLIMIT_NOFILE).Cur
	if err := setRlimits(nil); err != nil {
		return err.Error()
	}
	restored := limit(unix.RLIMIT_NOFILE).Cur
	err := setRlimits([]plan.Rlimit{{Type: unix.RLIMIT_NOFILE, Soft: 100, Hard: 200}, {Type: unix.RLIMIT_CORE, Soft: 7, Hard: 9}})
	if err != nil {
		return err.Error()
	}
	files, core := limit(unix.RLIMIT_NOFILE), limit(unix.RLIMIT_CORE)
	return fmt.Sprintf("%t %d %d:%d %d:%d", raised > restored, restored, files.Cur, files.Max, core.Cur, core.Max)
}

func TestWorkingDirectoryOutside(t *testing.T) {
	in, out := t.TempDir(), t.TempDir()
	aside(t, func() error {
		if err := unix.Chdir(out); err != nil {
			return err
		}
		if err := unix.Chroot(in); err != nil {
			return err
		}
		if err := checkCwd(); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("outside: %v", err)
		}
		if err := unix.Chdir("/"); err != nil {
			return err
		}
		return checkCwd()
	})
}
