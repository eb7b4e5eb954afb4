package task_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/task"
)

func ptr[T any](v T) *T { return &v }

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

func TestLife(t *testing.T) {
	for _, c := range []struct {
		name         string
		early, later bool
	}{{name: "asked for"}, {name: "anticipated", early: true}, {name: "anticipated too late", later: true}} {
		t.Run(c.name, func(t *testing.T) {
			s := newShim(t)
			dir := bundle(t, "echo out; exit 3", nil)
			if c.early {
				s.Native.Anticipate(background(), "test", "c", dir)
			}
			log := filepath.Join(t.TempDir(), "log")
			pid, err := s.create("c", dir, func(r *taskapi.CreateTaskRequest) { r.Stdout = "file://" + log })
			if err != nil {
				t.Fatal(err)
			}
			if c.later {
				s.Native.Anticipate(background(), "test", "c", dir)
				s.Native.Drop() // waits for it
			}
			state, err := task.LoadState(dir)
			if err != nil || state.Pid != pid || !state.Joined || len(state.Cgroups) == 0 || state.Fallback || state.Namespace != "test" {
				t.Errorf("%+v, %v", state, err)
			}
			if a, err := s.State(background(), &taskapi.StateRequest{ID: "c"}); err != nil || a.Status != tasktypes.Status_CREATED || int(a.Pid) != pid {
				t.Errorf("%v, %v", a, err)
			}
			if a, err := s.Pids(background(), &taskapi.PidsRequest{ID: "c"}); err != nil || len(a.Processes) != 1 || int(a.Processes[0].Pid) != pid {
				t.Errorf("%v, %v", a, err)
			}
			if _, err := s.Start(background(), &taskapi.StartRequest{ID: "c"}); err != nil {
				t.Fatal(err)
			}
			if got := s.wait("c", ""); got != 3 {
				t.Errorf("status %d", got)
			}
			if a, err := s.State(background(), &taskapi.StateRequest{ID: "c"}); err != nil || a.Status != tasktypes.Status_STOPPED || a.ExitStatus != 3 {
				t.Errorf("%v, %v", a, err)
			}
			a, err := s.Delete(background(), &taskapi.DeleteRequest{ID: "c"})
			if err != nil || a.ExitStatus != 3 || int(a.Pid) != pid || a.ExitedAt.AsTime().IsZero() {
				t.Errorf("%v, %v", a, err)
			}
			if text, err := os.ReadFile(log); string(text) != "out\n" {
				t.Errorf("%q, %v", text, err)
			}
			if got := s.sent(); got != "Create Start Exit Delete" {
				t.Error(got)
			}
			if exists(filepath.Join(dir, claim.StateFile)) {
				t.Error("the state is still there")
			}
			if len(s.reasons) > 0 || s.stopped {
				t.Errorf("%v, stopped %t", s.reasons, s.stopped)
			}
			if _, err := s.Shutdown(background(), &taskapi.ShutdownRequest{}); err != nil || !s.stopped {
				t.Error(err)
			}
		})
	}
}

// TestOrder calls at the wrong time.
func TestOrder(t *testing.T) {
	s := newShim(t)
	class := func(what string, err error, is func(error) bool) {
		t.Helper()
		if err == nil || !is(errgrpc.ToNative(err)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	start := func(exec string) error {
		_, err := s.Start(background(), &taskapi.StartRequest{ID: "c", ExecID: exec})
		return err
	}
	remove := func(exec string) error {
		_, err := s.Delete(background(), &taskapi.DeleteRequest{ID: "c", ExecID: exec})
		return err
	}
	kill := func(exec string) error {
		_, err := s.Kill(background(), &taskapi.KillRequest{ID: "c", ExecID: exec, Signal: 9})
		return err
	}
	pause := func() error { _, err := s.Pause(background(), &taskapi.PauseRequest{ID: "c"}); return err }
	resume := func() error { _, err := s.Resume(background(), &taskapi.ResumeRequest{ID: "c"}); return err }

	class("start of none", start(""), errdefs.IsNotFound)
	class("delete of none", remove(""), errdefs.IsNotFound)
	class("kill of none", kill(""), errdefs.IsNotFound)
	if a, err := s.Connect(background(), &taskapi.ConnectRequest{ID: "c"}); err != nil || int(a.ShimPid) != os.Getpid() || a.TaskPid != 0 {
		t.Error(a, err)
	}

	dir := bundle(t, "exec sleep 100", nil)
	if _, err := s.create("c", dir, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.end("c") })
	_, err := s.create("c", dir, nil)
	class("create twice", err, errdefs.IsAlreadyExists)
	class("pause of created", pause(), errdefs.IsFailedPrecondition)
	class("exec of none", start("e"), errdefs.IsNotFound)
	if err := s.addExec("c", "e", "true"); err != nil {
		t.Fatal(err)
	}
	class("exec twice", s.addExec("c", "e", "true"), errdefs.IsAlreadyExists)
	class("exec before the init", start("e"), errdefs.IsFailedPrecondition)
	class("kill of an exec before it is", kill("e"), errdefs.IsFailedPrecondition)
	if err := remove("e"); err != nil {
		t.Error(err)
	}
	if err := start(""); err != nil {
		t.Fatal(err)
	}
	class("start twice", start(""), errdefs.IsFailedPrecondition)
	class("delete of running", remove(""), errdefs.IsFailedPrecondition)
	class("resume of running", resume(), errdefs.IsFailedPrecondition)
	_, err = s.Checkpoint(background(), &taskapi.CheckpointTaskRequest{ID: "c"})
	class("checkpoint", err, errdefs.IsNotImplemented)
	_, err = s.Update(background(), &taskapi.UpdateTaskRequest{ID: "c"})
	class("empty update", err, errdefs.IsInvalidArgument)
	_, err = s.Exec(background(), &taskapi.ExecProcessRequest{ID: "c", ExecID: "x", Spec: &anypb.Any{Value: []byte(`{"bad":1}`)}})
	class("bad exec", err, errdefs.IsInvalidArgument)

	if err := pause(); err != nil {
		t.Fatal(err)
	}
	if a, err := s.State(background(), &taskapi.StateRequest{ID: "c"}); err != nil || a.Status != tasktypes.Status_PAUSED {
		t.Error(a, err)
	}
	class("pause twice", pause(), errdefs.IsFailedPrecondition)
	class("exec in a paused one", s.addExec("c", "p", "true"), errdefs.IsFailedPrecondition)
	if err := resume(); err != nil {
		t.Fatal(err)
	}
	resources, err := typeurl.MarshalAnyToProto(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(77))}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(background(), &taskapi.UpdateTaskRequest{ID: "c", Resources: resources}); err != nil {
		t.Error(err)
	}
	if a, err := s.Stats(background(), &taskapi.StatsRequest{ID: "c"}); err != nil || a.Stats == nil {
		t.Error(a, err)
	}
	// The frozen die too.
	if err := pause(); err != nil {
		t.Fatal(err)
	}
	if err := kill(""); err != nil {
		t.Fatal(err)
	}
	if got := s.wait("c", ""); got != 137 {
		t.Errorf("status %d", got)
	}
	class("kill of stopped", kill(""), errdefs.IsNotFound)
	class("start of stopped", start(""), errdefs.IsFailedPrecondition)
	if err := remove(""); err != nil {
		t.Fatal(err)
	}
	class("delete twice", remove(""), errdefs.IsNotFound)
	if got := s.sent(); got != "Create ExecAdded Start Paused Resumed Paused Exit Delete" {
		t.Error(got)
	}
}

// TestNeverStarted deletes a container that was only created, and one whose init was
// killed then.
func TestNeverStarted(t *testing.T) {
	s := newShim(t)
	for _, killed := range []bool{false, true} {
		pid, err := s.create("c", bundle(t, "true", nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		if killed {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			s.wait("c", "")
			if _, err := s.Start(background(), &taskapi.StartRequest{ID: "c"}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
				t.Error(err)
			}
		}
		if a, err := s.Delete(background(), &taskapi.DeleteRequest{ID: "c"}); err != nil || a.ExitStatus != 137 {
			t.Error(a, err)
		}
	}
	if got := s.sent(); got != "Create Exit Delete Create Exit Delete" {
		t.Error(got)
	}
}

func TestHooks(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	hook := func(text string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", text + `; tr , '\n' | grep '"status"' >>` + log}}}
	}
	s := newShim(t)
	dir := bundle(t, "true", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: hook("true"), Poststart: hook("true"), Poststop: hook("true")}
	})
	s.run("c", dir)
	s.wait("c", "")
	s.end("c")
	if text, err := os.ReadFile(log); string(text) != "\"status\":\"creating\"\n\"status\":\"running\"\n\"status\":\"stopped\"\n" {
		t.Errorf("%q, %v", text, err)
	}
	// After a hook nobody else tries: what it did is undone.
	for name, failing := range map[string]specs.Hook{
		"exit status 9": {Path: "/bin/sh", Args: []string{"sh", "-c", "echo no; exit 9"}},
		"timeout":       {Path: "/bin/sleep", Args: []string{"sleep", "100"}, Timeout: ptr(1)},
		"no/such":       {Path: "/no/such"},
	} {
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		dir := bundle(t, "true", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{failing}, Poststop: hook("true")}
		})
		_, err := s.create("c", dir, nil)
		if err == nil || !strings.Contains(err.Error(), name) || len(s.fallback.created) > 0 {
			t.Errorf("%s: %v", name, err)
		}
		if text, err := os.ReadFile(log); string(text) != "\"status\":\"stopped\"\n" {
			t.Errorf("%q, %v", text, err)
		}
		if exists(filepath.Join(dir, claim.StateFile)) {
			t.Error("the state is still there")
		}
	}
}

func TestOOM(t *testing.T) {
	s := newShim(t)
	dir := bundle(t, "busybox dd if=/dev/zero of=/dev/null bs=200M count=1; exit 4", func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(32 << 20))}
	})
	s.run("c", dir)
	if got := s.wait("c", ""); got != 4 && got != 137 {
		t.Errorf("status %d", got)
	}
	until(t, "the event", func() bool { return strings.Contains(s.sent(), "OOM") })
}

// TestParallel starts and deletes containers from many sides.
func TestParallel(t *testing.T) {
	s := newShim(t)
	var wg sync.WaitGroup
	for i := range 6 {
		dir := bundle(t, fmt.Sprintf("exit %d", i), nil)
		wg.Go(func() {
			id := fmt.Sprint("c", i)
			if _, err := s.create(id, dir, nil); err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Start(background(), &taskapi.StartRequest{ID: id}); err != nil {
				t.Error(err)
			}
			if got := s.wait(id, ""); got != i {
				t.Errorf("%s: status %d", id, got)
			}
			// One of two wins.
			errs := make(chan error, 2)
			for range 2 {
				go func() {
					_, err := s.Delete(background(), &taskapi.DeleteRequest{ID: id})
					errs <- err
				}()
			}
			a, b := <-errs, <-errs
			if (a == nil) == (b == nil) {
				t.Errorf("%s: deleted twice: %v, %v", id, a, b)
			}
		})
	}
	wg.Wait()
}
