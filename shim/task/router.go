package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/peregrine-dev/peregrine/shim/oci"
)

// AnnotationFallback has a container run by the fall-back when it is "true".
const AnnotationFallback = "peregrine.dev/flashcube.fallback"

// Router is the Task service of a shim: it runs containers natively, and those that it
// can't by the stock service. It is safe for concurrent use.
type Router struct {
	Native *Native
	// Fallback is the stock service, made when it is first needed.
	Fallback func() (taskapi.TTRPCTaskService, error)
	// Binary is the runtime of the fall-back for containers that name none.
	Binary string
	// Count notes why a container fell back.
	Count func(reason string)
	// Stop ends the shim; there are no containers any more.
	Stop func()

	mu sync.Mutex
	// services has the service of each container.
	services map[string]service
}

// service is the part of the Task service that is about existing containers.
type service interface {
	Start(context.Context, *taskapi.StartRequest) (*taskapi.StartResponse, error)
	Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error)
	State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error)
	Wait(context.Context, *taskapi.WaitRequest) (*taskapi.WaitResponse, error)
	Kill(context.Context, *taskapi.KillRequest) (*emptypb.Empty, error)
	Pids(context.Context, *taskapi.PidsRequest) (*taskapi.PidsResponse, error)
	Pause(context.Context, *taskapi.PauseRequest) (*emptypb.Empty, error)
	Resume(context.Context, *taskapi.ResumeRequest) (*emptypb.Empty, error)
	Update(context.Context, *taskapi.UpdateTaskRequest) (*emptypb.Empty, error)
	Stats(context.Context, *taskapi.StatsRequest) (*taskapi.StatsResponse, error)
	ResizePty(context.Context, *taskapi.ResizePtyRequest) (*emptypb.Empty, error)
	CloseIO(context.Context, *taskapi.CloseIORequest) (*emptypb.Empty, error)
	Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error)
	Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error)
	Exec(context.Context, *taskapi.ExecProcessRequest) (*emptypb.Empty, error)
}

var _ taskapi.TTRPCTaskService = (*Router)(nil)

// Create makes a container, natively if that can be.
func (r *Router) Create(ctx context.Context, req *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := r.reserve(req.ID); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	response, by, err := r.create(ctx, namespace, req)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		delete(r.services, req.ID)
		return nil, errgrpc.ToGRPC(err)
	}
	r.services[req.ID] = by
	return response, nil
}

// reserve takes the id, for a container in the making.
func (r *Router) reserve(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.services[id]; ok {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if r.services == nil {
		r.services = map[string]service{}
	}
	r.services[id] = nil
	return nil
}

func (r *Router) create(ctx context.Context, namespace string, req *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, service, error) {
	options, err := decodeOptions(req.Options)
	if err != nil {
		return nil, nil, err
	}
	response, release, err := r.Native.Create(ctx, namespace, req, options)
	if err == nil {
		return response, r.Native, nil
	}
	if release != nil {
		// Whoever reads a fifo would take its closing for the end; a logging program must
		// not run twice.
		if strings.Contains(req.Stdout, "://") {
			release()
		} else {
			defer release()
		}
	}
	var last *final
	if errors.As(err, &last) {
		return nil, nil, err
	}
	reason := "failed"
	var unsupported oci.Unsupported
	if errors.As(err, &unsupported) {
		reason = unsupported.Reason
	}
	log.G(ctx).WithError(err).WithField("id", req.ID).Info("running a container by the fall-back")
	r.Count(reason)
	response, by, err := r.createFallback(ctx, namespace, req, options)
	return response, by, err
}

// createFallback has the stock service create a container.
func (r *Router) createFallback(ctx context.Context, namespace string, req *taskapi.CreateTaskRequest, o *runcoptions.Options) (_ *taskapi.CreateTaskResponse, _ service, err error) {
	stock, err := r.Fallback()
	if err != nil {
		return nil, nil, fmt.Errorf("start the fall-back: %w", err)
	}
	if o == nil {
		o = &runcoptions.Options{}
	}
	if o.BinaryName == "" {
		o.BinaryName = r.Binary
	}
	if req.Options, err = typeurl.MarshalAnyToProto(o); err != nil {
		return nil, nil, err
	}
	state := State{ID: req.ID, Namespace: namespace, Fallback: true}
	if err := state.Save(req.Bundle); err != nil {
		return nil, nil, err
	}
	// Hooks of the fall-back's begin where this process is: in the bundle, as the stock
	// shim does.
	if err := os.Chdir(req.Bundle); err != nil {
		return nil, nil, err
	}
	response, err := stock.Create(ctx, req)
	if err != nil {
		return nil, nil, errors.Join(err, forget(req.Bundle))
	}
	return response, &fallen{stock, req.Bundle}, nil
}

// fallen is the stock service for one container.
type fallen struct {
	taskapi.TTRPCTaskService
	bundle string
}

// Delete also takes away what this shim left in the bundle.
func (f *fallen) Delete(ctx context.Context, req *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	response, err := f.TTRPCTaskService.Delete(ctx, req)
	if err == nil && req.ExecID == "" {
		err = forget(f.bundle)
	}
	return response, err
}

// decodeOptions reads the runtime's options: runc's, which CRI and nerdctl know, or the
// generic ones, which have nothing for this runtime.
func decodeOptions(any *anypb.Any) (*runcoptions.Options, error) {
	if len(any.GetValue()) == 0 {
		return &runcoptions.Options{}, nil
	}
	v, err := typeurl.UnmarshalAny(any)
	if err != nil {
		return nil, fmt.Errorf("decode the runtime's options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	switch o := v.(type) {
	case *runcoptions.Options:
		return o, nil
	case *runtimeoptions.Options:
		return &runcoptions.Options{}, nil
	}
	return nil, fmt.Errorf("options of type %s, want containerd.runc.v1.Options: %w", any.TypeUrl, errdefs.ErrInvalidArgument)
}

// of is the service of a container.
func (r *Router) of(id string) (service, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.services[id]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("container not created: %w", errdefs.ErrNotFound)
}

// ask has the service of a container answer.
func ask[Q, A any](ctx context.Context, r *Router, id string, q Q, method func(service, context.Context, Q) (A, error)) (A, error) {
	var none A
	s, err := r.of(id)
	if err != nil {
		return none, errgrpc.ToGRPC(err)
	}
	a, err := method(s, ctx, q)
	if err != nil {
		return none, errgrpc.ToGRPC(err)
	}
	return a, nil
}

// Delete removes a process.
func (r *Router) Delete(ctx context.Context, q *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	a, err := ask(ctx, r, q.ID, q, service.Delete)
	if err == nil && q.ExecID == "" {
		r.mu.Lock()
		delete(r.services, q.ID)
		r.mu.Unlock()
	}
	return a, err
}

// Shutdown ends the shim when it has no containers.
func (r *Router) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	r.mu.Lock()
	left := len(r.services)
	r.mu.Unlock()
	if left == 0 {
		r.Stop()
	}
	return &emptypb.Empty{}, nil
}

// Connect tells the pids, of a container that isn't there too.
func (r *Router) Connect(ctx context.Context, q *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	s, err := r.of(q.ID)
	if err != nil {
		return r.Native.Connect(ctx, q)
	}
	return s.Connect(ctx, q)
}

// Start runs a created program.
func (r *Router) Start(ctx context.Context, q *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return ask(ctx, r, q.ID, q, service.Start)
}

// State tells how a process is.
func (r *Router) State(ctx context.Context, q *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return ask(ctx, r, q.ID, q, service.State)
}

// Wait waits for a process to end.
func (r *Router) Wait(ctx context.Context, q *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	return ask(ctx, r, q.ID, q, service.Wait)
}

// Kill sends a signal.
func (r *Router) Kill(ctx context.Context, q *taskapi.KillRequest) (*emptypb.Empty, error) {
	return ask(ctx, r, q.ID, q, service.Kill)
}

// Pids lists a container's processes.
func (r *Router) Pids(ctx context.Context, q *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	return ask(ctx, r, q.ID, q, service.Pids)
}

// Pause freezes a container.
func (r *Router) Pause(ctx context.Context, q *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return ask(ctx, r, q.ID, q, service.Pause)
}

// Resume thaws it.
func (r *Router) Resume(ctx context.Context, q *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return ask(ctx, r, q.ID, q, service.Resume)
}

// Update changes limits.
func (r *Router) Update(ctx context.Context, q *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return ask(ctx, r, q.ID, q, service.Update)
}

// Stats are a container's figures.
func (r *Router) Stats(ctx context.Context, q *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return ask(ctx, r, q.ID, q, service.Stats)
}

// ResizePty sets the size of a terminal.
func (r *Router) ResizePty(ctx context.Context, q *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return ask(ctx, r, q.ID, q, service.ResizePty)
}

// CloseIO ends a process's standard input.
func (r *Router) CloseIO(ctx context.Context, q *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	return ask(ctx, r, q.ID, q, service.CloseIO)
}

// Checkpoint saves a container to disk.
func (r *Router) Checkpoint(ctx context.Context, q *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return ask(ctx, r, q.ID, q, service.Checkpoint)
}

// Exec adds a process.
func (r *Router) Exec(ctx context.Context, q *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	return ask(ctx, r, q.ID, q, service.Exec)
}
