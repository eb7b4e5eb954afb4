package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/report"
	"github.com/peregrine-dev/peregrine/plasma/sim"
)

func simCommand() *cli.Command {
	return &cli.Command{
		Name:      "sim",
		Usage:     "try a policy on a simulated application",
		ArgsUsage: "POLICY WORLD",
		Description: "WORLD is a file, or one of the worlds that are built in: " + worldNames() + ".\n" +
			"POLICY is a file, - for the policy that comes with the world, or a baseline: " + baselineNames() + ".\n" +
			"The same seed gives the same run.",
		Flags: append(simFlags(),
			&cli.Uint64Flag{Name: "seed", Usage: "draw with seed `N`; 0 is the world's own", Value: 0},
			&cli.PathFlag{Name: "record", Usage: "write snapshots and plans to `FILE`, for replay"},
		),
		Action: simulate,
	}
}

// simFlags are those that sim and compare have in common.
func simFlags() []cli.Flag {
	return []cli.Flag{
		languageFlag(),
		&cli.DurationFlag{Name: "duration", Usage: "end after `TIME` of the simulation"},
		&cli.PathFlag{Name: "calibration", Usage: "use the costs and factors of service times in `FILE`"},
		&cli.PathFlag{Name: "html", Usage: "write a report with plots to `FILE`"},
		&cli.PathFlag{Name: "json", Usage: "write what came of it to `FILE`; - is the standard output, without the table"},
	}
}

func simulate(c *cli.Context) (err error) {
	if c.NArg() != 2 {
		return fmt.Errorf("want a policy and a world: %w", errdefs.ErrInvalidArgument)
	}
	from, err := worldOf(c, c.Args().Get(1))
	if err != nil {
		return err
	}
	w, err := from.draw(c.Uint64("seed"))
	if err != nil {
		return err
	}
	with, err := contenderOf(c, from, c.Args().Get(0))
	if err != nil {
		return err
	}
	base, err := with.on(w)
	if err != nil {
		return err
	}
	o := base.options
	if file := c.Path("record"); file != "" {
		if with.baseline {
			return fmt.Errorf("%s is no policy that a record could be replayed with: leave out --record: %w", with.name, errdefs.ErrInvalidArgument)
		}
		done, err := record(&o, file, with)
		if err != nil {
			return err
		}
		defer func() {
			if e := done(); err == nil {
				err = e
			}
		}()
	}
	bar := newProgress(c.App.ErrWriter, o.Duration)
	o.Progress = func(at, _ time.Duration) { bar.set(0, at) }
	result, err := sim.Run(c.Context, w, base.planner, o)
	bar.end()
	if err != nil {
		return err
	}
	head := report.Head{Title: with.name + " on " + w.Name, Notes: from.notes(c)}
	one := []report.Policy{{Name: with.name, Doc: base.doc, Text: string(with.text), Results: []*sim.Result{result}}}
	return show(c, one, head, result, func(out io.Writer) error { return report.Details(out, result) })
}

// record has the options write a record, which is complete once done returns.
func record(o *sim.Options, file string, with *contender) (done func() error, err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	r, err := model.NewRecorder(f, string(with.text), with.paper)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	o.Record = r.Write
	return func() error {
		err := r.Close()
		if e := f.Close(); err == nil {
			err = e
		}
		return err
	}, nil
}

// show writes the files that were asked for, and the table.
func show(c *cli.Context, policies []report.Policy, head report.Head, value any, table func(io.Writer) error) error {
	if file := c.Path("html"); file != "" {
		if err := write(c, file, func(out io.Writer) error { return report.HTML(out, head, policies) }); err != nil {
			return err
		}
	}
	if file := c.Path("json"); file != "" {
		if err := write(c, file, func(out io.Writer) error { return printJSON(out, value) }); err != nil {
			return err
		}
		if file == "-" {
			return nil
		}
	}
	return table(c.App.Writer)
}

// write writes a file, or to the standard output.
func write(c *cli.Context, file string, do func(io.Writer) error) error {
	if file == "-" {
		return do(c.App.Writer)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	err = do(f)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
