// Package demo shows what the bundle does beside the stock parts: the same containers,
// by turns, on one private containerd.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/integration/bench"
	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/integration/leak"
)

// Options say where things are.
type Options struct {
	Cache    string
	Bin      string
	Progress images.Progress
	// Parts are those of Parts to show; none is all.
	Parts []string
}

// Parts are what can be shown.
var Parts = []string{"snapshotter", "shim", "net", "plasma"}

// check refuses parts that there are not.
func (o Options) check() error {
	for _, p := range o.Parts {
		if !slices.Contains(Parts, p) {
			return fmt.Errorf("there is no part %q, but %s: %w", p, strings.Join(Parts, ", "), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func (o Options) shows(part string) bool { return len(o.Parts) == 0 || slices.Contains(o.Parts, part) }

// Run runs the demo and prints its table to out. It leaves nothing behind, also when
// ctx is done before it has ended.
func Run(ctx context.Context, out io.Writer, o Options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	image, err := images.DebianData(ctx, o.Cache, o.Progress)
	if err != nil {
		return err
	}
	before, err := leak.Look()
	if err != nil {
		return err
	}
	var rows []Row
	var seen, moved []Finding
	if o.shows("snapshotter") || o.shows("shim") || o.shows("net") {
		rows, seen, err = run(ctx, o, image)
	}
	if err == nil && o.shows("plasma") {
		moved, err = elasticity(ctx, o)
	}
	more, lerr := leak.Settle(before)
	if lerr == nil && len(more) > 0 {
		lerr = fmt.Errorf("the demo left behind: %s", strings.Join(more, ", "))
	}
	if err != nil {
		return errors.Join(err, lerr)
	}
	fmt.Fprintf(out, "%s\ncontainerd %s; medians of %d (starts: %d, attachments: %d), by turns\n\n", bench.Machine(), harness.Versions[0], rounds, starts, attachments)
	return errors.Join(Print(out, rows), PrintNetwork(out, seen), PrintPlasma(out, moved), lerr)
}

const rounds = 3

func run(ctx context.Context, o Options, image images.Image) (rows []Row, seen []Finding, err error) {
	o.Progress("starting a private containerd with the bundle", 0, 0)
	b, err := harness.StartBundle(ctx, o.Cache, o.Bin, harness.Versions[0], nil)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, b.Remove(ctx)) }()
	if o.shows("snapshotter") {
		files, err := snapshotter(ctx, b, o, image)
		if err != nil {
			return nil, nil, err
		}
		rows = append(rows, files...)
	}
	if o.shows("shim") {
		life, err := shim(ctx, b, o)
		if err != nil {
			return nil, nil, err
		}
		rows = append(rows, life...)
	}
	if o.shows("net") {
		attached, found, err := network(ctx, b, o)
		if err != nil {
			return nil, nil, err
		}
		rows, seen = append(rows, attached...), found
	}
	return rows, seen, nil
}

// container runs a workload of the peregrine program in a container of its own and
// returns the nanoseconds that it printed; done is called before the container
// goes.
func container(ctx context.Context, b *harness.Bundle, o Options, snapshotter, image string, done func() error, workload ...string) (ns float64, err error) {
	args := []string{
		"run", "--snapshotter", snapshotter,
		"--mount", "type=bind,src=" + filepath.Join(o.Bin, "peregrine") + ",dst=/peregrine,options=rbind:ro",
		"--mount", "type=bind,src=" + b.Dir() + ",dst=/demo,options=rbind:ro",
		image, "demo", "/peregrine", "workload",
	}
	defer func() { err = errors.Join(err, b.RemoveContainers(context.WithoutCancel(ctx))) }()
	out, err := b.Ctr(ctx, append(args, workload...)...)
	if err != nil {
		return 0, err
	}
	if ns, err = strconv.ParseFloat(strings.TrimSpace(out), 64); err != nil {
		return 0, fmt.Errorf("the container printed %q: %w", out, err)
	}
	return ns, done()
}
