package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	hostfiles "github.com/peregrine-dev/peregrine/config"
	"github.com/peregrine-dev/peregrine/internal/daemon"
	"github.com/peregrine-dev/peregrine/internal/install"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
	"github.com/peregrine-dev/peregrine/snapshotter/server"
)

const unitDir = "/etc/systemd/system/"

// Plugin returns what installing the snapshotter means, with binaries in bin.
func Plugin(ctx context.Context, bin string) (install.Plugin, error) {
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return install.Plugin{}, err
	}
	unpack, err := hostUnpack(ctx)
	if err != nil {
		return install.Plugin{}, err
	}
	dropIn, err := DropIn(cfg, unpack)
	if err != nil {
		return install.Plugin{}, err
	}
	defaults, err := config.Default().Write()
	if err != nil {
		return install.Plugin{}, err
	}
	// Without a configuration of its own, containerd looks into no conf.d either.
	main, err := hostfiles.Render(mainConfigPath, nil)
	if err != nil {
		return install.Plugin{}, err
	}
	p := install.Plugin{
		Name: Name,
		Files: []install.File{
			{Path: config.DefaultPath, Text: defaults, Yours: true},
			{Path: dropInPath, Text: dropIn},
			{Path: mainConfigPath, Text: main, Yours: true},
		},
		Units: []string{"baoverlay-pool.service", "baoverlay.socket", "baoverlay.service"},
		// The root may have been there before and hold what is not ours.
		State:   baoverlay.Files(cfg.Root),
		Dirs:    []string{cfg.Root, filepath.Dir(config.DefaultPath)},
		InUse:   func(ctx context.Context) ([]string, error) { return inUse(ctx, cfg) },
		Restart: []string{"baoverlay.socket", "baoverlay.service"}, // never the pool: containers run on it
		Release: func(context.Context) error { return release(cfg) },
	}
	for _, unit := range p.Units {
		text, err := hostfiles.Render(unitDir+unit, map[string]string{"Bin": bin, "Root": cfg.Root, "Address": cfg.Address})
		if err != nil {
			return install.Plugin{}, err
		}
		p.Files = append(p.Files, install.File{Path: unitDir + unit, Text: text})
	}
	return p, nil
}

// release unmounts the pool, when no daemon is left that uses it.
func release(cfg config.Config) error {
	if _, err := os.Stat(cfg.Root); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := daemon.Lock(cfg.Root)
	if err != nil {
		return err
	}
	return errors.Join(pool.Unmount(baoverlay.PoolDir(cfg.Root)), lock.Close())
}

// inUse lists the snapshots there are, those of containers first.
func inUse(ctx context.Context, cfg config.Config) (names []string, err error) {
	sn, done, err := open(ctx, cfg)
	if err != nil || sn == nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	var images []string
	err = sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted {
			images = append(images, "image layer "+info.Name)
		} else {
			names = append(names, strings.ToLower(info.Kind.String())+" snapshot "+info.Name)
		}
		return nil
	})
	slices.Sort(names)
	slices.Sort(images)
	return append(names, images...), err
}

// open reaches the snapshots through the daemon if it runs and by itself if not; nil
// where there never were any.
func open(ctx context.Context, cfg config.Config) (snapshots.Snapshotter, func() error, error) {
	if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", cfg.Address); err == nil {
		conn.Close()
		client, err := grpc.NewClient("unix://"+cfg.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, err
		}
		return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(client), Name), client.Close, nil
	}
	if _, err := os.Stat(cfg.Root); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	host, err := baoverlay.Probe(cfg.Root)
	if err != nil || host.Held == "" {
		return nil, nil, err
	}
	lock, err := daemon.Lock(cfg.Root)
	if err != nil {
		return nil, nil, err
	}
	mounted, err := pool.Mounted(baoverlay.PoolDir(cfg.Root))
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	// A look leaves the pool as it was.
	leave := func() error {
		if mounted {
			return lock.Close()
		}
		return errors.Join(pool.Unmount(baoverlay.PoolDir(cfg.Root)), lock.Close())
	}
	p, err := server.Open(ctx, cfg)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open the snapshots in %s: %w", cfg.Root, err), leave())
	}
	sn, err := baoverlay.NewSnapshotter(ctx, p, false)
	if err != nil {
		return nil, nil, errors.Join(err, leave())
	}
	return sn, func() error { return errors.Join(sn.Close(), leave()) }, nil
}
