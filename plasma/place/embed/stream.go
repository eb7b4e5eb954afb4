package embed

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stream is a client's, which ends with the member. Etcd's own end waits for watches, which have
// none, until it gives up after some seconds.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context ends with the client's or the member.
func (s stream) Context() context.Context { return s.ctx }

// open serves a client's stream. Unavailable makes clients go on elsewhere, or later.
func (m *Member) open(server any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	defer context.AfterFunc(m.streams, cancel)()
	if err := next(server, stream{s, ctx}); m.streams.Err() == nil {
		return err
	}
	return status.Error(codes.Unavailable, "etcd stops")
}
