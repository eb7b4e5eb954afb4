package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/pipeline"
)

func top() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "the flows with the most packets, and how busy cores are",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "interval", Usage: "measure over this `TIME`", Value: 2 * time.Second},
			&cli.IntFlag{Name: "limit", Usage: "ask for `N` flows", Value: 1000},
			&cli.BoolFlag{Name: "once", Usage: "print one interval, then end"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON, a line for each interval"},
		},
		Action: func(c *cli.Context) error {
			interval := c.Duration("interval")
			if interval < 100*time.Millisecond || c.Int("limit") < 1 || c.NArg() > 0 {
				return fmt.Errorf("want --interval 100ms or more, --limit 1 or more, and no argument: %w", errdefs.ErrInvalidArgument)
			}
			screen := &screen{to: os.Stdout, once: c.Bool("once"), json: c.Bool("json")}
			err := watch(c.Context, interval, screen.once, func(ctx context.Context) (sample, error) {
				return takeSample(ctx, c.Path("root"), c.Int("limit"))
			}, screen.show)
			return noAgent(err)
		},
	}
}

// sample is how things are at one time.
type sample struct {
	at      time.Time
	off     string // why flows aren't counted; "" if they are
	flows   []agent.Flow
	packets uint64 // that the programs decided about, since they were first attached; what was put together is one
	stat    pipeline.Stat
}

func takeSample(ctx context.Context, root string, limit int) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.flows, err = agent.Flows(ctx, root, limit); err != nil {
		return s, err
	}
	report, err := agent.Ask(ctx, root)
	if err != nil {
		return s, err
	}
	s.off = report.Shortcut.Off
	for reason, n := range report.Shortcut.Left {
		if reason != "pairs" { // these are counted by where they went, too
			s.packets += n
		}
	}
	for _, n := range report.Shortcut.Taken {
		s.packets += n
	}
	s.at = time.Now()
	s.stat, err = pipeline.ReadStat()
	return s, err
}

// watch shows what happened in each interval, until ctx is done or, once, after the first.
func watch(ctx context.Context, interval time.Duration, once bool, take func(context.Context) (sample, error), show func(view) error) error {
	before, err := take(ctx)
	if err != nil {
		return err
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		now, err := take(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := show(compare(before, now)); err != nil || once {
			return err
		}
		before = now
	}
}

// view is what happened in an interval.
type view struct {
	Time    time.Time  `json:"time"`          // its end
	Seconds float64    `json:"seconds"`       // its length
	Off     string     `json:"off,omitempty"` // why flows aren't counted; "" if they are
	Flows   []flowRate `json:"flows"`
	Classes []rate     `json:"classes"` // of the flows listed
	Cores   []core     `json:"cores"`
	// Handled is how often in a second the programs decided about a packet, of whatever flow;
	// what was put together of several is one.
	Handled float64 `json:"handledPerSecond"`
	// CPUBound is the time that all CPUs were busy, with whatever, over what was handled, in
	// ns: what a packet costs is less.
	CPUBound float64 `json:"cpuBoundNanoseconds,omitempty"`
}

// flowRate is a flow, and what it sent in the interval.
type flowRate struct {
	agent.Flow
	PacketsPerSecond float64 `json:"packetsPerSecond"`
	BitsPerSecond    float64 `json:"bitsPerSecond"`
}

// rate is what flows of a class sent.
type rate struct {
	Class            string  `json:"class"`
	Flows            int     `json:"flows"`
	PacketsPerSecond float64 `json:"packetsPerSecond"`
	BitsPerSecond    float64 `json:"bitsPerSecond"`
}

// core is how busy a CPU was, in per mille.
type core struct {
	CPU  int    `json:"cpu"`
	Busy uint32 `json:"busyPerMille"`
}

// compare tells what happened between two samples. A flow that is new counts from zero; one
// that began anew does, too.
func compare(before, now sample) view {
	seconds := now.at.Sub(before.at).Seconds()
	v := view{Time: now.at.UTC(), Seconds: seconds, Off: now.off, Flows: []flowRate{}, Classes: []rate{}}
	was := make(map[flowKey]agent.Flow, len(before.flows))
	for _, f := range before.flows {
		was[keyOf(f)] = f
	}
	classes := map[string]rate{}
	for _, f := range now.flows {
		old := was[keyOf(f)]
		if old.Packets > f.Packets {
			old = agent.Flow{}
		}
		if f.Packets == old.Packets {
			continue
		}
		r := flowRate{f, float64(f.Packets-old.Packets) / seconds, float64(f.Bytes-old.Bytes) * 8 / seconds}
		v.Flows = append(v.Flows, r)
		c := classes[f.Class]
		classes[f.Class] = rate{f.Class, c.Flows + 1, c.PacketsPerSecond + r.PacketsPerSecond, c.BitsPerSecond + r.BitsPerSecond}
	}
	slices.SortStableFunc(v.Flows, func(x, y flowRate) int { return cmp.Compare(y.PacketsPerSecond, x.PacketsPerSecond) })
	for _, name := range []string{"high", "normal", "low"} {
		if c, ok := classes[name]; ok {
			v.Classes = append(v.Classes, c)
		}
	}
	meter := pipeline.NewMeter(nil)
	meter.Add(before.stat)
	load := meter.Add(now.stat).Core
	for _, cpu := range slices.Sorted(maps.Keys(load)) {
		v.Cores = append(v.Cores, core{cpu, load[cpu]})
	}
	if now.packets > before.packets {
		packets := now.packets - before.packets
		v.Handled = float64(packets) / seconds
		v.CPUBound = float64(now.stat.Busy(before.stat).Nanoseconds()) / float64(packets)
	}
	return v
}

// flowKey identifies a flow.
type flowKey struct {
	vni                           uint32
	protocol, source, destination string
}

func keyOf(f agent.Flow) flowKey {
	return flowKey{f.VNI, f.Protocol, f.Source.String(), f.Destination.String()}
}

// screen is where views are shown.
type screen struct {
	to         *os.File
	once, json bool
}

func (s *screen) show(v view) error {
	if s.json {
		return json.NewEncoder(s.to).Encode(v)
	}
	flows := len(v.Flows)
	var text strings.Builder
	if size, err := unix.IoctlGetWinsize(int(s.to.Fd()), unix.TIOCGWINSZ); err == nil && !s.once {
		text.WriteString("\x1b[H\x1b[2J")
		flows = max(0, int(size.Row)-len(v.Cores)-len(v.Classes)-8)
	}
	table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	printView(table, v, flows)
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(s.to, text.String())
	return err
}

// printView writes a view with so many flows of it at most.
func printView(w io.Writer, v view, flows int) {
	if v.Off != "" {
		fmt.Fprintf(w, "flows are not counted, the shortcut is off: %s\n", v.Off)
	}
	fmt.Fprintln(w, "SOURCE\tDESTINATION\tPROTOCOL\tDIRECTION\tCLASS\tPATH\tPACKETS/S\tBITS/S")
	for _, f := range v.Flows[:min(flows, len(v.Flows))] {
		path := f.Path
		if f.Reason != "" {
			path += ": " + f.Reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%.0f\t%s\n", f.Source, f.Destination, f.Protocol, f.Direction, f.Class, path, f.PacketsPerSecond, bits(f.BitsPerSecond))
	}
	fmt.Fprintln(w, "\nCLASS\tFLOWS\tPACKETS/S\tBITS/S")
	for _, c := range v.Classes {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%s\n", c.Class, c.Flows, c.PacketsPerSecond, bits(c.BitsPerSecond))
	}
	fmt.Fprintln(w, "\nCORE\tBUSY")
	for _, c := range v.Cores {
		fmt.Fprintf(w, "%d\t%d %%\n", c.CPU, (c.Busy+5)/10)
	}
	if v.CPUBound > 0 {
		fmt.Fprintf(w, "\n%.0f times a second a packet, or what was put together of several, was handled; at most %.0f ns of CPU each, if the node did nothing else\n", v.Handled, v.CPUBound)
	}
}

// bits is a rate with three digits or so.
func bits(rate float64) string {
	for _, unit := range []string{"", " k", " M", " G"} {
		if rate < 1000 || unit == " G" {
			if unit == "" || rate >= 100 {
				return fmt.Sprintf("%.0f%s", rate, unit)
			}
			return fmt.Sprintf("%.1f%s", rate, unit)
		}
		rate /= 1000
	}
	return ""
}
