package sidecar

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// shell is an application that a sidecar runs: it never says its types, and whatever it writes
// into $OUT the test reads.
type shell struct {
	out     string
	signals chan os.Signal
	ended   chan struct{}
	status  int
	err     error
}

func startShell(ctx context.Context, t *testing.T, script string) *shell {
	s := &shell{out: fifo(t), signals: make(chan os.Signal, 1), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		s.status, s.err = Run(ctx, Config{
			Port: 1, Listen: "127.0.0.1:0", Signals: s.signals,
			Command: []string{"sh", "-c", "OUT='" + s.out + "'; " + script},
		})
	}()
	t.Cleanup(func() { <-s.ended })
	return s
}

func fifo(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "out")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// read waits for the line that the application writes.
func read(t *testing.T, path string) string {
	t.Helper()
	// To open it for writing as well waits for nobody.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// forever ends by a trap alone.
const forever = "; echo ready > $OUT; while :; do sleep 0.01; done"

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		script string
		signal os.Signal
		want   int
	}{
		{"exit 0", nil, 0},
		{"exit 3", nil, 3},
		{"kill -9 $$", nil, 137},
		{"trap 'exit 7' TERM" + forever, unix.SIGTERM, 7},
		{"trap 'exit 8' TERM" + forever, unix.SIGINT, 8}, // ends as TERM does
		{"trap 'exit 5' HUP" + forever, unix.SIGHUP, 5},  // handed on
		{"true" + forever, unix.SIGTERM, 143},
	} {
		t.Run(c.script, func(t *testing.T) {
			s := startShell(t.Context(), t, c.script)
			if c.signal != nil {
				read(t, s.out)
				s.signals <- c.signal
			}
			<-s.ended
			if s.status != c.want || s.err != nil {
				t.Errorf("%d, %v: want %d", s.status, s.err, c.want)
			}
		})
	}
}

func TestContextEndsTheApplication(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := startShell(ctx, t, "trap 'exit 7' TERM"+forever)
	read(t, s.out)
	cancel()
	<-s.ended
	if s.status != 7 || s.err != nil {
		t.Errorf("%d, %v", s.status, s.err)
	}
}

func TestApplicationThatDoesNotEnd(t *testing.T) {
	out := fifo(t)
	p, err := startProcess([]string{"sh", "-c", "OUT='" + out + "'; trap '' TERM" + forever}, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	read(t, out)
	s := &sidecar{process: p, leave: 10 * time.Millisecond}
	if status := s.end(t.Context()); status != 137 {
		t.Errorf("%d", status)
	}
	if err := p.signal(unix.SIGTERM); err != nil {
		t.Errorf("a signal to one that has ended: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("PORT", "another's")
	s := startShell(t.Context(), t, `echo "$PORT $PLASMA_URL $PLASMA_TOKEN" > $OUT`)
	words := strings.Fields(read(t, s.out))
	if len(words) != 3 || words[0] != "1" || !strings.HasPrefix(words[1], "http://127.0.0.1:") || len(words[2]) < 26 {
		t.Errorf("%q", words)
	}
}

func TestNoApplication(t *testing.T) {
	for _, c := range []struct {
		config Config
		is     func(error) bool
	}{
		{Config{Port: 1, Command: []string{"no-such-program"}}, func(err error) bool { return errors.Is(err, exec.ErrNotFound) }},
		{Config{Port: 1, Command: []string{"/"}}, func(err error) bool { return errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EISDIR) }},
		{Config{Port: 1}, errdefs.IsInvalidArgument},
		{Config{Command: []string{"true"}}, errdefs.IsInvalidArgument},
	} {
		c.config.Listen = "127.0.0.1:0"
		if _, err := Run(t.Context(), c.config); !c.is(err) {
			t.Errorf("%+v: %v", c.config, err)
		}
	}
}

// The default port may be another sidecar's, where containers share the node's network.
func TestListenBesideAnother(t *testing.T) {
	seen := []string{}
	for range 2 {
		l, err := listen(t.Context(), DefaultListen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if a := l.Addr().String(); slices.Contains(seen, a) {
			t.Errorf("%s twice", a)
		} else {
			seen = append(seen, a)
		}
	}
	if l, err := listen(t.Context(), seen[1]); err == nil && seen[1] != DefaultListen {
		l.Close()
		t.Errorf("it listens elsewhere than at %s", seen[1])
	}
}

// As process 1 the sidecar gets the processes that lose their parents, and reaps them.
func TestReapsOrphans(t *testing.T) {
	out := fifo(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "sh", "-c", fmt.Sprintf("OUT='%s'; (echo gone > $OUT &); trap 'exit 7' TERM%s", out, strings.Replace(forever, "echo ready > $OUT", "true", 1)))
	cmd.Env = append(os.Environ(), asSidecar+"=1")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	read(t, out) // the orphan has written, and ends
	deadline := time.Now().Add(10 * time.Second)
	for {
		children := children(t, cmd.Process.Pid)
		if len(children) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("children %v", children)
		}
		time.Sleep(time.Millisecond) // nobody tells when a process is reaped
	}
}

func children(t *testing.T, pid int) (all []string) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		all = append(all, strings.Fields(string(text))...)
	}
	return all
}
