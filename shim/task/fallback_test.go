package task_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/task"
)

// TestFallback has containers that can't run natively: from the start, or when much of
// them was made already.
func TestFallback(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		change       func(*specs.Spec)
	}{
		{"asked for", "asked for", func(s *specs.Spec) { s.Annotations = map[string]string{task.AnnotationFallback: "true"} }},
		{"user namespace", "user namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}},
		{"no such source", "failed", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/no/such", Options: []string{"bind"}})
		}},
		{"no such program", "failed", func(s *specs.Spec) { s.Process.Args = []string{"/no/such"} }},
		{"terminal", "terminal", func(s *specs.Spec) { s.Process.Terminal = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShim(t)
			var path string
			dir := bundle(t, "true", func(spec *specs.Spec) {
				c.change(spec)
				path = spec.Linux.CgroupsPath
			})
			s.fallback.onMake = func() {
				// The other runtime finds nothing in its way, and its own is not taken away.
				if left := cgroups(t, path); len(left) > 0 {
					t.Errorf("left %v", left)
				}
			}
			s.Native.Anticipate(background(), "test", "c", dir)
			if pid, err := s.create("c", dir, nil); err != nil || pid != 7 {
				t.Fatal(pid, err)
			}
			if len(s.reasons) != 1 || s.reasons[0] != c.reason || len(s.fallback.created) != 1 {
				t.Errorf("%v", s.reasons)
			}
			if state, err := task.LoadState(dir); err != nil || !state.Fallback {
				t.Errorf("%+v, %v", state, err)
			}
			if s.stopped {
				t.Error("the shim is to end, and its container lives")
			}
			if _, err := s.Delete(background(), &taskapi.DeleteRequest{ID: "c"}); err != nil || exists(filepath.Join(dir, claim.StateFile)) {
				t.Error(err)
			}
		})
	}
	t.Run("fails too", func(t *testing.T) {
		s := newShim(t)
		s.fallback.err = errors.New("no luck")
		dir := bundle(t, "true", func(s *specs.Spec) { s.Process.Args = []string{"/no/such"} })
		if _, err := s.create("c", dir, nil); err == nil || !strings.Contains(err.Error(), "no luck") || exists(filepath.Join(dir, claim.StateFile)) {
			t.Error(err)
		}
		if _, err := s.State(background(), &taskapi.StateRequest{ID: "c"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
			t.Error(err)
		}
	})
}

// TestTakenCgroup: a cgroup that another's processes are in is no container's, and they
// live on.
func TestTakenCgroup(t *testing.T) {
	for _, hierarchy := range []string{"unified", "devices", "pids"} {
		t.Run(hierarchy, func(t *testing.T) {
			cmd := exec.Command("/bin/sleep", "100")
			s := newShim(t)
			var path string
			dir := bundle(t, "true", func(s *specs.Spec) { path = s.Linux.CgroupsPath })
			taken := "/sys/fs/cgroup/" + hierarchy + path
			if err := os.MkdirAll(taken, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pid := cmd.Process.Pid
			t.Cleanup(func() {
				_ = unix.Kill(pid, unix.SIGKILL)
				until(t, "the end of the other's", func() bool { return unix.Rmdir(taken) == nil || !exists(taken) })
			})
			if err := os.WriteFile(taken+"/cgroup.procs", fmt.Append(nil, pid), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.create("c", dir, nil); err != nil || len(s.fallback.created) != 1 {
				t.Error(err)
			}
			if err := unix.Kill(pid, 0); err != nil {
				t.Errorf("the other's process: %v", err)
			}
			if _, err := s.Delete(background(), &taskapi.DeleteRequest{ID: "c"}); err != nil {
				t.Error(err)
			}
		})
	}
}
