package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/internal/daemon"
	"github.com/peregrine-dev/peregrine/internal/unixsocket"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// healthSocket answers gRPC health, in the agent's directory.
const healthSocket = "falcond.sock"

func serve(ctx context.Context, s settings) error {
	// Calls that are done without an agent have it for a moment.
	lock, err := lockPatiently(ctx, s.root, func() bool { return false })
	if err != nil {
		return err
	}
	defer lock.Close()
	source, err := newSource(s)
	if err != nil {
		return err
	}
	a, err := agent.Open(ctx, agent.Options{Config: s.Config, Root: s.root, State: s.state, Source: source})
	if err != nil {
		return err
	}
	defer a.Close()
	sockets, err := daemon.Listen(daemon.Addresses{
		GRPC: filepath.Join(s.root, healthSocket), Metrics: s.Metrics.Address, Debug: s.Debug.Address,
	})
	if err != nil {
		return err
	}
	defer sockets.Close()
	calls, err := unixsocket.Listen(filepath.Join(s.root, protocol.Socket))
	if err != nil {
		return err
	}
	defer calls.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return a.Serve(ctx, calls) })
	sockets.Serve(ctx, g, daemon.Server{
		GRPC:     grpc.NewServer(grpc.ChainStreamInterceptor(daemon.EndWatches)),
		Metrics:  a.Metrics(),
		Stopping: "stopping; networks and attached containers stay as they are",
	})
	return g.Wait()
}

// alone answers one call of CNI on standard input and output, when there is no agent: by
// the very code that the agent has.
func alone(ctx context.Context, s settings) error {
	config, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	output, ok, err := handle(ctx, s, protocol.Encode(os.Environ(), config))
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(output)
	if err == nil && !ok {
		// What CNI reads is printed; an error of ours would come on top.
		os.Exit(1)
	}
	return err
}

// longest is how long somebody else may do its work: another call without an agent, or an
// agent that finishes its calls.
const longest = 30 * time.Second

// handle answers a request as soon as this process has the root, or by the agent, if there
// is one after all.
func handle(ctx context.Context, s settings, request []byte) (output []byte, ok bool, err error) {
	lock, err := lockPatiently(ctx, s.root, func() bool {
		output, ok, err = protocol.Call(filepath.Join(s.root, protocol.Socket), request, -1)
		return err == nil
	})
	switch {
	case errdefs.IsFailedPrecondition(err):
		return []byte(`{"cniVersion":"1.1.0","code":11,"msg":"another call without falcond, or falcond's end, takes long","details":"start falcond, and try again"}` + "\n"), false, nil
	case err != nil:
		return nil, false, err
	case lock == nil:
		return output, ok, nil
	}
	defer lock.Close()
	a, err := agent.Open(ctx, agent.Options{Config: s.Config, Root: s.root, State: s.state})
	if err != nil {
		return nil, false, err
	}
	output, ok = a.Handle(ctx, request, nil)
	return output, ok, a.Close()
}

// lockPatiently locks the root, unless instead is true meanwhile: then there is no lock.
func lockPatiently(ctx context.Context, root string, instead func() bool) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	for {
		lock, err := daemon.Lock(root) // which waits for a second
		if !errdefs.IsFailedPrecondition(err) || ctx.Err() != nil {
			return lock, err
		}
		if instead() {
			return nil, nil
		}
	}
}
