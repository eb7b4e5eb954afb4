package task_test

import (
	"context"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
)

// fake is a fall-back that only notes what it is asked.
type fake struct {
	taskapi.TTRPCTaskService // of which nothing else is called

	mu      sync.Mutex
	created []*taskapi.CreateTaskRequest
	onMake  func() // called by Create
	err     error
}

func (f *fake) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = append(f.created, r)
	if f.onMake != nil {
		f.onMake()
	}
	return &taskapi.CreateTaskResponse{Pid: 7}, f.err
}

func (f *fake) State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return &taskapi.StateResponse{Pid: 7}, nil
}

func (f *fake) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	return &taskapi.DeleteResponse{Pid: 7}, nil
}
