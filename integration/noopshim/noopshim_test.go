package noopshim_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"github.com/peregrine-dev/peregrine/integration/noopshim"
)

// TestServe asks for a task's life by containerd's own client.
func TestServe(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	ctx, stop := context.WithCancel(t.Context())
	listener, err := noopshim.Listen(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- noopshim.Serve(ctx, listener) }()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	transport := ttrpc.NewClient(conn)
	client := task.NewTTRPCTaskClient(transport)
	pid := uint32(os.Getpid())
	if r, err := client.Create(ctx, &task.CreateTaskRequest{ID: "x"}); err != nil || r.Pid != pid {
		t.Errorf("created process %d, %v", r.GetPid(), err)
	}
	if r, err := client.Start(ctx, &task.StartRequest{ID: "x"}); err != nil || r.Pid != pid {
		t.Errorf("started process %d, %v", r.GetPid(), err)
	}
	if r, err := client.State(ctx, &task.StateRequest{ID: "x"}); err != nil || r.Status != tasktypes.Status_STOPPED {
		t.Errorf("the state is %v, %v", r, err)
	}
	if _, err := client.Pause(ctx, &task.PauseRequest{ID: "x"}); !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("pause answers %v, want not implemented", err)
	}
	if _, err := client.Shutdown(ctx, &task.ShutdownRequest{ID: "x"}); err != nil {
		t.Error(err)
	}
	if err := transport.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}
