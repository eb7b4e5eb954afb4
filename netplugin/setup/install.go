// Package setup is what the bundle's front door needs of the network plugin: the files that
// installing it writes, what keeps it from being removed, and the probes that say how well
// it does on a host.
package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	hostfiles "github.com/peregrine-dev/peregrine/config"
	"github.com/peregrine-dev/peregrine/internal/daemon"
	"github.com/peregrine-dev/peregrine/internal/install"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

const (
	// Name is what CNI knows the plugin by, and what its reports are headed with.
	Name = "falcon"

	unitPath = "/etc/systemd/system/falcond.service"
	program  = "falcond"

	// endpoints is where in the agent's directory it keeps what it knows of attachments.
	endpoints = "endpoints"
)

// Plugin returns what installing the network plugin means, with binaries in bin.
func Plugin(ctx context.Context, bin string) (install.Plugin, error) {
	// With one that can't be read the agent would not start.
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return install.Plugin{}, err
	}
	return plugin(ctx, cfg, bin, cniConf, cniBin)
}

// plugin is what installing means where CNI's configurations are in conf now, and its
// plugins in plugins.
func plugin(ctx context.Context, cfg config.Config, bin, conf, plugins string) (install.Plugin, error) {
	defaults, err := config.Default().Write()
	if err != nil {
		return install.Plugin{}, err
	}
	unit, err := hostfiles.Render(unitPath, map[string]string{"Bin": bin})
	if err != nil {
		return install.Plugin{}, err
	}
	p := install.Plugin{
		Name: Name,
		Files: []install.File{
			{Path: config.DefaultPath, Text: defaults, Yours: true},
			{Path: unitPath, Text: unit},
			// A link, so that a new binary needs no other step.
			{Path: filepath.Join(cniBin, Name), Link: filepath.Join(bin, Name)},
		},
		Units:   []string{filepath.Base(unitPath)},
		Restart: []string{filepath.Base(unitPath)}, // no packet notices
		State:   []string{protocol.Root},
		Dirs:    []string{filepath.Dir(config.DefaultPath)},
		InUse:   func(context.Context) ([]string, error) { return inUse(filepath.Join(protocol.Root, endpoints)) },
		Release: func(ctx context.Context) error {
			if err := drain(ctx, cfg, protocol.Root); err != nil {
				return err
			}
			return release(ctx)
		},
	}
	// Last: from then on containers get the network.
	list, err := hostList(ctx, conf, plugins, cfg.Networks[0].Name)
	if err != nil {
		return install.Plugin{}, err
	}
	if list != nil {
		p.Files = append(p.Files, install.File{Path: filepath.Join(cniConf, listName), Text: list, Yours: true})
	}
	return p, nil
}

// inUse lists the attachments of containers that have a record in dir. Offers that nobody
// has taken are no containers.
func inUse(dir string) ([]string, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	records, bad, err := endpoint.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list the attachments: %w", err)
	}
	var users []string
	for _, r := range records {
		if r.Offer == "" || r.Offer != r.ContainerID {
			users = append(users, "container "+r.ContainerID+", interface "+r.IfName)
		}
	}
	for file := range bad {
		users = append(users, "what "+filepath.Join(dir, file)+" is about, which can't be read")
	}
	slices.Sort(users)
	return users, nil
}

// drain takes the offers back, if there are records of any attachments.
func drain(ctx context.Context, cfg config.Config, root string) error {
	if _, err := os.Stat(filepath.Join(root, endpoints)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := daemon.Lock(root)
	if err != nil {
		return err
	}
	defer lock.Close()
	a, err := agent.Open(ctx, agent.Options{Config: cfg, Root: root})
	if err != nil {
		return err
	}
	return errors.Join(a.DrainOffers(ctx), a.Close())
}
