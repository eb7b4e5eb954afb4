package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/containerd/log"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// Handle does what a request of the protocol asks for. It returns what the plugin prints,
// and whether it succeeded. The namespace, nil if there is none, is the caller's.
func (a *Agent) Handle(ctx context.Context, text []byte, namespace *os.File) (output []byte, ok bool) {
	began := time.Now()
	r, err := NewRequest(text, namespace)
	if r != nil && r.own() {
		var answer any
		if err == nil {
			answer, err = a.doOwn(ctx, r, began)
		}
		return encode(answer, err)
	}
	var result types.Result
	if err == nil {
		ctx = log.WithLogger(ctx, log.G(ctx).WithField("command", r.Command).WithField("container", r.ContainerID))
		result, err = a.do(ctx, r)
	}
	a.metrics.called(r, err, time.Since(began))
	if err != nil {
		log.G(ctx).WithError(err).Warn("a call of CNI failed")
		return encodeError(r, err), false
	}
	if result == nil {
		return nil, true
	}
	var out bytes.Buffer
	if err := result.PrintTo(&out); err != nil {
		return encodeError(r, err), false
	}
	return out.Bytes(), true
}

func (a *Agent) do(ctx context.Context, r *Request) (types.Result, error) {
	switch r.Command {
	case "ADD":
		return a.add(ctx, r)
	case "DEL":
		return nil, a.del(ctx, r)
	case "CHECK":
		return nil, a.check(ctx, r)
	case "GC":
		return nil, a.gc(ctx, r)
	default: // there is no other
		return nil, a.status(ctx, r)
	}
}

// doOwn does a command that is none of CNI's, and returns what the answer is in JSON.
func (a *Agent) doOwn(ctx context.Context, r *Request, now time.Time) (any, error) {
	switch r.Command {
	case protocol.Reserve:
		return a.reserve(ctx, r.reservation, r.ttl, now)
	case protocol.Release:
		return a.release(ctx, r.reservation.ContainerID, r.reservation.Owner, now)
	case protocol.Reservations:
		return a.reserved(now), nil
	case protocol.Flows:
		return a.flows(r.limit)
	case protocol.Pairs:
		return a.pairs()
	default: // there is no other
		return a.Report(), nil
	}
}

// codeOf is an error with a code of CNI.
func codeOf(err error) *types.Error {
	var coded *types.Error
	if errors.As(err, &coded) {
		if err.Error() == coded.Error() {
			return coded
		}
		return types.NewError(coded.Code, err.Error(), "")
	}
	return types.NewError(types.ErrInternal, err.Error(), "")
}

// encode makes the answer to a command that is none of CNI's.
func encode(value any, err error) ([]byte, bool) {
	var text []byte
	if err == nil {
		text, err = json.Marshal(value)
	}
	if err != nil {
		return encodeError(nil, err), false
	}
	return text, true
}

func encodeError(r *Request, err error) []byte {
	answer := struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{"1.1.0", codeOf(err)}
	if r != nil && r.Conf != nil {
		answer.CNIVersion = r.Conf.CNIVersion
	}
	text, err := json.MarshalIndent(answer, "", "    ")
	if err != nil {
		return []byte(`{"code": 999, "msg": "the error could not be told"}`)
	}
	return append(text, '\n')
}
