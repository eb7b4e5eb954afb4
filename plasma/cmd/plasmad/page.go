package main

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/control"
	"github.com/peregrine-dev/peregrine/plasma/status"
	"github.com/peregrine-dev/peregrine/plasma/web"
)

// pageOf is the page that shows the cluster, as the server tells it.
func pageOf(c *control.ClusterServer) http.Handler {
	return web.New(func(ctx context.Context, tell func(*status.Cluster) error) error {
		return errgrpc.ToNative(c.Watch(&api.StatusRequest{}, &follower{ctx: ctx, tell: tell}))
	})
}

// follower takes what a Watch sends.
type follower struct {
	grpc.ServerStream
	ctx  context.Context
	tell func(*status.Cluster) error
}

// Context is grpc.ServerStream's.
func (f *follower) Context() context.Context { return f.ctx }

// Send takes a status.
func (f *follower) Send(r *api.StatusResponse) error {
	s := new(status.Cluster)
	if err := json.Unmarshal(r.GetStatus(), s); err != nil {
		return err
	}
	return f.tell(s)
}
