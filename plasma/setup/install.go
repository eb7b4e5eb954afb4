// Package setup is what the bundle's front door needs of PLASMA's runtime: the files that
// installing it writes, what keeps it from being removed, the probes that say how well it does on
// a host, and how its services are.
package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	containerd "github.com/containerd/containerd/v2/client"

	hostfiles "github.com/peregrine-dev/peregrine/config"
	"github.com/peregrine-dev/peregrine/internal/install"
	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/driver"
)

const (
	// Name is what its reports are headed with.
	Name = "plasma"

	unitPath = "/etc/systemd/system/plasmad.service"
	program  = "plasmad"
	sidecar  = "plasma-sidecar"

	// run and root are plasmad's directories as its unit starts it.
	run  = "/run/plasma"
	root = "/var/lib/plasma"
)

// Plugin returns what installing the runtime means, with binaries in bin. What actors have stored
// stays when it is removed, and so does what was decided about them.
func Plugin(_ context.Context, bin string) (install.Plugin, error) {
	// With one that can't be read plasmad would not start.
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return install.Plugin{}, err
	}
	defaults, err := config.Default().Write()
	if err != nil {
		return install.Plugin{}, err
	}
	unit, err := hostfiles.Render(unitPath, map[string]string{"Bin": bin})
	if err != nil {
		return install.Plugin{}, err
	}
	return install.Plugin{
		Name: Name,
		Files: []install.File{
			{Path: config.DefaultPath, Text: defaults, Yours: true},
			{Path: unitPath, Text: unit},
		},
		Units:   []string{filepath.Base(unitPath)},
		Restart: []string{filepath.Base(unitPath)}, // services go on meanwhile
		State:   []string{run},
		Dirs:    []string{root, filepath.Dir(config.DefaultPath)},
		InUse:   func(ctx context.Context) ([]string, error) { return inUse(ctx, cfg, run) },
	}, nil
}

// inUse lists the servers that have a container here. Where containerd doesn't answer it goes by
// plasmad's directories.
func inUse(ctx context.Context, cfg config.Config, run string) ([]string, error) {
	var ids []string
	if err := knock(ctx, cfg.Containerd); err == nil {
		if ids, err = contained(ctx, cfg); err != nil {
			return nil, err
		}
	} else {
		entries, err := os.ReadDir(filepath.Join(run, "servers"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list servers: %w", err)
		}
		for _, e := range entries {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	for i, id := range ids {
		ids[i] = "server " + id
	}
	return ids, nil
}

// contained lists the servers that containerd has.
func contained(ctx context.Context, cfg config.Config) ([]string, error) {
	client, err := containerd.New(cfg.Containerd, containerd.WithTimeout(patience))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := driver.New(client, driver.Options{Namespace: cfg.Namespace}).List(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range all {
		ids = append(ids, r.ID)
	}
	return ids, nil
}
