// Package daemon is what the bundle's daemons have in common: they claim their root, answer
// gRPC on a unix socket, health among it, offer metrics and profiles where that is asked
// for, and tell systemd how they are.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/peregrine-dev/peregrine/internal/unixsocket"
)

// Addresses say where a daemon listens.
type Addresses struct {
	GRPC    string // a unix socket's path
	Metrics string // host:port; "" is nowhere
	Debug   string // a unix socket's path; "" is nowhere
}

// Sockets are the listeners of a daemon; nil where it has none.
type Sockets struct{ grpc, metrics, debug net.Listener }

// Listen opens all of them or none. The caller closes them.
func Listen(a Addresses) (_ *Sockets, err error) {
	s := &Sockets{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.grpc, err = unixsocket.Listen(a.GRPC); err != nil {
		return nil, err
	}
	if a.Metrics != "" {
		if s.metrics, err = net.Listen("tcp", a.Metrics); err != nil {
			return nil, fmt.Errorf("listen for metrics: %w", err)
		}
	}
	if a.Debug != "" {
		if s.debug, err = unixsocket.Listen(a.Debug); err != nil {
			return nil, fmt.Errorf("listen for debugging: %w", err)
		}
	}
	return s, nil
}

// Close closes what no server has closed yet.
func (s *Sockets) Close() {
	for _, l := range []net.Listener{s.grpc, s.metrics, s.debug} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// Server is what a daemon answers.
type Server struct {
	// GRPC has the daemon's services; Serve adds health. It is made with EndWatches.
	GRPC    *grpc.Server
	Metrics prometheus.Gatherer
	// Stopping says in the log what goes on when the daemon stops.
	Stopping string
}

// Serve answers on the sockets until ctx is done, then finishes the calls under way. It
// adds its goroutines to g, of which ctx is, and tells systemd that the daemon is ready.
func (s *Sockets) Serve(ctx context.Context, g *errgroup.Group, srv Server) {
	healthy := health.NewServer()
	healthpb.RegisterHealthServer(srv.GRPC, healthy)
	g.Go(func() error {
		// Stopped before it began is stopped.
		if err := srv.GRPC.Serve(s.grpc); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	if s.metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("/metrics", promhttp.HandlerFor(srv.Metrics, promhttp.HandlerOpts{}))
		serveHTTP(ctx, g, mux, s.metrics)
	}
	if s.debug != nil {
		serveHTTP(ctx, g, profiles(), s.debug)
	}
	g.Go(func() error {
		<-ctx.Done()
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
		log.G(ctx).Info(srv.Stopping)
		healthy.Shutdown()
		srv.GRPC.GracefulStop()
		return nil
	})
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
}

// EndWatches ends a client's watch of the health once it was told that nothing is
// served: it has no end of its own, and a graceful stop waits for every stream.
func EndWatches(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
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
