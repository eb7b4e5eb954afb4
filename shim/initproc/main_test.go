package initproc

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
)

// childEnv makes the test binary a process of its own.
const childEnv = "PEREGRINE_INITPROC_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "rlimits" {
		fmt.Print(rlimitsChild())
		return
	}
	os.Exit(leaktest.Main(m))
}

// aside runs f on a thread in a mount namespace of its own, which ends with f.
func aside(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// opened is a directory's descriptor, closed with the test.
func opened(t testing.TB, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// place is where a descriptor is.
func place(t testing.TB, fd int) string {
	t.Helper()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
