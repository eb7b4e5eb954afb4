// Package server serves the BAOverlay snapshotter to containerd: the Snapshots API
// and gRPC health on a unix socket.
//
// Nothing of a running container depends on this process. It may be killed at any
// time: the pool stays mounted, containers go on, and the next start adopts both.
package server

import (
	"context"
	"errors"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/log"
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/peregrine-dev/peregrine/internal/daemon"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
)

// Serve runs until ctx is done, then finishes the calls under way and returns nil.
// It claims all that another process may hold, the root and the addresses, before it
// opens the pool, and answers nobody before everything is open: when it returns an
// error at start, nothing half-made is left.
func Serve(ctx context.Context, cfg config.Config) (err error) {
	lock, err := daemon.Lock(cfg.Root)
	if err != nil {
		return err
	}
	defer lock.Close()

	sockets, err := daemon.Listen(daemon.Addresses{
		GRPC: cfg.Address, Metrics: cfg.Metrics.Address, Debug: cfg.Debug.Address,
	})
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
		grpc.ChainStreamInterceptor(metrics.StreamServerInterceptor(), daemon.EndWatches),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	snapshotsapi.RegisterSnapshotsServer(srv, snapshotservice.FromSnapshotter(sn))
	metrics.InitializeMetrics(srv)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { p.Watch(ctx); return nil })
	log.G(ctx).WithField("address", cfg.Address).WithField("dir", p.Dir()).Info("serving snapshots")
	sockets.Serve(ctx, g, daemon.Server{
		GRPC: srv, Metrics: registry,
		Stopping: "finishing calls under way; the pool stays mounted for running containers",
	})
	return g.Wait()
}

// Open opens the space that cfg describes and says in the log what was chosen.
// The caller holds the root's lock.
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
