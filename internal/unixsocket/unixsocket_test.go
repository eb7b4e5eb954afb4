package unixsocket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// inherit makes the test's binary a daemon that systemd starts; see TestInherited.
const inherit = "PEREGRINE_TEST_INHERIT"

func TestMain(m *testing.M) {
	if path := os.Getenv(inherit); path != "" {
		l, err := Listen(path)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		conn, err := l.Accept()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Fprint(conn, "served")
		if err := errors.Join(conn.Close(), l.Close()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// dir is a directory whose name is short enough for a socket's.
func dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sock-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// answers says whether somebody listens at path.
func answers(path string) bool {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func TestListen(t *testing.T) {
	path := filepath.Join(dir(t), "a", "b", "s.sock")
	// No mask of the caller's may widen or narrow the modes.
	defer unix.Umask(unix.Umask(0))
	l := listen(t, path)
	for p, want := range map[string]os.FileMode{
		path:                             os.ModeSocket | 0o600,
		filepath.Dir(path):               os.ModeDir | 0o700,
		filepath.Dir(filepath.Dir(path)): os.ModeDir | 0o700,
	} {
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != want {
			t.Errorf("%s has mode %v, want %v", p, fi.Mode(), want)
		}
	}
	if !answers(path) {
		t.Error("nobody answers")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after closing: %v, want the socket gone", err)
	}
}

func TestDirectoryIsLeftAlone(t *testing.T) {
	dir := dir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	listen(t, filepath.Join(dir, "s.sock"))
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("the operator's directory has mode %v, %v", fi.Mode(), err)
	}
}

func TestStaleSocket(t *testing.T) {
	path := filepath.Join(dir(t), "s.sock")
	// What a killed process leaves.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	listen(t, path)
	if !answers(path) {
		t.Error("nobody answers")
	}
}

func TestLiveSocket(t *testing.T) {
	path := filepath.Join(dir(t), "s.sock")
	listen(t, path)
	if _, err := Listen(path); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want ErrFailedPrecondition that names the socket", err)
	}
	if !answers(path) {
		t.Error("the other process lost its socket")
	}
}

func TestNoSocket(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link":      func(path string) error { return os.Symlink("elsewhere", path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir(t), "s.sock")
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Listen(path); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "no socket") {
				t.Errorf("got %v, want ErrFailedPrecondition", err)
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) {
				t.Errorf("it was replaced by %v, %v", after, err)
			}
		})
	}
}

func TestDirectoryCantBeMade(t *testing.T) {
	file := filepath.Join(dir(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(file, "s.sock")); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("got %v", err)
	}
}

// TestInherited starts a daemon as systemd does: the socket is there before it, and a
// caller that came earlier still is served.
func TestInherited(t *testing.T) {
	path := filepath.Join(dir(t), "s.sock")
	systemd, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	file, err := systemd.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// LISTEN_PID is the daemon's own: the shell becomes it.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), inherit+"="+path, "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{file}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := make([]byte, 16)
	if n, err := conn.Read(got); err != nil || string(got[:n]) != "served" {
		t.Errorf("read %q, %v", got[:n], err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the daemon took systemd's socket with it: %v", err)
	}
}
