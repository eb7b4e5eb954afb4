package setup

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/internal/daemon"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
	"github.com/peregrine-dev/peregrine/snapshotter/server"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }

func testConfig(t *testing.T, engine baoverlay.Engine) config.Config {
	t.Helper()
	pooltest.NeedRoot(t)
	cfg := config.Default()
	cfg.Root, cfg.Engine = filepath.Join(t.TempDir(), "root"), engine
	cfg.Address = filepath.Join(cfg.Root, "s.sock")
	cfg.Pool.Size, cfg.Pool.Headroom, cfg.Pool.Reserve = 512<<20, 64<<20, 32<<20
	t.Cleanup(func() {
		if err := pooltest.Remove(baoverlay.PoolDir(cfg.Root)); err != nil {
			t.Error(err)
		}
	})
	return cfg
}

// withSnapshots opens the snapshots that cfg describes while fn runs.
func withSnapshots(t *testing.T, cfg config.Config, fn func(sn snapshots.Snapshotter)) {
	t.Helper()
	p, err := server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	sn, err := baoverlay.NewSnapshotter(t.Context(), p, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
	}()
	fn(sn)
}

// fill makes a snapshot of each kind.
func fill(t *testing.T, sn snapshots.Snapshotter) {
	t.Helper()
	ctx := t.Context()
	_, err := sn.Prepare(ctx, "unpack", "")
	if err == nil {
		err = sn.Commit(ctx, "sha256:1", "unpack")
	}
	if err == nil {
		_, err = sn.Prepare(ctx, "web", "sha256:1")
	}
	if err == nil {
		_, err = sn.View(ctx, "look", "sha256:1")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// filled is what inUse tells of them: containers first.
var filled = []string{"active snapshot web", "view snapshot look", "image layer sha256:1"}

func wantInUse(t *testing.T, cfg config.Config, want []string) {
	t.Helper()
	got, err := inUse(t.Context(), cfg)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("in use by %q, %v; want %q", got, err, want)
	}
}

func TestInUseWithDaemon(t *testing.T) {
	cfg := testConfig(t, baoverlay.Overlay)
	withSnapshots(t, cfg, func(sn snapshots.Snapshotter) {
		l, err := net.Listen("unix", cfg.Address)
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer()
		snapshotsapi.RegisterSnapshotsServer(srv, snapshotservice.FromSnapshotter(sn))
		served := make(chan error)
		go func() { served <- srv.Serve(l) }()
		defer func() {
			srv.Stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		}()
		wantInUse(t, cfg, nil)
		fill(t, sn)
		wantInUse(t, cfg, filled)
	})
}

func TestInUseWithoutDaemon(t *testing.T) {
	for _, engine := range []baoverlay.Engine{baoverlay.Overlay, baoverlay.PoolLoop} {
		t.Run(string(engine), func(t *testing.T) {
			cfg := testConfig(t, engine)
			withSnapshots(t, cfg, func(snapshots.Snapshotter) {})
			wantInUse(t, cfg, nil)
			withSnapshots(t, cfg, func(sn snapshots.Snapshotter) { fill(t, sn) })
			wantInUse(t, cfg, filled)
			// The host was booted and nothing started: the pool is not mounted.
			if err := pool.Unmount(baoverlay.PoolDir(cfg.Root)); err != nil {
				t.Fatal(err)
			}
			wantInUse(t, cfg, filled)
			// A dead daemon's socket is nobody.
			if err := deadSocket(cfg.Address); err != nil {
				t.Fatal(err)
			}
			wantInUse(t, cfg, filled)
		})
	}
}

func deadSocket(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

// TestInUseMakesNothing asks where there never was a pool: none may come of it.
func TestInUseMakesNothing(t *testing.T) {
	for _, engine := range []baoverlay.Engine{baoverlay.Auto, baoverlay.PoolLoop, baoverlay.Overlay} {
		t.Run(string(engine), func(t *testing.T) {
			cfg := testConfig(t, engine)
			wantInUse(t, cfg, nil)
			if _, err := os.Lstat(cfg.Root); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the root: %v, want none", err)
			}
			if err := os.Mkdir(cfg.Root, 0o700); err != nil {
				t.Fatal(err)
			}
			wantInUse(t, cfg, nil)
			if list, err := os.ReadDir(cfg.Root); err != nil || len(list) > 0 {
				t.Errorf("the root holds %v, %v", list, err)
			}
		})
	}
}

// TestInUseWhileStarting finds a daemon that holds the root and doesn't answer yet.
func TestInUseWhileStarting(t *testing.T) {
	cfg := testConfig(t, baoverlay.Overlay)
	withSnapshots(t, cfg, func(sn snapshots.Snapshotter) { fill(t, sn) })
	lock, err := daemon.Lock(cfg.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := inUse(t.Context(), cfg); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v, want ErrFailedPrecondition", err)
	}
}

// TestInUseDamaged can't see what is there, and must not say that it is nothing.
func TestInUseDamaged(t *testing.T) {
	cfg := testConfig(t, baoverlay.Auto)
	if err := errors.Join(os.Mkdir(cfg.Root, 0o700), os.WriteFile(filepath.Join(cfg.Root, "pool.img"), make([]byte, 1<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first must not keep the root for itself
		if _, err := inUse(t.Context(), cfg); !errdefs.IsDataLoss(err) {
			t.Errorf("got %v, want ErrDataLoss", err)
		}
	}
}

func TestPlugin(t *testing.T) {
	containerd(t, "")
	p, err := Plugin(t.Context(), "/opt/bin")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Release(context.Background()); err != nil {
		t.Errorf("release of nothing: %v", err)
	}
	written := map[string]string{}
	for _, f := range p.Files {
		if !filepath.IsAbs(f.Path) || len(f.Text) == 0 {
			t.Errorf("file %q of %d bytes", f.Path, len(f.Text))
		}
		written[f.Path] = string(f.Text)
	}
	for _, unit := range p.Units {
		if _, ok := written[unitDir+unit]; !ok {
			t.Errorf("unit %s has no file", unit)
		}
	}
	// What is removed is in the root and is not the root: it may hold more.
	for _, path := range p.State {
		if rel, err := filepath.Rel(config.Default().Root, path); err != nil || rel == "." || !filepath.IsLocal(rel) {
			t.Errorf("removes %s", path)
		}
	}
	cfg, err := config.Load(writeFile(t, written[config.DefaultPath]), true)
	if err != nil || cfg != config.Default() {
		t.Errorf("its configuration reads %+v, %v", cfg, err)
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestStateIsEverything leaves no file of a root that was used.
func TestStateIsEverything(t *testing.T) {
	for _, engine := range []baoverlay.Engine{baoverlay.Overlay, baoverlay.PoolLoop} {
		t.Run(string(engine), func(t *testing.T) {
			cfg := testConfig(t, engine)
			withSnapshots(t, cfg, func(sn snapshots.Snapshotter) { fill(t, sn) })
			wantInUse(t, cfg, filled) // takes the lock
			if err := pool.Unmount(baoverlay.PoolDir(cfg.Root)); err != nil {
				t.Fatal(err)
			}
			for _, path := range baoverlay.Files(cfg.Root) {
				if err := os.RemoveAll(path); err != nil {
					t.Error(err)
				}
			}
			if list, err := os.ReadDir(cfg.Root); err != nil || len(list) > 0 {
				t.Errorf("left %v, %v", list, err)
			}
		})
	}
}
