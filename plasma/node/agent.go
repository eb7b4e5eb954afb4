package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/place"
)

// protocol is the version of what hosts and plasmad say to each other.
const protocol = 1

// registerTimeout bounds waiting for etcd.
const registerTimeout = 20 * time.Second

// Register is api.AgentService's. A client's instance is 0: it owns nothing.
func (a *agent) Register(ctx context.Context, r *api.RegisterRequest) (*api.RegisterResponse, error) {
	if r.GetVersion() != protocol {
		return nil, rpc(fmt.Errorf("a host speaks version %d of the protocol, plasmad version %d: build the application with a release that fits: %w", r.GetVersion(), protocol, errdefs.ErrNotImplemented))
	}
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	s, ok := a.Mirror.Service(a.service)
	if !ok {
		return nil, rpc(fmt.Errorf("there is no service %s: %w", a.service, errdefs.ErrUnavailable))
	}
	answer := &api.RegisterResponse{Service: a.service, Server: a.server, Node: a.Options.Node}
	if a.Secure {
		answer.Certificate, answer.Key = s.Certificate, s.Key
	}
	if a.server == "" {
		return answer, nil
	}
	under := int64(a.Membership.Lease())
	i, err := a.Membership.Register(ctx, place.Instance{Service: a.service, Server: a.server, Node: a.Options.Node, Address: r.GetAddress()})
	if err != nil {
		return nil, rpc(fmt.Errorf("register %s: %w", a.server, err))
	}
	// What the host is told next shows what earlier instances did.
	if err := a.Mirror.Await(ctx, i.Revision); err != nil {
		return nil, rpc(fmt.Errorf("register %s: %w: %w", a.server, err, errdefs.ErrUnavailable))
	}
	a.mu.Lock()
	a.instance, a.under = i, under
	relocate := a.relocate
	a.mu.Unlock()
	answer.Instance, answer.Revision = i.Instance, i.Revision
	if relocate {
		if answer.Lease = a.lease(); answer.Lease == 0 {
			return nil, rpc(fmt.Errorf("register %s: the node's lease was lost meanwhile: %w", a.server, errdefs.ErrUnavailable))
		}
	}
	log.G(ctx).WithField("server", a.server).WithField("instance", i.Instance).Info("a host has registered")
	return answer, nil
}

// lease is how long a host may serve that could lose its actors without being asked. It is 0 if
// the node's lease is not the one that the host has registered under: others may have got the
// actors in between, which the host is to know before it serves.
func (a *agent) lease() int64 {
	until := a.Membership.Valid() // before the look at the lease, so that it is not of a later one
	a.mu.Lock()
	under := a.under
	a.mu.Unlock()
	if under == 0 || int64(a.Membership.Lease()) != under {
		return 0
	}
	return max(int64(time.Until(until)), 1)
}

// Watch is api.AgentService's.
func (a *agent) Watch(ctx context.Context, _ *api.WatchRequest, to api.Agent_WatchServer) error {
	return rpc(a.Mirror.WatchPlacement(ctx, a.service, to.Send))
}

// Commit is api.AgentService's.
func (a *agent) Commit(ctx context.Context, r *api.CommitRequest) (*api.CommitResponse, error) {
	if a.server == "" {
		return nil, rpc(fmt.Errorf("a client owns no actors: %w", errdefs.ErrPermissionDenied))
	}
	refused, err := a.Store.CommitMoves(ctx, a.service, a.server, r.GetInstance(), r.GetMoves())
	if err != nil {
		return nil, rpc(err)
	}
	return &api.CommitResponse{Refused: refused}, nil
}

// Report is api.AgentService's. ErrNotFound: the host's instance is not known (any more): it has to
// register again.
func (a *agent) Report(_ context.Context, r *api.ReportRequest) (*api.ReportResponse, error) {
	if a.server == "" {
		return nil, rpc(fmt.Errorf("a client has nothing to report: %w", errdefs.ErrPermissionDenied))
	}
	if !a.registered(r.GetInstance()) {
		return nil, rpc(fmt.Errorf("instance %d of server %s is not the one that is registered: %w", r.GetInstance(), a.server, errdefs.ErrNotFound))
	}
	a.Sampler.Report(a.server, r)
	answer := &api.ReportResponse{}
	a.mu.Lock()
	relocate := a.relocate
	a.mu.Unlock()
	if relocate {
		if answer.Lease = a.lease(); answer.Lease == 0 {
			return nil, rpc(fmt.Errorf("the node of server %s had no lease for a time: %w", a.server, errdefs.ErrNotFound))
		}
	}
	return answer, nil
}

// registered tells whether an instance is the server's.
func (a *agent) registered(instance uint64) bool {
	a.mu.Lock()
	own := a.instance.Instance
	a.mu.Unlock()
	if own == instance && own != 0 {
		return true // the mirror may be behind
	}
	return own == 0 && slices.ContainsFunc(a.Mirror.Instances(a.service), func(i place.Instance) bool {
		return i.Server == a.server && i.Instance == instance
	})
}
