package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/claim/claimtest"
	"github.com/peregrine-dev/peregrine/shim/config"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

func TestMain(m *testing.M) {
	claimtest.Main()
	goleak.VerifyTestMain(m)
}

// start serves until the test ends or stop is called, and kills all parts then.
func start(t *testing.T, cfg config.Config) (o Options, stop func()) {
	t.Helper()
	bin := t.TempDir()
	o = Options{Root: filepath.Join(t.TempDir(), "r"), Shim: claimtest.Install(t, bin), Init: filepath.Join(bin, claim.InitBinary)}
	if err := os.WriteFile(o.Init, []byte("#!/bin/true\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, cfg, o) }()
	ended := false
	stop = func() {
		t.Helper()
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	}
	t.Cleanup(func() {
		stop()
		claimtest.KillParts(t, claim.Profile(o.Root, "default"))
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		s, err := pool.ReadStatus(o.Root)
		if err != nil {
			t.Fatal(err)
		}
		if s.Daemon && s.Profiles["default"].Ready == cfg.Profiles.Default.Min {
			return o, stop
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a minute there is only %+v", s)
		}
	}
}

func small() config.Config {
	cfg := config.Default()
	cfg.Profiles.Default.Min, cfg.Profiles.Default.Max = 2, 4
	return cfg
}

func TestHealth(t *testing.T) {
	o, stop := start(t, small())
	socket := filepath.Join(o.Root, pool.SocketName)
	if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", fi, err)
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	got, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health is %v, %v; want SERVING", got, err)
	}
	watch, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("a watch begins with %v, %v", got, err)
	}
	stop() // returns although the watch is open
	if got, err := watch.Recv(); err != nil || got.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("at the end the watch says %v, %v", got, err)
	}
	if s, err := pool.ReadStatus(o.Root); err != nil || s.Daemon || s.Profiles["default"].Ready != 2 {
		t.Errorf("afterwards: %+v, %v; want two parts", s, err)
	}
}

func TestMetrics(t *testing.T) {
	cfg := small()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Metrics.Address = l.Addr().String()
	l.Close()
	o, _ := start(t, cfg)
	if err := claim.Count(claim.Profile(o.Root, "default"), claim.Fallback+"/seccomp-notify"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + cfg.Metrics.Address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ready", "target", "building", "memory_bytes", "build_seconds", "build_failures_total", "hits_total", "misses_total", "fallbacks_total"} {
		if f := families["peregrine_flashcube_"+name]; f == nil || len(f.Metric) != 1 {
			t.Errorf("%s is %v, want one value", name, f)
		}
	}
	if got := families["peregrine_flashcube_fallbacks_total"].GetMetric(); len(got) == 1 && (got[0].GetLabel()[0].GetValue() != "seccomp-notify" || got[0].GetCounter().GetValue() != 1) {
		t.Errorf("fall-backs are %v", got)
	}
}

func TestOneDaemonPerRoot(t *testing.T) {
	o, _ := start(t, small())
	if err := Serve(t.Context(), small(), o); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second one: %v, want ErrFailedPrecondition", err)
	}
}

func TestDebug(t *testing.T) {
	cfg := small()
	cfg.Debug.Address = filepath.Join(t.TempDir(), "debug.sock")
	start(t, cfg)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", cfg.Debug.Address)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://debug/debug/pprof/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("pprof answers %s", resp.Status)
	}
}

func TestBadListenersLeaveNothing(t *testing.T) {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := small()
	cfg.Metrics.Address = l.Addr().String()
	o := Options{Root: t.TempDir(), Shim: "/nonexistent"}
	if err := Serve(t.Context(), cfg, o); err == nil {
		t.Fatal("served on an address that is taken")
	}
	if claim.Exists(filepath.Join(o.Root, "default")) || claim.Exists(filepath.Join(o.Root, pool.SocketName)) {
		t.Error("something was left")
	}
	lock, err := pool.Lock(o.Root)
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
}
