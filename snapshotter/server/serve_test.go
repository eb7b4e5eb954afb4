package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/peregrine-dev/peregrine/internal/daemon"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// start serves cfg until the test ends or stop is called, which is once.
func start(t *testing.T, cfg config.Config) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	_, end, err := serve(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		t.Helper()
		if ended {
			return
		}
		ended = true
		if err := end(); err != nil {
			t.Errorf("Serve returned %v", err)
		}
	}
	t.Cleanup(stop)
	return dial(t, cfg.Address), stop
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func overlayConfig(t *testing.T) config.Config {
	t.Helper()
	pooltest.NeedRoot(t)
	return testConfig(filepath.Join(t.TempDir(), "root"), baoverlay.Overlay)
}

func TestHealth(t *testing.T) {
	conn, stop := start(t, overlayConfig(t))
	client := healthpb.NewHealthClient(conn)
	got, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health is %v, %v; want SERVING", got, err)
	}
	watches := make([]grpc.ServerStreamingClient[healthpb.HealthCheckResponse], 2)
	for i, of := range []struct {
		service string
		want    healthpb.HealthCheckResponse_ServingStatus
	}{
		{"", healthpb.HealthCheckResponse_SERVING},
		{"no.such.Service", healthpb.HealthCheckResponse_SERVICE_UNKNOWN},
	} {
		if watches[i], err = client.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: of.service}); err != nil {
			t.Fatal(err)
		}
		if got, err := watches[i].Recv(); err != nil || got.Status != of.want {
			t.Fatalf("a watch of %q begins with %v, %v; want %v", of.service, got, err, of.want)
		}
	}
	stop() // returns although both are open here
	if got, err := watches[0].Recv(); err != nil || got.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("at shutdown the watch says %v, %v; want NOT_SERVING", got, err)
	}
	for _, w := range watches {
		if got, err := w.Recv(); err == nil {
			t.Errorf("after shutdown a watch says %v", got)
		}
	}
}

func TestUnknownMethod(t *testing.T) {
	conn, _ := start(t, overlayConfig(t))
	for _, method := range []string{"/containerd.services.snapshots.v1.Snapshots/Merge", "/no.such.Service/Call"} {
		err := conn.Invoke(t.Context(), method, &snapshotsapi.CleanupRequest{}, &snapshotsapi.StatSnapshotResponse{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v, want Unimplemented", method, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	cfg := overlayConfig(t)
	cfg.Metrics.Address = freeAddress(t)
	start(t, cfg)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(get(t, http.DefaultClient, "http://"+cfg.Metrics.Address+"/metrics")))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pool_size_bytes", "pool_free_bytes", "host_free_bytes", "engine_info"} {
		family := families["peregrine_baoverlay_"+name]
		switch {
		case family == nil || len(family.Metric) != 1:
			t.Errorf("%s is %v, want one value", name, family)
		case family.Metric[0].GetGauge().GetValue() <= 0:
			t.Errorf("%s is %v", name, family.Metric[0])
		}
	}
	info := families["peregrine_baoverlay_engine_info"]
	if got := info.GetMetric()[0].GetLabel()[0].GetValue(); got != string(baoverlay.Overlay) {
		t.Errorf("the engine is %q", got)
	}
	var cleanups float64 // serve made one
	for _, m := range families["grpc_server_handled_total"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.Label {
			labels[l.GetName()] = l.GetValue()
		}
		if labels["grpc_method"] == "Cleanup" && labels["grpc_code"] == "OK" {
			cleanups += m.GetCounter().GetValue()
		}
	}
	if cleanups != 1 {
		t.Errorf("%v calls of Cleanup counted, want 1", cleanups)
	}
}

func TestDebug(t *testing.T) {
	cfg := overlayConfig(t)
	cfg.Debug.Address = filepath.Join(t.TempDir(), "new", "debug.sock")
	start(t, cfg)
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", cfg.Debug.Address)
		},
	}}
	if text := get(t, client, "http://debug/debug/pprof/goroutine?debug=1"); !strings.Contains(text, "server.Serve") {
		t.Errorf("the goroutines are:\n%s", text)
	}
	wantMode(t, cfg.Debug.Address, os.ModeSocket|0o600)
	wantMode(t, filepath.Dir(cfg.Debug.Address), os.ModeDir|0o700)
}

func TestSocket(t *testing.T) {
	cfg := overlayConfig(t)
	cfg.Address = filepath.Join(t.TempDir(), "new", "s.sock")
	_, stop := start(t, cfg)
	wantMode(t, cfg.Address, os.ModeSocket|0o600)
	wantMode(t, filepath.Dir(cfg.Address), os.ModeDir|0o700)
	wantMode(t, cfg.Root, os.ModeDir|0o700)
	stop()
	if _, err := os.Lstat(cfg.Address); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end the socket is there: %v", err)
	}
}

// TestStaleSocket starts where a killed daemon left its socket.
func TestStaleSocket(t *testing.T) {
	cfg := overlayConfig(t)
	cfg.Address = filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", cfg.Address)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	conn, _ := start(t, cfg)
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
}

// TestFailedStart fails at every step of a start. Serve says why and leaves neither
// sockets nor a mount, and lets go of the root: the same start without the obstacle
// works.
func TestFailedStart(t *testing.T) {
	pooltest.NeedRoot(t)
	tests := []struct {
		name string
		// obstruct makes the start fail, and returns what takes the obstacle away.
		obstruct func(t *testing.T, cfg *config.Config) (clear func() error)
		want     error
	}{
		{"locked", func(t *testing.T, cfg *config.Config) func() error {
			f, err := daemon.Lock(cfg.Root)
			if err != nil {
				t.Fatal(err)
			}
			return f.Close
		}, errdefs.ErrFailedPrecondition},
		{"address in use", func(t *testing.T, cfg *config.Config) func() error {
			return listenAt(t, "unix", cfg.Address)
		}, errdefs.ErrFailedPrecondition},
		{"address is a file", func(t *testing.T, cfg *config.Config) func() error {
			if err := os.WriteFile(cfg.Address, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			return func() error { return os.Remove(cfg.Address) }
		}, errdefs.ErrFailedPrecondition},
		{"metrics address in use", func(t *testing.T, cfg *config.Config) func() error {
			return listenAt(t, "tcp", cfg.Metrics.Address)
		}, unix.EADDRINUSE},
		{"debug address in use", func(t *testing.T, cfg *config.Config) func() error {
			return listenAt(t, "unix", cfg.Debug.Address)
		}, errdefs.ErrFailedPrecondition},
		{"no space for a pool", func(_ *testing.T, cfg *config.Config) func() error {
			reserve := cfg.Pool.HostReserve
			cfg.Pool.HostReserve = 1 << 60
			return func() error { cfg.Pool.HostReserve = reserve; return nil }
		}, errdefs.ErrResourceExhausted},
		{"files under the pool", func(t *testing.T, cfg *config.Config) func() error {
			file := filepath.Join(baoverlay.PoolDir(cfg.Root), "file")
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			return func() error { return os.Remove(file) }
		}, errdefs.ErrFailedPrecondition},
		{"damaged image", func(t *testing.T, cfg *config.Config) func() error {
			file := filepath.Join(cfg.Root, "pool.img")
			if err := errors.Join(os.MkdirAll(cfg.Root, 0o700), os.WriteFile(file, make([]byte, 4096), 0o600)); err != nil {
				t.Fatal(err)
			}
			return func() error { return os.Remove(file) }
		}, errdefs.ErrDataLoss},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := testConfig(filepath.Join(dir, "root"), baoverlay.PoolLoop)
			cfg.Address = filepath.Join(dir, "s.sock")
			cfg.Debug.Address = filepath.Join(dir, "debug.sock")
			cfg.Metrics.Address = freeAddress(t)
			before := sockets(t, dir)
			remove := tt.obstruct(t, &cfg)
			obstacle := sockets(t, dir)
			if err := Serve(t.Context(), cfg); !errors.Is(err, tt.want) {
				t.Errorf("Serve returned %v, want %v", err, tt.want)
			}
			if after := sockets(t, dir); after != obstacle {
				t.Errorf("there are the sockets %s, want %s", after, obstacle)
			}
			if mounted(t, baoverlay.PoolDir(cfg.Root)) {
				t.Error("the pool is mounted")
			}
			if err := remove(); err != nil {
				t.Fatal(err)
			}
			_, stop := start(t, cfg)
			stop()
			if err := pooltest.Remove(baoverlay.PoolDir(cfg.Root)); err != nil {
				t.Error(err)
			}
			if after := sockets(t, dir); after != before {
				t.Errorf("after the end there are the sockets %s, want %s", after, before)
			}
		})
	}
}

// TestStopAtOnce stops a server that has hardly begun: that is no error.
func TestStopAtOnce(t *testing.T) {
	cfg := overlayConfig(t)
	cfg.Metrics.Address, cfg.Debug.Address = freeAddress(t), filepath.Join(t.TempDir(), "debug.sock")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Serve(ctx, cfg); err != nil {
		t.Error(err)
	}
}

// freeAddress is a TCP address that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func listenAt(t *testing.T, network, address string) (clear func() error) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l.Close
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(body)
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != want {
		t.Errorf("%s is %v, want %v", path, fi.Mode(), want)
	}
}

// sockets lists the sockets in dir.
func sockets(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Type() == os.ModeSocket {
			names = append(names, e.Name())
		}
	}
	return fmt.Sprint(names)
}

func mounted(t *testing.T, dir string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(table), " "+dir+" ")
}
