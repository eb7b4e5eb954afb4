// Package server is the daemon that keeps FlashCube's pool: it runs a [pool.Keeper] and
// answers for its health on a unix socket.
//
// Nothing that runs depends on this process. It may be killed at any time: ready parts are
// claimed without it, containers go on, and the next start adopts what is there.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"path/filepath"
	"time"

	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/peregrine-dev/peregrine/internal/unixsocket"
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
	sockets, err := listen(cfg, o.Root)
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
	srv := grpc.NewServer(grpc.ChainStreamInterceptor(endWatches))
	healthy := health.NewServer()
	healthpb.RegisterHealthServer(srv, healthy)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return keeper.Run(ctx) })
	g.Go(func() error {
		// Stopped before it began is stopped.
		if err := srv.Serve(sockets.health); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	if sockets.metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
		serveHTTP(ctx, g, mux, sockets.metrics)
	}
	if sockets.debug != nil {
		serveHTTP(ctx, g, profiles(), sockets.debug)
	}
	g.Go(func() error {
		<-ctx.Done()
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
		log.G(ctx).Info("stopping; parts stay ready and containers go on")
		healthy.Shutdown()
		srv.GracefulStop()
		return nil
	})
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	return g.Wait()
}

// listeners are the sockets of a configuration; nil where it has none.
type listeners struct{ health, metrics, debug net.Listener }

// listen opens all of them or none.
func listen(cfg config.Config, root string) (_ *listeners, err error) {
	l := &listeners{}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.health, err = unixsocket.Listen(filepath.Join(root, pool.SocketName)); err != nil {
		return nil, err
	}
	if cfg.Metrics.Address != "" {
		if l.metrics, err = net.Listen("tcp", cfg.Metrics.Address); err != nil {
			return nil, fmt.Errorf("listen for metrics: %w", err)
		}
	}
	if cfg.Debug.Address != "" {
		if l.debug, err = unixsocket.Listen(cfg.Debug.Address); err != nil {
			return nil, fmt.Errorf("listen for debugging: %w", err)
		}
	}
	return l, nil
}

// Close closes what no server has closed yet.
func (l *listeners) Close() {
	for _, l := range []net.Listener{l.health, l.metrics, l.debug} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// endWatches ends a client's watch of the health once it was told that nothing is
// served: it has no end of its own, and a graceful stop waits for every stream.
func endWatches(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	return next(srv, watch{stream, ctx, cancel})
}

type watch struct {
	grpc.ServerStream
	ctx    context.Context
	cancel func()
}

func (w watch) Context() context.Context { return w.ctx }

func (w watch) SendMsg(m any) error {
	err := w.ServerStream.SendMsg(m)
	if r, ok := m.(*healthpb.HealthCheckResponse); ok && r.Status != healthpb.HealthCheckResponse_SERVING {
		w.cancel()
	}
	return err
}

func serveHTTP(ctx context.Context, g *errgroup.Group, h http.Handler, l net.Listener) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return srv.Close()
	})
}

func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
