// Package server is the daemon that keeps FlashCube's pool: it runs a [pool.Keeper] and
// answers for its health on a unix socket.
//
// Nothing that runs depends on this process. It may be killed at any time: ready parts are
// claimed without it, containers go on, and the next start adopts what is there.
package server

import (
	"context"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/internal/daemon"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/config"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

const profile = "default"

// Options say where things are.
type Options struct {
	Root string // of the directory protocol, see package claim
	Shim string // path of flashcube-shim
	Init string // path of flashcube-init
}

// Serve runs until ctx is done and returns nil. It claims all that another process may hold,
// the root and the addresses, before it touches a part. Parts stay as they are.
func Serve(ctx context.Context, cfg config.Config, o Options) error {
	lock, err := pool.Lock(o.Root)
	if err != nil {
		return err
	}
	defer lock.Close()
	sockets, err := daemon.Listen(daemon.Addresses{
		GRPC: filepath.Join(o.Root, pool.SocketName), Metrics: cfg.Metrics.Address, Debug: cfg.Debug.Address,
	})
	if err != nil {
		return err
	}
	defer sockets.Close()

	dir := claim.Profile(o.Root, profile)
	m := newMetrics(dir)
	limits := cfg.Profiles.Default
	keeper := pool.Keeper{
		Dir: dir, Shim: o.Shim, Init: o.Init, Pace: pool.DefaultPace(), Events: m,
		Limits: pool.Limits{Min: limits.Min, Max: limits.Max, Memory: int64(limits.Memory), MaxAge: time.Duration(limits.MaxAge)},
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return keeper.Run(ctx) })
	sockets.Serve(ctx, g, daemon.Server{
		GRPC:     grpc.NewServer(grpc.ChainStreamInterceptor(daemon.EndWatches)),
		Metrics:  m.registry,
		Stopping: "stopping; parts stay ready and containers go on",
	})
	return g.Wait()
}
