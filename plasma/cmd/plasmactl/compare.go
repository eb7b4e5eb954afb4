package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/peregrine-dev/peregrine/plasma/baseline"
	"github.com/peregrine-dev/peregrine/plasma/report"
	"github.com/peregrine-dev/peregrine/plasma/sim"
)

// maxSeeds bounds how often each policy is run.
const maxSeeds = 1000

func compareCommand() *cli.Command {
	return &cli.Command{
		Name:      "compare",
		Usage:     "try policies and the baselines on the same simulated application",
		ArgsUsage: "WORLD [POLICY...]",
		Description: "WORLD and POLICY are as for sim; without a policy, it's the one that comes with the world. All have\n" +
			"the same load with the same seed. Multiples are of the first policy.",
		Flags: append(simFlags(),
			&cli.IntFlag{Name: "seeds", Usage: "run each with `N` seeds, from 1 on", Value: 3},
		),
		Action: compareAll,
	}
}

func compareAll(c *cli.Context) error {
	seeds := c.Int("seeds")
	if c.NArg() < 1 || seeds < 1 || seeds > maxSeeds {
		return fmt.Errorf("want a world, and from 1 to %d seeds: %w", maxSeeds, errdefs.ErrInvalidArgument)
	}
	from, err := worldOf(c, c.Args().First())
	if err != nil {
		return err
	}
	all, err := contenders(c, from)
	if err != nil {
		return err
	}
	policies, err := runAll(c, from, all, seeds)
	if err != nil {
		return err
	}
	head := report.Head{
		Title: "Policies on " + from.name,
		Notes: append(from.notes(c), fmt.Sprintf("%d runs of each, with seeds from 1 on; the plots are of the first.", seeds)),
	}
	var sums []report.Summary
	for _, p := range policies {
		sums = append(sums, report.Summarize(p))
	}
	return show(c, policies, head, sums, func(out io.Writer) error { return report.Text(out, policies) })
}

// contenders are the policies that were named, and all baselines; the original's runs by the
// first policy's bounds.
func contenders(c *cli.Context, from *source) ([]*contender, error) {
	names := c.Args().Tail()
	if len(names) == 0 {
		names = []string{"-"}
	}
	var all []*contender
	for _, name := range append(names, baseline.Names()...) {
		k, err := contenderOf(c, from, name)
		if err != nil {
			return nil, err
		}
		if name == baseline.Original {
			k.program = all[0].program
		}
		all = append(all, k)
	}
	return all, nil
}

// runAll runs all with all seeds, as many at once as there are processors.
func runAll(c *cli.Context, from *source, all []*contender, seeds int) ([]report.Policy, error) {
	policies := make([]report.Policy, len(all))
	for i, k := range all {
		policies[i] = report.Policy{Name: k.name, Text: string(k.text), Results: make([]*sim.Result, seeds)}
	}
	g, ctx := errgroup.WithContext(c.Context)
	g.SetLimit(runtime.GOMAXPROCS(0))
	bar := newProgress(c.App.ErrWriter, time.Duration(seeds*len(all))*time.Second)
	for seed := range seeds {
		for i, k := range all {
			n := seed*len(all) + i
			g.Go(func() error {
				r, doc, err := runOne(ctx, from, k, uint64(seed+1), func(share float64) { bar.set(n, time.Duration(share*float64(time.Second))) })
				if err != nil {
					return fmt.Errorf("%s with seed %d: %w", k.name, seed+1, err)
				}
				if seed == 0 {
					policies[i].Doc = doc
				}
				policies[i].Results[seed] = r
				return nil
			})
		}
	}
	err := g.Wait()
	bar.end()
	return policies, err
}

func runOne(ctx context.Context, from *source, k *contender, seed uint64, progress func(float64)) (*sim.Result, string, error) {
	w, err := from.draw(seed)
	if err != nil {
		return nil, "", err
	}
	e, err := k.on(w)
	if err != nil {
		return nil, "", err
	}
	e.options.Progress = func(at, of time.Duration) { progress(at.Seconds() / of.Seconds()) }
	r, err := sim.Run(ctx, w, e.planner, e.options)
	if err != nil {
		return nil, "", err
	}
	// Decisions are not shown side by side, and those of many runs would fill the memory.
	r.Done, r.NotDone = nil, nil
	return r, e.doc, nil
}
