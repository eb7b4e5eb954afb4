package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

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
	lock, err := daemon.Lock(s.root)
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
	request := protocol.Encode(os.Environ(), config)
	lock, err := daemon.Lock(s.root)
	if errdefs.IsFailedPrecondition(err) {
		// It is there after all, or about to be.
		return answer(request, s.root)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	a, err := agent.Open(ctx, agent.Options{Config: s.Config, Root: s.root, State: s.state})
	if err != nil {
		return err
	}
	output, ok := a.Handle(ctx, request, nil)
	return errors.Join(finish(output, ok), a.Close())
}

// answer has the agent answer.
func answer(request []byte, root string) error {
	output, ok, err := protocol.Call(filepath.Join(root, protocol.Socket), request, -1)
	if err != nil {
		return finish([]byte(`{"cniVersion":"1.1.0","code":11,"msg":"falcond is starting or stopping"}`+"\n"), false)
	}
	return finish(output, ok)
}

// finish prints what the plugin would. After a failure the process ends: what CNI reads is
// printed, and an error of ours would come on top.
func finish(output []byte, ok bool) error {
	_, err := os.Stdout.Write(output)
	if err == nil && !ok {
		os.Exit(1)
	}
	return err
}
