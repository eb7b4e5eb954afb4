package pool

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// sleeper is some living process.
func sleeper(t *testing.T) process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSweep(t *testing.T) {
	bundle := t.TempDir()
	for name, c := range map[string]struct {
		living bool // shim
		claim  string
		bundle string
		noPid  bool
		gone   bool // after two minutes
		knocks int
	}{
		"serves":                 {living: true, claim: "yes", bundle: bundle},
		"serves, bundle gone":    {living: true, claim: "yes", bundle: "/nonexistent"},
		"claimer died":           {living: true, knocks: 1},
		"dead":                   {claim: "yes", bundle: "/nonexistent", gone: true},
		"dead, containerd's":     {claim: "yes", bundle: bundle},
		"dead, claimer died":     {gone: true},
		"cold, nothing came":     {claim: "yes", bundle: "/nonexistent", noPid: true, gone: true},
		"cold, bundle is there":  {claim: "yes", bundle: bundle, noPid: true},
		"cold, its claimer died": {noPid: true, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			claimed := t.TempDir()
			dir := filepath.Join(claimed, "n")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			p := process{1 << 22, 1} // nobody
			if c.living {
				p = sleeper(t)
			}
			if !c.noPid {
				if err := os.WriteFile(filepath.Join(dir, claim.PidFile), fmt.Appendf(nil, "%d %d\n", p.pid, p.start), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if c.claim != "" {
				writeJSON(t, filepath.Join(dir, claim.ClaimFile), claim.Request{Bundle: c.bundle})
			}
			l, err := net.Listen("unix", filepath.Join(dir, claim.Socket))
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			defer l.Close()
			if !c.living {
				l.Close()
			}
			var s sweeper
			now := time.Now()
			for _, at := range []time.Duration{0, 5 * time.Second, 11 * time.Second} {
				s.sweep(t.Context(), claimed, now.Add(at))
				if !claim.Exists(dir) {
					t.Fatalf("removed after %v", at)
				}
			}
			if knocks := pending(t, l, c.living); knocks != c.knocks {
				t.Errorf("knocked %d times, want %d", knocks, c.knocks)
			}
			s.sweep(t.Context(), claimed, now.Add(2*time.Minute))
			if gone := !claim.Exists(dir); gone != c.gone {
				t.Errorf("gone is %v, want %v", gone, c.gone)
			}
			if c.living && !p.alive() {
				t.Error("a living part was killed")
			}
		})
	}
}

// pending accepts what waits.
func pending(t *testing.T, l net.Listener, open bool) (n int) {
	t.Helper()
	if !open {
		return 0
	}
	raw, err := l.(*net.UnixListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// Whoever knocked is there: without a deadline, which may pass before a look.
	err = raw.Control(func(fd uintptr) {
		for {
			conn, _, err := unix.Accept4(int(fd), unix.SOCK_CLOEXEC)
			if err != nil {
				if !errors.Is(err, unix.EAGAIN) {
					t.Error(err)
				}
				return
			}
			_ = unix.Close(conn)
			n++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSweepKillsWhatNobodyCanManage(t *testing.T) {
	claimed := t.TempDir()
	dir := filepath.Join(claimed, "n")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cube := sleeper(t)
	if err := os.WriteFile(filepath.Join(dir, claim.PidFile), fmt.Appendf(nil, "%d 1\n%d %d\n", 1<<22, cube.pid, cube.start), 0o600); err != nil {
		t.Fatal(err)
	}
	writeJSON(t, filepath.Join(dir, claim.ClaimFile), claim.Request{Bundle: "/nonexistent"})
	var s sweeper
	now := time.Now()
	s.sweep(t.Context(), claimed, now)
	s.sweep(t.Context(), claimed, now.Add(abandoned))
	eventually(t, "the end of the cube", func() bool { return !cube.alive() })
	if claim.Exists(dir) {
		t.Error("the directory is still there")
	}
}

func TestProcesses(t *testing.T) {
	dir := t.TempDir()
	if _, err := processes(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	for text, ok := range map[string]bool{"12 34\n": true, "12 34\n56 78\n": true, "12 34": true, "": false, "x": false, "1 2\n": false, "-5 2\n": false, "12\n": false} {
		if err := os.WriteFile(filepath.Join(dir, claim.PidFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if all, err := processes(dir); (err == nil) != ok || ok && all[0] != (process{12, 34}) {
			t.Errorf("%q: %v, %v", text, all, err)
		}
	}
}

func TestIdentify(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil || !self.alive() {
		t.Fatalf("%v, %v", self, err)
	}
	if (process{self.pid, self.start + 1}).alive() {
		t.Error("a later process with the id counts as the same")
	}
	if err := (process{self.pid, self.start + 1}).kill(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	cmd := exec.CommandContext(t.Context(), "true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a zombie is dead", func() bool { _, err := identify(cmd.Process.Pid); return errors.Is(err, unix.ESRCH) })
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
