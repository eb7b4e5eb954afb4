package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/epl/vet"
	"github.com/peregrine-dev/peregrine/plasma/global"
	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// ClusterServer answers users. It may be used by several goroutines at once.
type ClusterServer struct {
	api.UnimplementedClusterServer
	Node    string
	Store   *place.Store
	Mirror  *place.Mirror
	Manager *global.Manager
	Local   LocalNode
	Peers   *Peers

	mu      sync.Mutex
	clients map[string]*host.Client // by service, for Call
}

// Close ends the clients.
func (s *ClusterServer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		_ = c.Close()
	}
	s.clients = nil
}

// leader gives the client of the node that is the global manager; nil if it is this one.
func (s *ClusterServer) leader() (api.ClusterClient, error) {
	if s.Manager.Leads() {
		return nil, nil
	}
	m, ok := s.Mirror.Leader()
	if !ok || m.Node == s.Node {
		return nil, fmt.Errorf("no global manager is elected yet: %w", errdefs.ErrUnavailable)
	}
	c, err := s.Peers.To(m)
	if err != nil {
		return nil, err
	}
	return api.NewClusterClient(c), nil
}

// either does something here if this node is the global manager, else there.
func either[Q, A any](ctx context.Context, s *ClusterServer, r Q, here func() (A, error), there func(api.ClusterClient, context.Context, Q, ...grpc.CallOption) (A, error)) (a A, err error) {
	c, err := s.leader()
	switch {
	case err != nil:
		return a, errgrpc.ToGRPC(err)
	case c == nil:
		a, err = here()
		return a, errgrpc.ToGRPC(err)
	}
	return there(c, ctx, r)
}

// Apply is api.ClusterServer's. It takes effect when the global manager has seen it.
func (s *ClusterServer) Apply(ctx context.Context, r *api.ApplyRequest) (*api.ApplyResponse, error) {
	answer, err := s.apply(ctx, r)
	return answer, errgrpc.ToGRPC(err)
}

func (s *ClusterServer) apply(ctx context.Context, r *api.ApplyRequest) (*api.ApplyResponse, error) {
	spec, err := service.Parse("the service", []byte(r.GetService()))
	if err != nil {
		return nil, err
	}
	answer := &api.ApplyResponse{}
	if answer.Warnings, err = check(r); err != nil {
		return nil, err
	}
	err = s.edit(ctx, func() (place.Service, bool, error) {
		v, there := s.Mirror.Service(spec.Name)
		if there && v.Deleting {
			return v, false, fmt.Errorf("service %s is being deleted: apply it again when it is gone: %w", spec.Name, errdefs.ErrFailedPrecondition)
		}
		answer.Changes = changes(&v, there, spec, r)
		if r.GetDryRun() || len(answer.Changes) == 0 {
			return v, false, nil
		}
		if !there {
			v = place.Service{Name: spec.Name}
			if v.Certificate, v.Key, err = certificate(spec.Name); err != nil {
				return v, false, err
			}
		}
		if !there || differ(v.Spec, spec) {
			v.Generation++
		}
		v.Spec, v.Policy, v.Manifest = r.GetService(), r.GetPolicy(), r.GetManifest()
		return v, true, nil
	})
	return answer, err
}

// edit stores what change makes of a service as it is known, again if the mirror was behind.
func (s *ClusterServer) edit(ctx context.Context, change func() (v place.Service, store bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, editing)
	defer cancel()
	for {
		changed := s.Mirror.Changed()
		v, store, err := change()
		if err != nil || !store {
			return err
		}
		_, err = s.Store.PutService(ctx, v)
		if !errdefs.IsAborted(err) && !errdefs.IsAlreadyExists(err) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		}
	}
}

// editing bounds how long a change waits for the mirror.
const editing = 5 * time.Second

// check vets a policy, and gives its warnings.
func check(r *api.ApplyRequest) (warnings []string, err error) {
	var schema *manifest.Manifest
	if r.GetManifest() != "" {
		if schema, err = manifest.Read("the manifest", []byte(r.GetManifest())); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	tree, err := epl.Parse("the policy", []byte(r.GetPolicy()), epl.Full)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if _, err := ir.Compile(tree); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if r.GetPolicy() == "" {
		return nil, nil
	}
	findings := vet.Check(tree, schema)
	for _, f := range findings {
		warnings = append(warnings, fmt.Sprintf("%s: %s: %s", f.Pos, f.Severity, f.Message))
	}
	if vet.Refused(findings) {
		return nil, fmt.Errorf("the policy: %s: %w", strings.Join(warnings, "; "), errdefs.ErrInvalidArgument)
	}
	return warnings, nil
}

// differ tells whether containers have to be replaced for a change.
func differ(text string, now *service.Spec) bool {
	was, err := service.Parse(now.Name, []byte(text))
	if err != nil {
		return true
	}
	return !bytes.Equal(container(was), container(now))
}

// container is what is of a service's containers.
func container(s *service.Spec) []byte {
	c := *s
	c.Policy, c.Manifest, c.Servers, c.Limit, c.Most, c.Relocate, c.Metrics = "", "", service.Servers{}, service.Amounts{}, service.Amounts{}, false, ""
	text, err := json.Marshal(&c)
	if err != nil {
		panic(err) // plain values
	}
	return text
}

// changes says what an application of a service changes.
func changes(v *place.Service, there bool, spec *service.Spec, r *api.ApplyRequest) (all []string) {
	if !there {
		return []string{fmt.Sprintf("service %s is created", spec.Name)}
	}
	if v.Spec != r.GetService() {
		all = append(all, "the service's file changes")
		if differ(v.Spec, spec) {
			all = append(all, "its containers are replaced, one after the other")
		}
	}
	if v.Policy != r.GetPolicy() {
		all = append(all, "the policy changes")
	}
	if v.Manifest != r.GetManifest() {
		all = append(all, "the manifest changes")
	}
	return all
}

// Delete is api.ClusterServer's. It is answered before all is gone.
func (s *ClusterServer) Delete(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	if err := s.Store.DeleteService(ctx, r.GetService(), r.GetState()); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.DeleteResponse{}, nil
}

// Pause is api.ClusterServer's.
func (s *ClusterServer) Pause(ctx context.Context, r *api.PauseRequest) (*api.PauseResponse, error) {
	err := s.edit(ctx, func() (place.Service, bool, error) {
		v, ok := s.Mirror.Service(r.GetService())
		if !ok {
			return v, false, missing(r.GetService())
		}
		same := v.Paused == r.GetPaused()
		v.Paused = r.GetPaused()
		return v, !same, nil
	})
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.PauseResponse{}, nil
}

func missing(service string) error {
	return fmt.Errorf("there is no service %s: %w", service, errdefs.ErrNotFound)
}

// Status is api.ClusterServer's.
func (s *ClusterServer) Status(ctx context.Context, r *api.StatusRequest) (*api.StatusResponse, error) {
	return either(ctx, s, r, func() (*api.StatusResponse, error) {
		now, _ := s.Manager.Status()
		text, err := global.Describe(now, r.GetService())
		return &api.StatusResponse{Status: text}, err
	}, api.ClusterClient.Status)
}

// breath is between two that Watch sends.
const breath = 250 * time.Millisecond

// Watch is api.ClusterServer's. It ends when another node is elected.
func (s *ClusterServer) Watch(r *api.StatusRequest, to grpc.ServerStreamingServer[api.StatusResponse]) error {
	ctx := to.Context()
	c, err := s.leader()
	if err != nil {
		return errgrpc.ToGRPC(err)
	}
	if c != nil {
		from, err := c.Watch(ctx, r)
		if err != nil {
			return err
		}
		for {
			m, err := from.Recv()
			if err != nil {
				return err
			}
			if err := to.Send(m); err != nil {
				return err
			}
		}
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for s.Manager.Leads() {
		now, changed := s.Manager.Status()
		text, err := global.Describe(now, r.GetService())
		if err != nil {
			return errgrpc.ToGRPC(err)
		}
		if err := to.Send(&api.StatusResponse{Status: text}); err != nil {
			return err
		}
		pause.Reset(breath)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errgrpc.ToGRPC(fmt.Errorf("another node is the global manager now: %w", errdefs.ErrUnavailable))
}

// Plan is api.ClusterServer's.
func (s *ClusterServer) Plan(ctx context.Context, r *api.PlanRequest) (*api.PlanResponse, error) {
	return either(ctx, s, r, func() (*api.PlanResponse, error) {
		record, err := s.Manager.Record(ctx, r.GetService(), r.GetPolicy())
		return &api.PlanResponse{Record: record}, err
	}, api.ClusterClient.Plan)
}

// Move is api.ClusterServer's.
func (s *ClusterServer) Move(ctx context.Context, r *api.UserMoveRequest) (*api.UserMoveResponse, error) {
	return either(ctx, s, r, func() (*api.UserMoveResponse, error) {
		return &api.UserMoveResponse{}, s.Manager.Move(ctx, r.GetService(), placement.Of(r.GetActor()), r.GetTo())
	}, api.ClusterClient.Move)
}

// Drain is api.ClusterServer's.
func (s *ClusterServer) Drain(ctx context.Context, r *api.DrainRequest) (*api.DrainResponse, error) {
	return either(ctx, s, r, func() (*api.DrainResponse, error) {
		return &api.DrainResponse{}, s.Manager.Drain(ctx, r.GetService(), r.GetServer())
	}, api.ClusterClient.Drain)
}

// Call is api.ClusterServer's: for people and scripts. Programs call by package host.
func (s *ClusterServer) Call(ctx context.Context, r *api.CallRequest) (*api.CallResponse, error) {
	if _, ok := s.Mirror.Service(r.GetService()); !ok {
		return nil, errgrpc.ToGRPC(missing(r.GetService()))
	}
	c, err := s.client(ctx, r.GetService())
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	body, err := c.Call(ctx, placement.Of(r.GetTo()), r.GetFunction(), r.GetBody())
	var own *host.Error
	switch {
	case errors.As(err, &own):
		return &api.CallResponse{Error: own.Text}, nil
	case err != nil:
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.CallResponse{Body: body}, nil
}

// client gives the client of a service.
func (s *ClusterServer) client(ctx context.Context, name string) (*host.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[name]; c != nil {
		return c, nil
	}
	c, err := host.Dial(context.WithoutCancel(ctx), s.Local.ClientSocket(name), s.Local.PeersOf(name))
	if err != nil {
		return nil, err
	}
	if s.clients == nil {
		s.clients = map[string]*host.Client{}
	}
	s.clients[name] = c
	log.G(ctx).WithField("service", name).Debug("connected as a client")
	return c, nil
}
