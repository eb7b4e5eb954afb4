package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shortDir is a directory whose name is short enough for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "d-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status, err)
	}
	return string(text)
}

func TestServe(t *testing.T) {
	dir := shortDir(t)
	a := Addresses{GRPC: filepath.Join(dir, "g"), Metrics: "127.0.0.1:0", Debug: filepath.Join(dir, "d")}
	sockets, err := Listen(a)
	if err != nil {
		t.Fatal(err)
	}
	defer sockets.Close()
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "things_total"})
	registry.MustRegister(counter)
	counter.Inc()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	sockets.Serve(gctx, g, Server{
		GRPC: grpc.NewServer(grpc.ChainStreamInterceptor(EndWatches)), Metrics: registry, Stopping: "bye",
	})

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if text := get(t, client, "http://"+sockets.metrics.Addr().String()+"/metrics"); !strings.Contains(text, "things_total 1") {
		t.Error(text)
	}
	debug := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.Debug)
	}}}
	if text := get(t, debug, "http://debug/debug/pprof/cmdline"); !strings.Contains(text, "daemon.test") {
		t.Errorf("%q", text)
	}
	conn, err := grpc.NewClient("unix://"+a.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A watch doesn't hold up the end, and hears of it.
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatal(r, err)
	}
	stop()
	if r, err := watch.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Error(r, err)
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func TestListenAllOrNone(t *testing.T) {
	dir := shortDir(t)
	first, err := Listen(Addresses{GRPC: filepath.Join(dir, "g")})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	other := filepath.Join(dir, "other")
	if _, err := Listen(Addresses{GRPC: other, Debug: filepath.Join(dir, "g")}); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if _, err := os.Lstat(other); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the first socket is still there: %v", err)
	}
}

func TestLock(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	lock, err := Lock(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(root); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("locked twice: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(root)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
