package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// errMoved says that an actor is elsewhere; the message had no effect.
type errMoved struct{ owner placement.Owner }

func (e *errMoved) Error() string {
	return fmt.Sprintf("the actor is at %s since epoch %d", e.owner.Server, e.owner.Epoch)
}

var (
	errClosed = fmt.Errorf("the host stops: %w", errdefs.ErrUnavailable)
	errLapsed = fmt.Errorf("the host's lease has lapsed: %w", errdefs.ErrUnavailable)
	errFull   = fmt.Errorf("the actor's mailbox is full: %w", errdefs.ErrResourceExhausted)
	errAway   = fmt.Errorf("the actor is on its way: %w", errdefs.ErrUnavailable)
	// errLost is an answer that is not given: the message may have had its effect.
	errLost = fmt.Errorf("the turn's answer is withheld: %w", errdefs.ErrUnknown)
)

// effect is what an error says about a message.
type effect int

const (
	effectNone    effect = iota // it had none: try again
	effectUnknown               // it may have had one: try again, with the same number
	effectFinal                 // it is no use to try again
)

// effectOf tells what an error of a host, here or elsewhere, means for a message.
func effectOf(err error) effect {
	switch {
	case errdefs.IsUnavailable(err):
		return effectNone
	case errors.Is(err, ttrpc.ErrClosed), errdefs.IsUnknown(err),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return effectUnknown
	case errdefs.IsAborted(err), errdefs.IsNotFound(err), errdefs.IsResourceExhausted(err),
		errdefs.IsFailedPrecondition(err), errdefs.IsInvalidArgument(err), errdefs.IsAlreadyExists(err),
		errdefs.IsPermissionDenied(err), errdefs.IsNotImplemented(err):
		return effectFinal
	}
	return effectUnknown
}

// native gives an error of ttrpc its class. An error of the connection is no answer: it stays
// what it is.
func native(err error) error {
	if err == nil || errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return errgrpc.ToNative(err)
}
