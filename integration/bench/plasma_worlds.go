package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/apps"
	"github.com/peregrine-dev/peregrine/plasma/baseline"
	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/plan"
	"github.com/peregrine-dev/peregrine/plasma/sim"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// seeds are how often each world is run, each time with another seed, from firstSeed on (the bounds
// of the policies were chosen on seeds below that); quickSeeds in a quick run.
const (
	seeds      = 20
	quickSeeds = 2
	firstSeed  = 101
)

// contest is what came of a world by its own policy, and by baselines, for each seed.
type contest struct {
	ours  []*sim.Result
	peers map[string][]*sim.Result
}

// contest runs a world. With fixed, ours has as many servers as the load's peak needs, and can't
// have others: as it is for a baseline that neither starts nor ends any.
func (b *plasmaBench) contest(ctx context.Context, name string, draw func(string, uint64) (*world.World, error), fixed bool, against ...string) (contest, error) {
	c := contest{peers: map[string][]*sim.Result{}}
	text, err := apps.Policy(name, epl.Full)
	if err != nil {
		return c, err
	}
	program, err := compile(text, epl.Full)
	if err != nil {
		return c, err
	}
	n := seeds
	if b.Quick {
		n = quickSeeds
	}
	for seed := range n {
		w, err := draw(name, uint64(seed)+firstSeed)
		if err != nil {
			return c, err
		}
		o, own := sim.Options{Period: program.Limits.Period}, *program
		if fixed {
			o.Servers = w.Peak
			own.Limits.MinServers, own.Limits.MaxServers = w.Peak, w.Peak
		}
		r, err := sim.Run(ctx, w, plan.New(&own), o)
		if err != nil {
			return c, fmt.Errorf("world %s: %w", name, err)
		}
		c.ours = append(c.ours, r)
		for _, peer := range against {
			base, err := baseline.New(peer, w, program)
			if err != nil {
				return c, err
			}
			r, err := sim.Run(ctx, w, base.Planner, sim.Options{Servers: base.Servers, Period: program.Limits.Period})
			if err != nil {
				return c, fmt.Errorf("world %s, %s: %w", name, peer, err)
			}
			c.peers[peer] = append(c.peers[peer], r)
		}
	}
	return c, nil
}

func series(results []*sim.Result, of func(*sim.Result) float64) Series {
	var s Series
	for _, r := range results {
		s = append(s, of(r))
	}
	return s
}

// worlds compares moves and overload to the original runtime's, in each world.
func (b *plasmaBench) worlds(ctx context.Context) error {
	for _, name := range apps.Names() {
		c, err := b.contest(ctx, name, apps.World, true, baseline.Original)
		if err != nil {
			return err
		}
		peer := c.peers[baseline.Original]
		// One is added to each: worlds without any have to be compared, too.
		b.compare("moves-vs-original", name, Moves, c, baseline.Original,
			func(r *sim.Result) float64 { return 1 + float64(r.Moves) },
			fmt.Sprintf("both on as many servers as the peak needs; one is added to both; p99 of requests %s and %s ms", Digits(p99(c.ours)), Digits(p99(peer))))
		b.compare("overload-vs-original", name, ServerSeconds, c, baseline.Original,
			func(r *sim.Result) float64 { return 1 + r.OverloadSeconds },
			fmt.Sprintf("one is added to both; of %s and %s server seconds in all",
				Digits(series(c.ours, serverSeconds).Median()), Digits(series(peer, serverSeconds).Median())))
	}
	return nil
}

func serverSeconds(r *sim.Result) float64 { return r.ServerSeconds }

func p99(results []*sim.Result) float64 {
	return series(results, func(r *sim.Result) float64 { return r.Latency.P99 }).Median()
}

func (b *plasmaBench) compare(row, name string, unit Unit, c contest, peer string, of func(*sim.Result) float64, note string) {
	b.rows = append(b.rows, Compare(row+"/"+name, unit, series(c.ours, of), peer, series(c.peers[peer], of), note))
}

// stationary counts actors that come back, where the load doesn't change.
func (b *plasmaBench) stationary(ctx context.Context) error {
	var ours, moves Series
	var worst []string
	for _, name := range apps.Names() {
		c, err := b.contest(ctx, name, apps.Stationary, false)
		if err != nil {
			return err
		}
		for _, r := range c.ours {
			ours, moves = append(ours, float64(r.PingPong)), append(moves, float64(r.Moves))
			if r.PingPong > 0 && !slices.Contains(worst, name) {
				worst = append(worst, name)
			}
		}
	}
	b.against("ping-pong", Moves, ours, 0, fmt.Sprintf("moves back within ten periods under a load that stays, all worlds; of %s moves; worlds with any: %s",
		Digits(moves.Median()), strings.Join(worst, ", ")))
	return nil
}

// elastic compares what is paid for, at what latency, where the load changes most.
func (b *plasmaBench) elastic(ctx context.Context) error {
	for _, name := range []string{"media", "estore"} {
		c, err := b.contest(ctx, name, apps.World, false, baseline.StaticPeak)
		if err != nil {
			return err
		}
		b.compare("server-seconds-vs-static-peak", name, ServerSeconds, c, baseline.StaticPeak, serverSeconds, atLatency(c, baseline.StaticPeak))
		// The formula's own target gives latencies that nobody would take, so it gets lower ones
		// until its p99 is near ours.
		for _, target := range []float64{0.7, 0.6, 0.5, 0.4, 0.3} {
			if err := b.autoscaled(ctx, name, target, &c); err != nil {
				return err
			}
			if p99(c.peers[baseline.HPA]) <= 1.1*p99(c.ours) || target == 0.3 {
				b.compare("server-seconds-vs-hpa", name, ServerSeconds, c, baseline.HPA, serverSeconds,
					fmt.Sprintf("its target is %.0f %%; %s", 100*target, atLatency(c, baseline.HPA)))
				break
			}
		}
	}
	return nil
}

// autoscaled runs a world by the autoscaler's formula.
func (b *plasmaBench) autoscaled(ctx context.Context, name string, target float64, c *contest) error {
	formula := baseline.DefaultAutoscaler()
	formula.Target = target
	c.peers[baseline.HPA] = nil
	for _, ours := range c.ours {
		w, err := apps.World(name, ours.Seed)
		if err != nil {
			return err
		}
		r, err := sim.Run(ctx, w, formula, sim.Options{Period: ours.Period})
		if err != nil {
			return fmt.Errorf("world %s, the autoscaler: %w", name, err)
		}
		c.peers[baseline.HPA] = append(c.peers[baseline.HPA], r)
	}
	return nil
}

func atLatency(c contest, peer string) string {
	return fmt.Sprintf("p99 of requests %s and %s ms, overload %s and %s server seconds",
		Digits(p99(c.ours)), Digits(p99(c.peers[peer])), Digits(overload(c.ours)), Digits(overload(c.peers[peer])))
}

func overload(results []*sim.Result) float64 {
	return series(results, func(r *sim.Result) float64 { return r.OverloadSeconds }).Median()
}
