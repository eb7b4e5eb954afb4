package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// engines are those the suite runs on, and what each needs of the host: a
// configuration for a root directory, and what to take away afterwards.
var engines = map[baoverlay.Engine]func(ctx context.Context, root string) (config.Config, func() error, error){
	baoverlay.Overlay: func(_ context.Context, root string) (config.Config, func() error, error) {
		return testConfig(root, baoverlay.Overlay), func() error { return nil }, nil
	},
	baoverlay.PoolLoop: func(_ context.Context, root string) (config.Config, func() error, error) {
		return testConfig(root, baoverlay.PoolLoop), func() error { return pooltest.Remove(baoverlay.PoolDir(root)) }, nil
	},
	baoverlay.PoolDevice: func(_ context.Context, root string) (config.Config, func() error, error) {
		device, detach, err := pooltest.Device(filepath.Join(root, "disk.img"), 512<<20)
		if err != nil {
			return config.Config{}, nil, err
		}
		cfg := testConfig(root, baoverlay.PoolDevice)
		cfg.Pool.Device = device
		return cfg, func() error { return errors.Join(pooltest.Remove(baoverlay.PoolDir(root)), detach()) }, nil
	},
	baoverlay.ReflinkHost: func(ctx context.Context, root string) (config.Config, func() error, error) {
		dir := filepath.Join(root, "xfs")
		if err := pooltest.XFS(ctx, filepath.Join(root, "xfs.img"), dir, 512<<20); err != nil {
			return config.Config{}, nil, err
		}
		return testConfig(dir, baoverlay.ReflinkHost), func() error { return pooltest.Remove(dir) }, nil
	},
}

func testConfig(root string, engine baoverlay.Engine) config.Config {
	cfg := config.Default()
	cfg.Root, cfg.Address, cfg.Engine = root, filepath.Join(root, "s.sock"), engine
	cfg.Pool.Size, cfg.Pool.Headroom, cfg.Pool.Reserve = 512<<20, 128<<20, 64<<20
	return cfg
}

// TestConformance runs containerd's own suite on every engine, in the process and
// through the socket.
func TestConformance(t *testing.T) {
	pooltest.NeedRoot(t)
	// The suite clears the process's mask and puts back what it found, which is for one at a
	// time: here all find it cleared.
	mask := unix.Umask(0)
	t.Cleanup(func() { unix.Umask(mask) })
	for engine, setup := range engines {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			// The name decides what the suite excuses: nothing.
			t.Run("direct", func(t *testing.T) {
				t.Parallel()
				testsuite.SnapshotterSuite(t, "baoverlay", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
					cfg, remove, err := setup(ctx, root)
					if err != nil {
						return nil, nil, err
					}
					p, err := Open(ctx, cfg)
					if err != nil {
						return nil, nil, errors.Join(err, remove())
					}
					sn, err := baoverlay.NewSnapshotter(ctx, p, false)
					if err != nil {
						return nil, nil, errors.Join(err, remove())
					}
					return sn, func() error { return errors.Join(sn.Close(), remove()) }, nil
				})
			})
			t.Run("socket", func(t *testing.T) {
				t.Parallel()
				testsuite.SnapshotterSuite(t, "baoverlay", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
					cfg, remove, err := setup(ctx, root)
					if err != nil {
						return nil, nil, err
					}
					sn, stop, err := serve(cfg)
					if err != nil {
						return nil, nil, errors.Join(err, remove())
					}
					return sn, func() error { return errors.Join(stop(), remove()) }, nil
				})
			})
		})
	}
}

// serve runs a server for cfg and returns a client of it, and what stops both.
func serve(cfg config.Config) (snapshots.Snapshotter, func() error, error) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, cfg) }()
	conn, err := grpc.NewClient("unix://"+cfg.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		cancel()
		return nil, nil, errors.Join(err, <-served)
	}
	stop := func() error {
		cancel()
		return errors.Join(conn.Close(), <-served)
	}
	client := snapshotsapi.NewSnapshotsClient(conn)
	// The first call waits for the server, or for its failure.
	waiting, done := context.WithCancel(ctx)
	go func() {
		select {
		case err := <-served:
			served <- err
			done()
		case <-waiting.Done():
		}
	}()
	_, err = client.Cleanup(waiting, &snapshotsapi.CleanupRequest{Snapshotter: "baoverlay"}, grpc.WaitForReady(true))
	done()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", err, stop())
	}
	return proxy.NewSnapshotter(client, "baoverlay"), stop, nil
}

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }
