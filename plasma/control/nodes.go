package control

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/place"
)

// LocalNode is what this node's package node does.
type LocalNode interface {
	Profile(ctx context.Context, period time.Duration, got func(*api.ProfileResponse) error) error
	Freeze(ctx context.Context, r *api.NodeFreezeRequest) (*api.FreezeResponse, error)
	// ClientSocket and PeersOf are where programs on this node find a service's hosts.
	ClientSocket(service string) string
	PeersOf(service string) string
}

// Nodes asks this node and others. It is global.Nodes.
type Nodes struct {
	Node  string // this one
	Local LocalNode
	Peers *Peers
}

// Profile gives what a node measures, until ctx is done or the node is lost.
func (n Nodes) Profile(ctx context.Context, m place.Member, period time.Duration, got func(*api.ProfileResponse)) error {
	if m.Node == n.Node {
		return n.Local.Profile(ctx, period, func(p *api.ProfileResponse) error { got(p); return nil })
	}
	c, err := n.Peers.To(m)
	if err != nil {
		return err
	}
	stream, err := api.NewNodeClient(c).Profile(ctx, &api.ProfileRequest{Period: int64(period)})
	if err != nil {
		return errgrpc.ToNative(err)
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			return errgrpc.ToNative(err)
		}
		got(p)
	}
}

// Freeze is package node's Freeze, of any node.
func (n Nodes) Freeze(ctx context.Context, m place.Member, r *api.NodeFreezeRequest) (*api.FreezeResponse, error) {
	if m.Node == n.Node {
		return n.Local.Freeze(ctx, r)
	}
	c, err := n.Peers.To(m)
	if err != nil {
		return nil, err
	}
	answer, err := api.NewNodeClient(c).Freeze(ctx, r)
	return answer, errgrpc.ToNative(err)
}

// NodeServer answers other nodes.
type NodeServer struct {
	api.UnimplementedNodeServer
	Local LocalNode
}

// Profile is api.NodeServer's.
func (s NodeServer) Profile(r *api.ProfileRequest, to grpc.ServerStreamingServer[api.ProfileResponse]) error {
	period := time.Duration(r.GetPeriod())
	if period < 100*time.Millisecond {
		return errgrpc.ToGRPC(fmt.Errorf("a period of %s is too short: %w", period, errdefs.ErrInvalidArgument))
	}
	return errgrpc.ToGRPC(s.Local.Profile(to.Context(), period, to.Send))
}

// Freeze is api.NodeServer's.
func (s NodeServer) Freeze(ctx context.Context, r *api.NodeFreezeRequest) (*api.FreezeResponse, error) {
	answer, err := s.Local.Freeze(ctx, r)
	return answer, errgrpc.ToGRPC(err)
}
