package main

import (
	"context"
	"io"

	"github.com/peregrine-dev/peregrine/integration/bench"
	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/internal/install"
	snapshotter "github.com/peregrine-dev/peregrine/snapshotter/setup"
)

// plugin is what the front door needs of each part of the bundle. A new part adds
// itself to plugins, and rows to the demo.
type plugin struct {
	check   func(context.Context) ([]check.Result, error)
	install func(ctx context.Context, bin string) (install.Plugin, error)
	// advise tells what an installation leaves to the operator.
	advise func(context.Context, io.Writer) error
	bench  benchmark
}

type benchmark struct {
	name string
	run  func(context.Context, bench.Options) ([]bench.Row, error)
}

var plugins = []plugin{
	{
		check:   snapshotter.Check,
		install: snapshotter.Plugin,
		advise:  snapshotter.Advise,
		bench:   benchmark{"snapshotter", bench.Snapshotter},
	},
}

func benchNames() []string {
	var names []string
	for _, p := range plugins {
		names = append(names, p.bench.name)
	}
	return names
}
