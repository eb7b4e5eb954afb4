// Package server serves the BAOverlay snapshotter to containerd: the Snapshots API
// and gRPC health on a unix socket.
//
// Nothing of a running container depends on this process. It may be killed at any
// time: the pool stays mounted, containers go on, and the next start adopts both.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/daemon"
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/peregrine-dev/peregrine/internal/unixsocket"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
)

// Serve runs until ctx is done, then finishes the calls under way and returns nil.
// It claims all that another process may hold, the root and the addresses, before it
// opens the pool, and answers nobody before everything is open: when it returns an
// error at start, nothing half-made is left.
func Serve(ctx context.Context, cfg config.Config) (err error) {
	lock, err := Lock(cfg.Root)
	if err != nil {
		return err
	}
	defer lock.Close()

	sockets, err := listen(cfg)
	if err != nil {
		return err
	}
	defer sockets.Close()

	p, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	sn, err := baoverlay.NewSnapshotter(ctx, p, cfg.UpperdirLabel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sn.Close()) }()

	registry, metrics := newMetrics(p)
	srv := grpc.NewServer(
		grpc.ChainUnaryInterceptor(metrics.UnaryServerInterceptor(), logErrors),
		grpc.ChainStreamInterceptor(metrics.StreamServerInterceptor(), endWatches),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	snapshotsapi.RegisterSnapshotsServer(srv, snapshotservice.FromSnapshotter(sn))
	healthy := health.NewServer()
	healthpb.RegisterHealthServer(srv, healthy)
	metrics.InitializeMetrics(srv)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { p.Watch(ctx); return nil })
	g.Go(func() error {
		// Stopped before it began is stopped.
		if err := srv.Serve(sockets.snapshots); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	if sockets.metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
		serveHTTP(ctx, g, mux, sockets.metrics)
	}
	if sockets.debug != nil {
		serveHTTP(ctx, g, profiles(), sockets.debug)
	}
	g.Go(func() error {
		<-ctx.Done()
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
		log.G(ctx).Info("finishing calls under way; the pool stays mounted for running containers")
		healthy.Shutdown()
		srv.GracefulStop()
		return nil
	})
	log.G(ctx).WithField("address", cfg.Address).WithField("dir", p.Dir()).Info("serving snapshots")
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	return g.Wait()
}

// listeners are the sockets of a configuration; nil where it has none.
type listeners struct{ snapshots, metrics, debug net.Listener }

// listen opens all of them or none.
func listen(cfg config.Config) (_ *listeners, err error) {
	l := &listeners{}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.snapshots, err = unixsocket.Listen(cfg.Address); err != nil {
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
	for _, l := range []net.Listener{l.snapshots, l.metrics, l.debug} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// Lock claims a root for this process: one daemon, or one command that mounts or
// unmounts its pool. The kernel lets go of it when the process dies.
func Lock(root string) (*os.File, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("create the root: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the root %s: %w; make it writable or choose another root", root, err)
	}
	// A daemon that is killed while it starts a program leaves a child that shares
	// its lock until it is that program. Another daemon holds it for longer.
	deadline := time.Now().Add(time.Second)
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process uses the root %s; stop it first: %w", root, errdefs.ErrFailedPrecondition)
		}
		return nil, fmt.Errorf("lock the root %s: %w", root, err)
	}
	return f, nil
}

// Open opens the space that cfg describes and says in the log what was chosen.
// The caller holds the Lock.
func Open(ctx context.Context, cfg config.Config) (*pool.Pool, error) {
	p, choice, err := baoverlay.Open(ctx, baoverlay.Options{
		Root: cfg.Root, Engine: cfg.Engine, Device: cfg.Pool.Device, Limits: cfg.Limits,
	})
	if err != nil {
		return nil, err
	}
	for _, reason := range choice.Passed {
		log.G(ctx).Infof("engine not used: %s", reason)
	}
	entry := log.G(ctx).WithField("engine", choice.Engine)
	if choice.Engine == baoverlay.Overlay {
		entry.Warn("no file system with reflinks: the first write into a file copies all of it, as without this snapshotter; see peregrine check")
	} else {
		entry.Info("engine chosen")
	}
	engineInfo.Reset()
	engineInfo.WithLabelValues(string(choice.Engine)).Set(1)
	return p, nil
}

// logErrors logs the failures that an operator must see; what a client did wrong is
// the client's.
func logErrors(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err != nil {
		entry := log.G(ctx).WithError(err).WithField("method", info.FullMethod)
		switch status.Code(err) {
		case codes.Internal, codes.Unknown, codes.ResourceExhausted, codes.DataLoss:
			entry.Error("call failed")
		default:
			entry.Debug("call failed")
		}
	}
	return resp, err
}

// endWatches ends a client's watch of the health once it was told that nothing is
// served: it has no end of its own, and a graceful stop waits for every stream.
func endWatches(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if info.FullMethod != healthpb.Health_Watch_FullMethodName {
		return next(srv, stream)
	}
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

// engineInfo is 1 for the engine in use.
var engineInfo = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Namespace: "peregrine", Subsystem: "baoverlay", Name: "engine_info",
	Help: "The engine in use.",
}, []string{"engine"})

func newMetrics(p *pool.Pool) (*prometheus.Registry, *grpcprom.ServerMetrics) {
	registry := prometheus.NewRegistry()
	grpcMetrics := grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram())
	registry.MustRegister(engineInfo, grpcMetrics)
	for _, g := range []struct {
		name, help string
		value      func(pool.Stats) int64
	}{
		{"pool_size_bytes", "Size of the pool's file system.", func(s pool.Stats) int64 { return s.Size }},
		{"pool_free_bytes", "Free space in the pool.", func(s pool.Stats) int64 { return s.Free }},
		{"host_free_bytes", "Free space on the host's file system, for the pool to grow into.", func(s pool.Stats) int64 { return s.HostFree }},
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "peregrine", Subsystem: "baoverlay", Name: g.name, Help: g.help,
		}, func() float64 {
			st, err := p.Stats()
			if err != nil {
				return -1
			}
			return float64(g.value(st))
		}))
	}
	return registry, grpcMetrics
}
