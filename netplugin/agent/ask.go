package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// Ask asks the agent whose directory root is how it is. Unlike the plugin's own client it
// gives up when ctx is done.
func Ask(ctx context.Context, root string) (*Report, error) {
	output, ok, err := call(ctx, root, protocol.Report, nil)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("it answered %.200q", "1"+string(output))
	}
	r := &Report{}
	return r, json.Unmarshal(output, r)
}

// Reserve has the agent whose directory is root give a container a class, for ttl, in seconds
// and rounded up, or for ever if that is 0. It is in force when Reserve returns, and replaces
// what r.Owner has reserved there before. r.Expires is not looked at; that of the answer says
// when it ends. errdefs.ErrNotFound: no such container is attached; errdefs.ErrInvalidArgument.
func Reserve(ctx context.Context, root string, r Reservation, ttl time.Duration) (Reservation, error) {
	seconds, err := wholeSeconds(ttl)
	if err != nil {
		return Reservation{}, err
	}
	var made Reservation
	err = command(ctx, root, protocol.Reserve, reserveRequest{
		ContainerID: r.ContainerID, IfName: r.IfName, Class: &r.Class, Owner: r.Owner, TTL: seconds,
	}, &made)
	return made, err
}

// Release ends what owner has reserved for a container, and returns it. Nothing is no error:
// it may have ended by itself.
func Release(ctx context.Context, root, containerID, owner string) ([]Reservation, error) {
	var ended []Reservation
	err := command(ctx, root, protocol.Release, releaseRequest{containerID, owner}, &ended)
	return ended, err
}

// Reservations are all that there are, the strongest of a container last.
func Reservations(ctx context.Context, root string) ([]Reservation, error) {
	var list []Reservation
	err := command(ctx, root, protocol.Reservations, nil, &list)
	return list, err
}

func wholeSeconds(d time.Duration) (uint32, error) {
	s := (d + time.Second - 1) / time.Second
	if d < 0 || s > math.MaxUint32 {
		return 0, fmt.Errorf("the time to live %s can't be, want up to %d s, or 0 for ever: %w", d, uint32(math.MaxUint32), errdefs.ErrInvalidArgument)
	}
	return uint32(s), nil
}

// command has the agent do a command of its own, and reads what it answers.
func command(ctx context.Context, root, name string, body, answer any) error {
	var text []byte
	var err error
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	output, ok, err := call(ctx, root, name, text)
	if err != nil {
		return err
	}
	if !ok {
		return refused(output)
	}
	return json.Unmarshal(output, answer)
}

// refused is the error that the agent answered.
func refused(output []byte) error {
	var e types.Error
	if err := json.Unmarshal(output, &e); err != nil || e.Msg == "" {
		return fmt.Errorf("it answered %.200q", output)
	}
	switch e.Code {
	case types.ErrUnknownContainer:
		return fmt.Errorf("%w: %w", &e, errdefs.ErrNotFound)
	case types.ErrTryAgainLater:
		return fmt.Errorf("%w: %w", &e, errdefs.ErrUnavailable)
	case types.ErrUnsupportedField, types.ErrDecodingFailure, types.ErrInvalidNetworkConfig, types.ErrInvalidEnvironmentVariables:
		return fmt.Errorf("%w: %w", &e, errdefs.ErrInvalidArgument)
	}
	return &e
}

// call hands a command to the agent, and tells whether it succeeded.
func call(ctx context.Context, root, name string, body []byte) (output []byte, ok bool, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(root, protocol.Socket))
	if err != nil {
		return nil, false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(protocol.Encode([]string{"CNI_COMMAND=" + name}, body)); err != nil {
		return nil, false, err
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return nil, false, err
	}
	reply, err := io.ReadAll(conn)
	if err != nil {
		return nil, false, err
	}
	if len(reply) == 0 {
		return nil, false, protocol.ErrNoAgent
	}
	return reply[1:], reply[0] == '0', nil
}
