package stdio_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/stdio"
)

// TestMain reaps as a shim does: all children, on every SIGCHLD.
func TestMain(m *testing.M) {
	sig := make(chan os.Signal, 32)
	signal.Notify(sig, unix.SIGCHLD)
	go func() {
		for range sig {
			_ = reaper.Reap()
		}
	}()
	os.Exit(m.Run())
}

// patience is how long a test waits for what must happen at once.
const patience = time.Minute

// watch fails the test if it leaves goroutines or descriptors behind. It must be
// called before anything is opened.
func watch(t *testing.T) {
	t.Helper()
	// The runtime's poller stays once it is there.
	r, w, err := os.Pipe()
	check(t, err)
	r.Close()
	w.Close()
	before := descriptors(t)
	opt := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, opt)
		for fd, name := range descriptors(t) {
			if before[fd] == "" && name != "" {
				t.Errorf("left open: %s, %s", fd, name)
			}
		}
	})
}

func descriptors(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	m := map[string]string{}
	for _, e := range entries {
		m[e.Name()], _ = os.Readlink("/proc/self/fd/" + e.Name())
	}
	return m
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// fifos makes three fifos and the Config that names them.
func fifos(t testing.TB) stdio.Config {
	t.Helper()
	dir := t.TempDir()
	c := stdio.Config{
		Stdin:  filepath.Join(dir, "in"),
		Stdout: filepath.Join(dir, "out"),
		Stderr: filepath.Join(dir, "err"),
	}
	for _, p := range []string{c.Stdin, c.Stdout, c.Stderr} {
		check(t, unix.Mkfifo(p, 0o600))
	}
	return c
}

// reader opens a fifo as a client does, without waiting for a writer.
func reader(t testing.TB, path string) *os.File {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	check(t, err)
	f := os.NewFile(uintptr(fd), path)
	check(t, f.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { f.Close() })
	return f
}

func writer(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func open(t testing.TB, c stdio.Config) *stdio.IO {
	t.Helper()
	s, err := stdio.Open(within(t), "ns", "id", c, 0, 0)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

// process is a child that is reaped by the reaper.
type process struct {
	pid    int
	status chan int
}

// start runs a shell script with the streams of s.
func start(t testing.TB, s *stdio.IO, script string) *process {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	child := s.Child()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = child[0], child[1], child[2]
	p := spawn(t, cmd)
	s.CloseChild()
	s.Start()
	return p
}

func spawn(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	exits, err := reaper.Default.Start(cmd)
	check(t, err)
	p := &process{pid: cmd.Process.Pid, status: make(chan int, 1)}
	go func() {
		st, _ := reaper.Default.Wait(cmd, exits)
		_ = cmd.Process.Release()
		p.status <- st
	}()
	return p
}

func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case st := <-p.status:
		return st
	case <-time.After(patience):
		state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid)) // a zombie has exited, and nobody heard
		_ = unix.Kill(p.pid, unix.SIGKILL)
		t.Fatalf("the process doesn't exit: %s", state)
		return -1
	}
}

func readAll(t testing.TB, f *os.File) string {
	t.Helper()
	b, err := io.ReadAll(f)
	check(t, err)
	return string(b)
}

// expect reads exactly what is wanted.
func expect(t testing.TB, f *os.File, want string) {
	t.Helper()
	b := make([]byte, len(want))
	n, err := io.ReadFull(f, b)
	if err != nil || string(b) != want {
		t.Fatalf("%s: got %q, %v; want %q", f.Name(), b[:n], err, want)
	}
}
