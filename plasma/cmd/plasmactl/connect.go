package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

const (
	// defaultSocket is where plasmad listens if it isn't told otherwise.
	defaultSocket = "/run/plasma/plasmad.sock"
	// knock is how long plasmad may take to take a connection on its own host.
	knock = 5 * time.Second
)

func socketFlag() cli.Flag {
	return &cli.PathFlag{Name: "socket", Usage: "plasmad's `SOCKET`", Value: defaultSocket, EnvVars: []string{"PLASMA_SOCKET"}}
}

// ask does something with the plasmad whose socket the command names. Errors say what to do.
func ask(c *cli.Context, do func(context.Context, api.ClusterClient) error) error {
	socket := c.Path("socket")
	if err := reach(c.Context, socket); err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///plasmad", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx, socket) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxSnapshot)))
	if err != nil {
		return err
	}
	defer conn.Close()
	return advise(c.Context, do(c.Context, api.NewClusterClient(conn)))
}

func dial(ctx context.Context, socket string) (net.Conn, error) {
	d := net.Dialer{Timeout: knock}
	return d.DialContext(ctx, "unix", socket)
}

// reach finds out whether somebody listens: gRPC would tell only that nothing came of it.
func reach(ctx context.Context, socket string) error {
	conn, err := dial(ctx, socket)
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTSOCK):
		return fmt.Errorf("no plasmad listens on %s: start it (`systemctl start plasmad`, or run plasmad), or name its socket with --socket or PLASMA_SOCKET: %w",
			socket, errdefs.ErrUnavailable)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("you may not use %s: ask as root: %w", socket, errdefs.ErrPermissionDenied)
	}
	return fmt.Errorf("plasmad at %s can't be asked: %w", socket, err)
}

// advise makes of what plasmad answered an error of errdefs that says what to do, where that
// isn't plain.
func advise(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted; what was asked for may have been done: %w", ctx.Err())
	}
	var answer interface{ GRPCStatus() *grpcstatus.Status }
	if !errors.As(err, &answer) {
		return err // it is of this side, and says what there is to say
	}
	switch err = errgrpc.ToNative(err); {
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%w (`plasmactl status` shows what there is)", err)
	case errdefs.IsUnavailable(err):
		return fmt.Errorf("%w (try again in a few seconds; `plasmactl status` and plasmad's log tell more)", err)
	case errdefs.IsNotImplemented(err):
		return fmt.Errorf("%w (is plasmad older than plasmactl? `plasmad --version` tells)", err)
	case errdefs.IsPermissionDenied(err):
		return fmt.Errorf("%w (ask as root)", err)
	}
	return err
}

// named wants so many arguments, which are what the usage says.
func named(c *cli.Context, n int) error {
	if c.NArg() != n {
		return fmt.Errorf("want %s: %w", c.Command.ArgsUsage, errdefs.ErrInvalidArgument)
	}
	return nil
}
