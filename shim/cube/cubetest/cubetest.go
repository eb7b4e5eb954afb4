// Package cubetest has what tests need to run containers in cubes: the program
// flashcube-init, and a root with busybox.
package cubetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
)

// Init is the path of the program flashcube-init, built from the source the first time.
// It is a file in memory: nothing is left on disk.
func Init(tb testing.TB) string {
	tb.Helper()
	path, err := program()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cubetest-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "flashcube-init")
	cmd := exec.Command("go", "build", "-o", file, "github.com/peregrine-dev/peregrine/shim/cmd/flashcube-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build flashcube-init: %w: %s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	fd, err := unix.MemfdCreate("built", unix.MFD_CLOEXEC)
	if err != nil {
		return "", err
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	return path, os.WriteFile(path, text, 0)
})

// Root makes a container's root: a static busybox with links, and empty directories.
func Root(tb testing.TB) string {
	tb.Helper()
	root := filepath.Join(tb.TempDir(), "rootfs")
	fatal := func(err error) {
		if err != nil {
			tb.Helper()
			tb.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp", "etc", "run"} {
		fatal(os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	cache, err := harness.Cache()
	fatal(err)
	text, err := os.ReadFile(filepath.Join(cache, "debian", "bin", "busybox"))
	fatal(err)
	fatal(os.WriteFile(filepath.Join(root, "bin", "busybox"), text, 0o755))
	for _, name := range []string{"sh", "cat", "ls", "id", "sleep", "true", "echo", "mount", "tty", "stty", "kill", "hostname", "pwd"} {
		fatal(os.Symlink("busybox", filepath.Join(root, "bin", name)))
	}
	return root
}
