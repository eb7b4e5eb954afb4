package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/host"
)

// errTooLarge is a request whose body is longer than it may be.
var errTooLarge = fmt.Errorf("the body has more than %d bytes: %w", host.MaxBody, errdefs.ErrOutOfRange)

// statusCanceled is for a caller that doesn't wait any more; it is in no standard.
const statusCanceled = 499

// failures is how errors are told to the application, the first that is one.
var failures = []struct {
	is     func(error) bool
	status int
	code   string
}{
	{func(err error) bool { var r *host.Error; return errors.As(err, &r) }, http.StatusUnprocessableEntity, "refused"},
	{func(err error) bool { return errors.Is(err, errTooLarge) }, http.StatusRequestEntityTooLarge, "too-large"},
	{func(err error) bool {
		return errdefs.IsDeadlineExceeded(err) || errors.Is(err, context.DeadlineExceeded)
	}, http.StatusGatewayTimeout, "timeout"},
	{func(err error) bool { return errdefs.IsCanceled(err) || errors.Is(err, context.Canceled) }, statusCanceled, "canceled"},
	{errdefs.IsInvalidArgument, http.StatusBadRequest, "invalid"},
	{errdefs.IsUnauthorized, http.StatusUnauthorized, "unauthenticated"},
	{errdefs.IsPermissionDenied, http.StatusForbidden, "forbidden"},
	{errdefs.IsNotFound, http.StatusNotFound, "not-found"},
	{errdefs.IsAborted, http.StatusConflict, "aborted"},
	{errdefs.IsFailedPrecondition, http.StatusPreconditionFailed, "precondition"},
	{errdefs.IsResourceExhausted, http.StatusTooManyRequests, "busy"},
	{errdefs.IsUnavailable, http.StatusServiceUnavailable, "unavailable"},
}

// failure is the body of what isn't answered with success.
type failure struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// fail answers with an error. What may be tried again says when.
func fail(ctx context.Context, w http.ResponseWriter, err error) {
	status, f := http.StatusInternalServerError, failure{}
	f.Error.Code, f.Error.Message = "internal", err.Error()
	for _, known := range failures {
		if known.is(err) {
			status, f.Error.Code = known.status, known.code
			break
		}
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1") // whole seconds: the least there is
	}
	text, err := encode(f)
	if err != nil {
		log.G(ctx).WithError(err).Error("encode an error")
	}
	answer(ctx, w, status, text)
}

// answer answers with JSON.
func answer(ctx context.Context, w http.ResponseWriter, status int, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(text); err != nil {
		log.G(ctx).WithError(err).Debug("the caller has gone")
	}
}
