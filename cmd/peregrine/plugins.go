package main

import (
	"context"
	"io"

	"github.com/peregrine-dev/peregrine/integration/bench"
	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/internal/install"
	falcon "github.com/peregrine-dev/peregrine/netplugin/setup"
	plasma "github.com/peregrine-dev/peregrine/plasma/setup"
	shim "github.com/peregrine-dev/peregrine/shim/setup"
	snapshotter "github.com/peregrine-dev/peregrine/snapshotter/setup"
)

// plugin is what the front door needs of each part of the bundle. A new part adds
// itself to plugins, and rows to the demo.
type plugin struct {
	name string
	// check, install and advise are nil of what needs nothing of the host.
	check   func(context.Context) ([]check.Result, error)
	install func(ctx context.Context, bin string) (install.Plugin, error)
	// advise tells what an installation leaves to the operator.
	advise func(context.Context, io.Writer) error
	// status tells how the plugin is doing; nil if there is nothing to tell.
	status func(context.Context) (report, error)
	bench  benchmark
}

// report is for people as it prints itself, and for machines as JSON.
type report interface {
	Print(io.Writer) error
}

type benchmark struct {
	name string
	run  func(context.Context, bench.Options) ([]bench.Row, error)
}

var plugins = []plugin{
	{
		name:    snapshotter.Name,
		check:   snapshotter.Check,
		install: snapshotter.Plugin,
		advise:  snapshotter.Advise,
		bench:   benchmark{"snapshotter", bench.Snapshotter},
	},
	{
		name:    shim.Name,
		check:   shim.Check,
		install: shim.Plugin,
		advise:  shim.Advise,
		status:  func(ctx context.Context) (report, error) { return shim.Status(ctx) },
		bench:   benchmark{"shim", bench.Shim},
	},
	{
		name:    falcon.Name,
		check:   falcon.Check,
		install: falcon.Plugin,
		advise:  falcon.Advise,
		status:  func(ctx context.Context) (report, error) { return falcon.Status(ctx) },
		bench:   benchmark{"net", bench.Network},
	},
	{
		name:    plasma.Name,
		check:   plasma.Check,
		install: plasma.Plugin,
		advise:  plasma.Advise,
		status:  func(ctx context.Context) (report, error) { return plasma.Status(ctx) },
		bench:   benchmark{"plasma", bench.Plasma},
	},
}

func benchNames() []string {
	var names []string
	for _, p := range plugins {
		names = append(names, p.bench.name)
	}
	return names
}
