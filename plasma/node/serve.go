package node

import (
	"context"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

// Profile sends what is measured until ctx is done or got fails.
func (n *Node) Profile(ctx context.Context, period time.Duration, got func(*api.ProfileResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	profiles := n.Sampler.Subscribe(ctx, period)
	defer func() {
		cancel()
		for range profiles { // it ends with ctx
		}
	}()
	for p := range profiles {
		p.Trouble = n.Trouble()
		if err := got(p); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Freeze is what the host of one of the node's servers does.
func (n *Node) Freeze(ctx context.Context, r *api.NodeFreezeRequest) (*api.FreezeResponse, error) {
	if _, err := n.here(r.GetService(), r.GetServer()); err != nil {
		return nil, err
	}
	a, err := n.agentOf(r.GetServer())
	if err != nil {
		return nil, err
	}
	host, err := a.control(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := host.Freeze(ctx, &api.FreezeRequest{Frozen: r.GetFrozen(), Revision: r.GetRevision()})
	return answer, errgrpc.ToNative(err)
}
