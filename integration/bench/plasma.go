package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/apps"
	"github.com/peregrine-dev/peregrine/plasma/baseline"
	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/epl/vet"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/plan"
	"github.com/peregrine-dev/peregrine/plasma/sim"
)

// Units of the rows of what has no time.
var (
	ServerSeconds = Unit{"server s", false}
	Moves         = Unit{"moves", false}
	OverMean      = Unit{"x", false}
)

// plasmaBench measures PLASMA's language, planner and simulator.
type plasmaBench struct {
	Options
	rows  []Row
	node  *plasmaLive // of real containers; nil until one is needed
	heats int         // hot spots so far
}

// Plasma measures what needs no container: the checker, the planner, the simulator; and in the
// simulator the plans of each world's own policy beside those of others. Simulated figures are
// of the same seeds on both sides.
func Plasma(ctx context.Context, o Options) (rows []Row, err error) {
	b := &plasmaBench{Options: o}
	steps := []struct {
		names []string
		run   func(context.Context) error
	}{
		{[]string{"vet-100-rules"}, b.vet},
		{[]string{"plan-10k", "plan-100k"}, b.plan},
		{[]string{"sim-events-per-second"}, b.events},
		{[]string{"max-over-mean"}, b.even},
		{[]string{"moves-vs-original", "overload-vs-original"}, b.worlds},
		{[]string{"ping-pong"}, b.stationary},
		{[]string{"server-seconds-vs-static-peak", "server-seconds-vs-hpa"}, b.elastic},
		{[]string{"profile-per-message"}, b.profiling},
		{[]string{"profile-throughput", "call-same-container", "call-same-node", "calls-per-second"}, b.calls},
		{[]string{"move-pause-1KiB", "move-pause-1MiB", "others-p99-while-moving"}, b.pausing},
		{[]string{"hot-spot-to-move"}, b.hotspot},
		{[]string{"scale-out-to-serving"}, b.scaling},
		{[]string{"move-pause-3-nodes"}, b.pausingFar},
		{[]string{"plasmad-memory", "plasmad-idle-cpu"}, b.idle},
	}
	defer func() {
		if b.node != nil {
			err = errors.Join(err, b.node.close(ctx))
		}
	}()
	var all []string
	for _, step := range steps {
		all = append(all, step.names...)
	}
	for _, row := range o.Rows {
		if !slices.Contains(all, row) {
			return nil, fmt.Errorf("no row %q, want some of %s: %w", row, strings.Join(all, ", "), errdefs.ErrInvalidArgument)
		}
	}
	for _, step := range steps {
		if !o.wants(step.names...) {
			continue
		}
		if err := step.run(ctx); err != nil {
			return nil, err
		}
	}
	return b.rows, nil
}

// timed runs fn so often and gives the times in milliseconds.
func timed(ctx context.Context, n int, fn func()) (Series, error) {
	var s Series
	for range n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		start := time.Now()
		fn()
		s = append(s, milliseconds(time.Since(start)))
	}
	return s, nil
}

// against compares to a bound, for what has no peer.
func (b *plasmaBench) against(name string, unit Unit, ours Series, bound float64, note string) {
	b.rows = append(b.rows, Compare(name, unit, ours, "the bound", Series{bound}, note))
	last := &b.rows[len(b.rows)-1]
	last.N = len(ours)
	if bound == 0 { // nothing of it is as good as can be, and anything is not
		last.Ratio = 0
		if last.P99Ours == 0 {
			last.Ratio = 1
		}
	}
}

func (b *plasmaBench) vet(ctx context.Context) error {
	var text strings.Builder
	for i := range 100 {
		fmt.Fprintf(&text, "rule r%d priority %d: server.cpu.perc > %d and client.call(T%d(a).get).perc > 40 and U%d(b) in ref(a.parts) => reserve(a, cpu); colocate(a, b);\n",
			i, i, 60+i%30, i, i)
	}
	var failed error
	s, err := timed(ctx, 200, func() {
		p, err := epl.Parse("bench.epl", []byte(text.String()), epl.Full)
		if err != nil {
			failed = err
			return
		}
		vet.Check(p, nil)
	})
	if err != nil {
		return err
	}
	b.against("vet-100-rules", Milliseconds, s, 10, "a policy of 100 rules is parsed and checked")
	return failed
}

func (b *plasmaBench) plan(ctx context.Context) error {
	program, err := compile([]byte(planPolicy), epl.Full)
	if err != nil {
		return err
	}
	p := plan.New(program)
	for _, size := range []struct {
		name            string
		actors, servers int
		bound           float64
	}{{"plan-10k", 10_000, 300, 10}, {"plan-100k", 100_000, 1000, 50}} {
		n := 200
		if b.Quick {
			n = 40
		}
		s := crowded(size.actors, size.servers)
		var last model.Plan
		took, err := timed(ctx, n, func() { last = p.Plan(s, model.Memory{}) })
		if err != nil {
			return err
		}
		b.against(size.name, Milliseconds, took, size.bound, fmt.Sprintf(
			"%d actors on %d servers, %d calls, a plan of %d actions; the bound is for the p99", size.actors, size.servers, len(s.Calls), len(last.Actions)))
	}
	return nil
}

const planPolicy = `limits { servers 2..2000; moves 5% per 10s; }
rule hot priority 9: server.cpu.perc > 80 and client.call(Folder(fo).open).perc > 40 and File(fi) in ref(fo.files) => reserve(fo, cpu); colocate(fo, fi);
rule busy priority 5: Folder(fo).call(File(fi).read).count > 45 => colocate(fo, fi);
rule level priority 2: server.cpu.perc < 40 or server.cpu.perc > 80 => balance({Folder, File}, cpu);`

// crowded is a snapshot of many actors: each fourth a folder that calls the three files after it,
// every tenth on one of the first servers, which have too many.
func crowded(actors, servers int) *model.Snapshot {
	rng := rand.New(rand.NewPCG(7, 7))
	s := &model.Snapshot{Version: model.Version, At: time.Hour, Window: 5 * time.Second}
	for i := range servers {
		s.Nodes = append(s.Nodes, model.Node{ID: fmt.Sprintf("n%d", i), Capacity: model.Resources{CPU: 4}})
		s.Servers = append(s.Servers, model.Server{ID: fmt.Sprintf("s%d", i), Node: i, State: model.Up, Limit: model.Resources{CPU: 1}})
	}
	each := 0.7 * float64(servers) / float64(actors)
	for i := range actors {
		at := rng.IntN(servers)
		if rng.IntN(10) == 0 {
			at = rng.IntN(max(1, servers/20))
		}
		a := model.Actor{ID: fmt.Sprintf("a%06d", i), Type: "File", Server: at, State: 1 << 16}
		a.Usage.CPU = 2 * each * rng.Float64()
		s.Servers[at].Usage.CPU += a.Usage.CPU
		if folder := i / 4 * 4; i == folder {
			a.Type = "Folder"
			s.Calls = append(s.Calls, model.Call{From: model.Client, To: i, Function: "open", Count: float64(rng.IntN(500))})
		} else {
			s.Actors[folder].Refs = append(s.Actors[folder].Refs, model.Ref{Name: "files", To: i})
			s.Calls = append(s.Calls, model.Call{From: folder, To: i, Function: "read", Count: float64(rng.IntN(50))})
		}
		s.Actors = append(s.Actors, a)
	}
	return s
}

// even measures how near balancing ends to what is possible: the mean, or the largest part, which
// can't be divided. (That is also what linear programming says, with parts that can be.)
func (b *plasmaBench) even(ctx context.Context) error {
	program, err := compile([]byte(`true => balance({Part}, cpu);`), epl.Full)
	if err != nil {
		return err
	}
	p := plan.New(program)
	var overMean, overBound Series
	for seed := range uint64(100) {
		if err := ctx.Err(); err != nil {
			return err
		}
		rng := rand.New(rand.NewPCG(seed, 11))
		servers := 2 + rng.IntN(15)
		parts := servers * (4 + rng.IntN(12))
		s := &model.Snapshot{Version: model.Version, At: time.Hour, Window: 5 * time.Second}
		for i := range servers {
			s.Servers = append(s.Servers, model.Server{ID: fmt.Sprintf("s%d", i), Node: -1, State: model.Up, Limit: model.Resources{CPU: 1}})
		}
		largest, sum := 0.0, 0.0
		for i := range parts {
			a := model.Actor{ID: fmt.Sprintf("p%d", i), Type: "Part", Server: rng.IntN(servers)}
			a.Usage.CPU = 1.4 * rng.Float64() * float64(servers) / float64(parts)
			largest, sum = max(largest, a.Usage.CPU), sum+a.Usage.CPU
			s.Actors = append(s.Actors, a)
		}
		var m model.Memory
		highest := 0.0
		for range 40 {
			highest = 0
			for i := range s.Servers {
				s.Servers[i].Usage.CPU = 0
			}
			for i := range s.Actors {
				on := &s.Servers[s.Actors[i].Server]
				on.Usage.CPU += s.Actors[i].Usage.CPU
				highest = max(highest, on.Usage.CPU)
			}
			next := p.Plan(s, m)
			for _, a := range next.Actions {
				s.Actors[a.Actor].Server = a.To
			}
			m = next.Memory
			s.At += s.Window
		}
		mean := sum / float64(servers)
		overMean, overBound = append(overMean, highest/mean), append(overBound, highest/max(mean, largest))
	}
	b.against("max-over-mean", OverMean, overMean, 1.15, fmt.Sprintf(
		"100 random populations, from a random start; over what is possible at all it is %s, at most %s",
		Digits(overBound.Median()), Digits(overBound.quantile(1))))
	return nil
}

func compile(text []byte, mode epl.Mode) (*ir.Program, error) {
	p, err := epl.Parse("policy", text, mode)
	if err != nil {
		return nil, err
	}
	return ir.Compile(p)
}

func (b *plasmaBench) events(ctx context.Context) error {
	w, err := apps.World("media", 1)
	if err != nil {
		return err
	}
	base, err := baseline.New(baseline.StaticPeak, w, nil)
	if err != nil {
		return err
	}
	var s Series
	for range 7 {
		start := time.Now()
		r, err := sim.Run(ctx, w, base.Planner, sim.Options{Servers: base.Servers})
		if err != nil {
			return err
		}
		s = append(s, float64(r.Events)/time.Since(start).Seconds())
	}
	b.against("sim-events-per-second", PerSecond, s, 200_000, "the world media, on one core")
	return nil
}
