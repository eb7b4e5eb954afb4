package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
)

// events lists what containerd tells of a container's life.
func (s *shimUnderTest) events(t *testing.T) {
	client := s.connect(t)
	c := s.container(t, client, "told", oci.WithProcessArgs("sleep", "1000"))
	next := subscribe(t, client, c.ID())
	task, ended := startTask(t, c, cio.NullIO)
	spec, err := c.Spec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	spec.Process.Args = []string{"sh", "-c", "exit 3"}
	process, err := task.Exec(t.Context(), "again", spec.Process, cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := process.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	end(t, exit, 3)
	execPid := process.Pid()
	if _, err := process.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	for _, do := range []func(context.Context) error{
		task.Pause, task.Resume,
		func(ctx context.Context) error { return task.Kill(ctx, unix.SIGKILL) },
	} {
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	end(t, ended, 137)
	pid := task.Pid()
	expect := func(all ...string) {
		t.Helper()
		for _, want := range all {
			if got := next(); got != want {
				t.Errorf("the event is %q, want %q", got, want)
			}
		}
	}
	expect(
		fmt.Sprintf("create %d", pid), fmt.Sprintf("start %d", pid),
		"exec-added again", fmt.Sprintf("exec-started again %d", execPid), fmt.Sprintf("exit again %d 3", execPid),
		"paused", "resumed", fmt.Sprintf("exit told %d 137", pid),
	)
	remove(t, task)
	if s.runtime == harness.FlashcubeRuntime {
		// The stock shim may end without telling of the last thing.
		expect(fmt.Sprintf("delete %d 137", pid))
	}
}

// subscribe returns a function that waits for the next event of a container's task.
func subscribe(t *testing.T, client *containerd.Client, id string) (next func() string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	envelopes, errs := client.Subscribe(ctx, `topic~="^/tasks/"`)
	t.Cleanup(func() {
		cancel()
		for range errs { // until the stream has ended
		}
	})
	return func() string {
		t.Helper()
		for {
			select {
			case e := <-envelopes:
				if text := describe(t, e, id); text != "" {
					return text
				}
			case err := <-errs:
				t.Fatalf("events end: %v", err)
			case <-time.After(time.Minute):
				t.Fatal("no event")
			}
		}
	}
}

// describe puts an event of a container in words; of another, there are none.
func describe(t *testing.T, e *events.Envelope, id string) string {
	t.Helper()
	event, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := event.(interface{ GetContainerID() string }); !ok || c.GetContainerID() != id {
		return ""
	}
	switch e := event.(type) {
	case *apievents.TaskCreate:
		return fmt.Sprintf("create %d", e.Pid)
	case *apievents.TaskStart:
		return fmt.Sprintf("start %d", e.Pid)
	case *apievents.TaskExecAdded:
		return "exec-added " + e.ExecID
	case *apievents.TaskExecStarted:
		return fmt.Sprintf("exec-started %s %d", e.ExecID, e.Pid)
	case *apievents.TaskExit:
		return fmt.Sprintf("exit %s %d %d", e.ID, e.Pid, e.ExitStatus)
	case *apievents.TaskPaused:
		return "paused"
	case *apievents.TaskResumed:
		return "resumed"
	case *apievents.TaskOOM:
		return "oom"
	case *apievents.TaskDelete:
		if e.ID != "" && e.ID != id {
			return "" // of an exec; not every shim tells
		}
		return fmt.Sprintf("delete %d %d", e.Pid, e.ExitStatus)
	}
	return fmt.Sprintf("%T", event)
}
