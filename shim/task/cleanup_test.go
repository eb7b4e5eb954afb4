package task_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/cube/cubetest"
	"github.com/peregrine-dev/peregrine/shim/task"
)

// TestCleanup ends a container whose shim was killed, or doesn't answer any more.
func TestCleanup(t *testing.T) {
	for _, killed := range []bool{true, false} {
		mark := filepath.Join(t.TempDir(), "poststop")
		dir := bundle(t, "sleep 100 & exec sleep 100", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >" + mark}}}}
		})
		part := filepath.Join(t.TempDir(), "part")
		if err := os.Mkdir(part, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(part, filepath.Join(dir, claim.Link)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childEnv+"="+cubetest.Init(t)+"\n"+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
			t.Error(line, err)
		}
		if killed {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
		}
		state, err := task.LoadState(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(state.Pid, 0); err != nil {
			t.Errorf("the container ended with its shim: %v", err)
		}
		status, err := task.Cleanup(context.Background(), "test", "killed", dir)
		if err != nil || status.Pid != state.Pid || status.ExitStatus != 137 || status.ExitedAt.IsZero() {
			t.Errorf("%+v, %v", status, err)
		}
		if !killed {
			_ = cmd.Wait()
		}
		if !exists(mark) || exists(part) || exists(filepath.Join(dir, claim.StateFile)) || exists(filepath.Join(dir, claim.Link)) {
			t.Error("something is left, or the hook didn't run")
		}
		for _, path := range state.Cgroups {
			if exists(path) {
				t.Errorf("%s is left", path)
			}
		}
		// What is gone already is no error.
		if _, err := task.Cleanup(context.Background(), "test", "killed", dir); err != nil {
			t.Error(err)
		}
	}
}

// TestCleanupEarly is of a shim that died before there was an init.
func TestCleanupEarly(t *testing.T) {
	dir := bundle(t, "true", nil)
	path := "/sys/fs/cgroup/pids/peregrine-task-early"
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	state := task.State{ID: "c", Cgroups: map[string]string{"pids": path}}
	if err := state.Save(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := task.Cleanup(context.Background(), "test", "c", dir); err != nil {
		t.Error(err)
	}
	if exists(path) || exists(filepath.Join(dir, claim.StateFile)) {
		t.Error("something is left")
		_ = os.Remove(path)
	}
}

// TestCleanupOther doesn't kill a process that only has the number.
func TestCleanupOther(t *testing.T) {
	dir := bundle(t, "true", nil)
	began, err := task.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	state := task.State{ID: "c", Pid: os.Getpid(), StartTime: began + 1}
	if err := state.Save(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := task.Cleanup(context.Background(), "test", "c", dir); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, claim.StateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := task.Cleanup(context.Background(), "test", "c", dir); err == nil {
		t.Error("half a state is no state")
	}
}
