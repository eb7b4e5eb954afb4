package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/claim/claimtest"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

// asDaemon makes the test binary the command.
const asDaemon = "FLASHCUBED_TEST"

func TestMain(m *testing.M) {
	claimtest.Main()
	if os.Getenv(asDaemon) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// command is flashcubed with arguments, in a directory with a stand-in of the shim.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	claimtest.Install(t, bin)
	if err := os.WriteFile(filepath.Join(bin, claim.InitBinary), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = []string{asDaemon + "=1", "PATH=" + bin}
	return cmd
}

func TestConfig(t *testing.T) {
	out, err := command(t, "config", "default").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := command(t, "--config", file, "config", "check").Output()
	if err != nil || !bytes.Equal(out, again) {
		t.Errorf("check prints %v\n%s, want\n%s", err, again, out)
	}
	if err := os.WriteFile(file, []byte("nonsense = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--config", file}, {"--config", "/nonexistent"}, {"--log-level", "loud"}, {"start"}} {
		if out, err := command(t, args...).CombinedOutput(); err == nil || !strings.HasPrefix(string(out), "flashcubed: ") && !strings.Contains(string(out), "\nflashcubed: ") {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
}

func TestServeAndStop(t *testing.T) {
	root := filepath.Join(t.TempDir(), "r")
	cmd := command(t)
	cmd.Env = append(cmd.Env, "FLASHCUBE_ROOT="+root)
	var log bytes.Buffer
	cmd.Stderr = &log
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGKILL) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { claimtest.KillParts(t, claim.Profile(root, "default")) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		s, err := pool.ReadStatus(root)
		if err == nil && s.Daemon && s.Profiles["default"].Ready == 4 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%+v, %v; %s", s, err, log.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v: %s", err, log.String())
	}
	if s, err := pool.ReadStatus(root); err != nil || s.Daemon || s.Profiles["default"].Ready != 4 {
		t.Errorf("afterwards: %+v, %v", s, err)
	}
}
