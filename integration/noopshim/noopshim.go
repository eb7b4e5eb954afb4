// Package noopshim is a task service that does nothing: no container, no cgroup, no
// event. Behind the smallest possible start binary it is the floor under every runtime:
// what containerd itself needs for a task, whoever runs it.
//
// It is a part of the benchmark and is never installed.
package noopshim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// AddressVariable is the variable of containerd's environment with which
// containerd-shim-noop-v1 learns the path of the socket to ask.
const AddressVariable = "NOOPSHIM_ADDRESS"

// Listen makes the socket that Serve takes over.
func Listen(ctx context.Context, socket string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen for containerd: %w", err)
	}
	return listener, nil
}

// Serve answers containerd for any number of tasks until ctx is done, which is no error,
// and closes the listener. Every task is this process, and has exited as soon as it has
// started.
func Serve(ctx context.Context, listener net.Listener) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	server.RegisterService("containerd.task.v3.Task", &ttrpc.ServiceDesc{Methods: methods(uint32(os.Getpid()))})
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(ctx, listener); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
		return err
	}
	return nil
}

// methods are those of the task service that starting and deleting a task takes. The
// others are answered with "not implemented".
func methods(pid uint32) map[string]ttrpc.Method {
	now := timestamppb.New(time.Now())
	m := map[string]ttrpc.Method{}
	for name, response := range map[string]proto.Message{
		"Create":   &task.CreateTaskResponse{Pid: pid},
		"Start":    &task.StartResponse{Pid: pid},
		"State":    &task.StateResponse{Pid: pid, Status: tasktypes.Status_STOPPED, ExitedAt: now},
		"Pids":     &task.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: pid}}},
		"Connect":  &task.ConnectResponse{ShimPid: pid, TaskPid: pid},
		"Kill":     &emptypb.Empty{},
		"Wait":     &task.WaitResponse{ExitedAt: now},
		"Delete":   &task.DeleteResponse{Pid: pid, ExitedAt: now},
		"Shutdown": &emptypb.Empty{},
	} {
		m[name] = func(context.Context, func(any) error) (any, error) { return response, nil }
	}
	return m
}
