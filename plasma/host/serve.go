package host

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/lane"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// peerService is what other hosts call.
type peerService struct{ *Host }

// Deliver implements api.PeerService.
func (h peerService) Deliver(ctx context.Context, req *api.DeliverRequest) (*api.DeliverResponse, error) {
	to := placement.Of(req.GetTo())
	m, err := messageOf(to, req)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	r := h.Host.local(ctx, to, m)
	var moved *errMoved
	var app *Error
	switch {
	case errors.As(r.err, &moved):
		return &api.DeliverResponse{Moved: &api.Owner{Server: moved.owner.Server, Epoch: moved.owner.Epoch}}, nil
	case errors.As(r.err, &app):
		owner, _ := h.owners.owner(to)
		return &api.DeliverResponse{Error: app.Text, Epoch: owner.Epoch}, nil
	case r.err != nil:
		return nil, errgrpc.ToGRPC(r.err)
	}
	owner, _ := h.owners.owner(to)
	return &api.DeliverResponse{Body: r.body, Epoch: owner.Epoch}, nil
}

func messageOf(to placement.Actor, req *api.DeliverRequest) (*message, error) {
	if err := checkMessage(to, req.GetFunction(), req.GetBody()); err != nil {
		return nil, err
	}
	id, err := lane.Of(req.GetLane())
	if err != nil {
		return nil, err
	}
	if req.GetNumber() == 0 || len(req.GetChain()) > maxChain {
		return nil, fmt.Errorf("message %d after %d calls: %w", req.GetNumber(), len(req.GetChain()), errdefs.ErrInvalidArgument)
	}
	m := &message{
		function: req.GetFunction(), body: req.GetBody(), lane: id, number: req.GetNumber(), trace: req.GetTraceparent(),
	}
	if req.GetFrom() != nil {
		m.from = placement.Of(req.GetFrom())
	}
	for _, a := range req.GetChain() {
		m.chain = append(m.chain, placement.Of(a))
	}
	if slices.Contains(m.chain, to) {
		return nil, fmt.Errorf("a call of %s comes back to it: %w", to, errdefs.ErrFailedPrecondition)
	}
	return m, nil
}
