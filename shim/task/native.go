// Package task is the Task service of the shim: containers that it runs natively in
// cubes, and, behind the same service, those that another runtime runs for it.
package task

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/peregrine-dev/peregrine/shim/cgroup"
	"github.com/peregrine-dev/peregrine/shim/cube"
	"github.com/peregrine-dev/peregrine/shim/stdio"
)

// Native runs containers in cubes. It is safe for concurrent use.
type Native struct {
	// Dir is the shim's directory, which has the state of a container in the making. It is
	// set before use; empty is none.
	Dir string

	root     string // of all profiles
	host     *cgroup.Host
	builder  *cube.Builder
	appArmor bool
	exits    *exits
	send     func(event any)

	mu         sync.Mutex
	spare      *cube.Cube // made ahead; nil once it is used
	containers map[string]*container
	// anticipated is the first container, begun before it was asked for.
	anticipated *anticipated
}

// NewNative is a service without containers for the parts below root, which sends its events to send until done
// is closed. This process must reap its children through containerd's reaper.
func NewNative(root string, host *cgroup.Host, builder *cube.Builder, send func(event any), done <-chan struct{}) *Native {
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return &Native{
		root: root, host: host, builder: builder, send: send,
		appArmor:   strings.HasPrefix(string(enabled), "Y"),
		exits:      watchExits(done),
		containers: map[string]*container{},
	}
}

// Prepare makes a cube ahead, for the first container.
func (s *Native) Prepare() error {
	made, err := s.builder.Cube()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = made
	return nil
}

// takeSpare is the cube that was made ahead, nil if there is none.
func (s *Native) takeSpare() *cube.Cube {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := s.spare
	s.spare = nil
	return made
}

// Create makes a container, up to its program. A container that is not for this service
// is an oci.Unsupported error. After a failure nothing of the container is left but its
// open streams: release closes them, once somebody else has opened them too or nobody
// will, for whoever reads them would take that for the end.
func (s *Native) Create(ctx context.Context, namespace string, r *taskapi.CreateTaskRequest, o *runcoptions.Options) (_ *taskapi.CreateTaskResponse, release func(), err error) {
	a := s.anticipation(r.ID, r.Bundle)
	if a == nil {
		a = s.begin(context.WithoutCancel(ctx), namespace, r.ID, r.Bundle)
	}
	err = a.err
	if err == nil {
		err = s.finish(ctx, a, namespace, r, o)
	}
	if err != nil {
		a.undo()
		if a.hooked {
			err = &final{err}
		}
		return nil, a.release, err
	}
	pid := uint32(a.process.Pid)
	s.keep(context.WithoutCancel(ctx), a, r)
	return &taskapi.CreateTaskResponse{Pid: pid}, nil, nil
}

// final is an error that no other runtime may try its luck with.
type final struct{ error }

func (f *final) Unwrap() error { return f.error }

func (s *Native) get(id string) (*container, error) {
	s.mu.Lock()
	c, ok := s.containers[id]
	s.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("container not created: %w", errdefs.ErrNotFound)
	}
	return c, nil
}

func (s *Native) find(id, execID string) (*container, *process, error) {
	c, err := s.get(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.process(execID)
	return c, p, err
}

// Start runs a created program.
func (s *Native) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID != "" {
		return s.startExec(ctx, c, r.ExecID)
	}
	c.init.op.Lock()
	defer c.init.op.Unlock()
	status, pid := c.init.state()
	if status != tasktypes.Status_CREATED {
		return nil, fmt.Errorf("cannot start a %s process: %w", word(status), errdefs.ErrFailedPrecondition)
	}
	if err := c.init.launched.Start(); err != nil {
		return nil, fmt.Errorf("start failed: %w", err)
	}
	c.init.setStatus(tasktypes.Status_RUNNING)
	if h := c.spec.Hooks; h != nil && len(h.Poststart) > 0 {
		if err := runHooks(ctx, reaped, "poststart", h.Poststart, c.ociState(specs.StateRunning, pid)); err != nil {
			_ = c.init.kill(unix.SIGKILL)
			return nil, err
		}
	}
	s.send(&eventstypes.TaskStart{ContainerID: c.id, Pid: uint32(pid)})
	return &taskapi.StartResponse{Pid: uint32(pid)}, nil
}

func word(s tasktypes.Status) string { return strings.ToLower(s.String()) }

// Delete removes a process that ended or never began, and with the init the container.
func (s *Native) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID != "" {
		return s.deleteExec(ctx, c, r.ExecID)
	}
	status, pid := c.init.state()
	switch status {
	case tasktypes.Status_STOPPED:
	case tasktypes.Status_CREATED:
		if err := c.init.kill(unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
		if err := c.init.wait(ctx); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("cannot delete a %s process: %w", word(status), errdefs.ErrFailedPrecondition)
	}
	c.init.op.Lock()
	defer c.init.op.Unlock()
	if _, err := s.get(r.ID); err != nil { // somebody else was faster
		return nil, err
	}
	if err := s.remove(ctx, c); err != nil {
		return nil, err
	}
	s.mu.Lock()
	delete(s.containers, c.id)
	s.mu.Unlock()
	exitStatus, at := c.init.exit()
	s.send(&eventstypes.TaskDelete{
		ContainerID: c.id, Pid: uint32(pid), ExitStatus: exitStatus, ExitedAt: protobuf.ToTimestamp(at),
	})
	return &taskapi.DeleteResponse{Pid: uint32(pid), ExitStatus: exitStatus, ExitedAt: protobuf.ToTimestamp(at)}, nil
}

// State tells how a process is.
func (s *Native) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	status, pid := p.state()
	exitStatus, at := p.exit()
	return &taskapi.StateResponse{
		ID: p.id, Bundle: c.bundle, Pid: uint32(pid), Status: status,
		Stdin: p.stdio.Stdin, Stdout: p.stdio.Stdout, Stderr: p.stdio.Stderr, Terminal: p.stdio.Terminal,
		ExitStatus: exitStatus, ExitedAt: protobuf.ToTimestamp(at),
	}, nil
}

// Wait waits for a process to end.
func (s *Native) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	status, at := p.exit()
	return &taskapi.WaitResponse{ExitStatus: status, ExitedAt: protobuf.ToTimestamp(at)}, nil
}

// Kill sends a signal to a process, or to all of the container's.
func (s *Native) Kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	signal := unix.Signal(r.Signal)
	if r.All && r.ExecID == "" {
		err = c.killAll(signal)
	} else {
		err = p.kill(signal)
	}
	if err == nil && signal == unix.SIGKILL && r.ExecID == "" {
		// What is frozen can't die.
		err = c.cgroup.Thaw()
		if errdefs.IsFailedPrecondition(err) || c.stopped() { // no freezer, or nothing to thaw
			err = nil
		}
	}
	return &emptypb.Empty{}, err
}

func (c *container) killAll(signal unix.Signal) error {
	if c.stopped() {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	if signal == unix.SIGKILL {
		return c.cgroup.Kill()
	}
	pids, err := c.cgroup.Procs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, signal); err != nil && err != unix.ESRCH {
			return os.NewSyscallError("kill", err)
		}
	}
	return nil
}

// Pids lists the container's processes.
func (s *Native) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	pids, err := c.cgroup.Procs()
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 { // to containerd that would be a shim without a task
		if _, pid := c.init.state(); pid != 0 {
			pids = []int{pid}
		}
	}
	ids := c.execIDs()
	var out []*tasktypes.ProcessInfo
	for _, pid := range pids {
		info := &tasktypes.ProcessInfo{Pid: uint32(pid)}
		if id, ok := ids[pid]; ok {
			if info.Info, err = typeurl.MarshalAnyToProto(&runcoptions.ProcessDetails{ExecID: id}); err != nil {
				return nil, err
			}
		}
		out = append(out, info)
	}
	return &taskapi.PidsResponse{Processes: out}, nil
}

// Pause freezes the container.
func (s *Native) Pause(_ context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	c.frozen.Lock()
	defer c.frozen.Unlock()
	c.init.op.Lock()
	defer c.init.op.Unlock()
	if status, _ := c.init.state(); status != tasktypes.Status_RUNNING {
		return nil, fmt.Errorf("cannot pause a %s process: %w", word(status), errdefs.ErrFailedPrecondition)
	}
	if err := c.cgroup.Freeze(); err != nil {
		return nil, err
	}
	c.init.setStatus(tasktypes.Status_PAUSED)
	s.send(&eventstypes.TaskPaused{ContainerID: c.id})
	return &emptypb.Empty{}, nil
}

// Resume thaws it.
func (s *Native) Resume(_ context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	c.init.op.Lock()
	defer c.init.op.Unlock()
	if status, _ := c.init.state(); status != tasktypes.Status_PAUSED {
		return nil, fmt.Errorf("cannot resume a %s process: %w", word(status), errdefs.ErrFailedPrecondition)
	}
	if err := c.cgroup.Thaw(); err != nil {
		return nil, err
	}
	c.init.setStatus(tasktypes.Status_RUNNING)
	s.send(&eventstypes.TaskResumed{ContainerID: c.id})
	return &emptypb.Empty{}, nil
}

// Update changes the container's limits.
func (s *Native) Update(_ context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	if r.Resources == nil {
		return nil, fmt.Errorf("resources cannot be empty: %w", errdefs.ErrInvalidArgument)
	}
	v, err := typeurl.UnmarshalAny(r.Resources)
	if err != nil {
		return nil, fmt.Errorf("decode the resources: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	resources, ok := v.(*specs.LinuxResources)
	if !ok {
		return nil, fmt.Errorf("resources of type %s: %w", r.Resources.TypeUrl, errdefs.ErrInvalidArgument)
	}
	return &emptypb.Empty{}, c.cgroup.Update(resources)
}

// Stats are the figures of the container's cgroups.
func (s *Native) Stats(_ context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := c.cgroup.Stats()
	if err != nil {
		return nil, err
	}
	data, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, err
	}
	return &taskapi.StatsResponse{Stats: data}, nil
}

// ResizePty sets the size of a process's terminal.
func (s *Native) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, p.resize(uint16(r.Width), uint16(r.Height))
}

// CloseIO ends a process's standard input.
func (s *Native) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if !r.Stdin {
		return &emptypb.Empty{}, nil
	}
	return &emptypb.Empty{}, p.closeStdin()
}

// Checkpoint is for containers of the fall-back only.
func (s *Native) Checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	if _, err := s.get(r.ID); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("container %s runs natively and can't be checkpointed; create it with the annotation %s=true: %w",
		r.ID, AnnotationFallback, errdefs.ErrNotImplemented)
}

// Connect tells the pids.
func (s *Native) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	var pid int
	if c, err := s.get(r.ID); err == nil {
		_, pid = c.init.state()
	}
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: uint32(pid)}, nil
}

// Exec adds a process to a container; Start makes it.
func (s *Native) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	if err := c.addExec(r.ExecID, r.Spec.GetValue(), stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}); err != nil {
		return nil, err
	}
	s.send(&eventstypes.TaskExecAdded{ContainerID: c.id, ExecID: r.ExecID})
	return &emptypb.Empty{}, nil
}
