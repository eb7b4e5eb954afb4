package harness

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
	"github.com/peregrine-dev/peregrine/snapshotter/setup"
)

// Snapshotter is a running containerd-baoverlay-grpc.
type Snapshotter struct {
	*Process
	Config config.Config

	bin, dir string
}

// NewSnapshotter is a daemon of bin/containerd-baoverlay-grpc with its root and socket
// in dir. change, if not nil, alters the configuration. Start runs it.
func NewSnapshotter(bin, dir string, change func(*config.Config)) *Snapshotter {
	cfg := config.Default()
	cfg.Root = filepath.Join(dir, "baoverlay")
	cfg.Address = filepath.Join(dir, "baoverlay.sock")
	if change != nil {
		change(&cfg)
	}
	return &Snapshotter{Config: cfg, bin: bin, dir: dir}
}

// StartSnapshotter is NewSnapshotter and Start.
func StartSnapshotter(ctx context.Context, bin, dir string, change func(*config.Config)) (*Snapshotter, error) {
	s := NewSnapshotter(bin, dir, change)
	return s, s.Start(ctx)
}

// Start runs the daemon, again after Stop or Kill, and waits until it serves.
func (s *Snapshotter) Start(ctx context.Context) error {
	if err := s.Launch(); err != nil {
		return err
	}
	if err := s.ready(ctx, s.healthy); err != nil {
		return errors.Join(err, s.Kill())
	}
	return nil
}

// Launch is Start without waiting.
func (s *Snapshotter) Launch() error {
	text, err := s.Config.Write()
	if err != nil {
		return err
	}
	file := filepath.Join(s.dir, "baoverlay.toml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	s.Process, err = start(filepath.Join(s.dir, "baoverlay.log"), os.Getenv("PATH"), nil,
		filepath.Join(s.bin, "containerd-baoverlay-grpc"), "--config", file)
	return err
}

func (s *Snapshotter) healthy(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+s.Config.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// Remove stops the daemon and unmounts its pool.
func (s *Snapshotter) Remove() error {
	return errors.Join(s.Stop(), pool.Unmount(baoverlay.PoolDir(s.Config.Root)))
}

// DropIn is what peregrine install writes for containerd.
func (s *Snapshotter) DropIn() ([]byte, error) {
	return setup.DropIn(s.Config, setup.DefaultUnpack())
}

// StartInstalled runs the daemon as its unit does, with the host's configuration; its
// log is in dir.
func StartInstalled(ctx context.Context, bin, dir string) (*Process, error) {
	cfg, err := config.Load(config.DefaultPath, true)
	if err != nil {
		return nil, err
	}
	s := &Snapshotter{Config: cfg}
	s.Process, err = start(filepath.Join(dir, "baoverlay.log"), os.Getenv("PATH"), nil, filepath.Join(bin, "containerd-baoverlay-grpc"))
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx, s.healthy); err != nil {
		return nil, errors.Join(err, s.Kill())
	}
	return s.Process, nil
}
