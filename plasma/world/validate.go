package world

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The bounds of a world: what is larger is refused, so that a simulation's memory is bounded.
const (
	maxDuration = 7 * 24 * time.Hour
	maxCost     = time.Hour
	maxPeriods  = 1_000_000
	maxActors   = 1_000_000
	maxRefs     = 10_000_000
	maxArrivals = 10_000_000
	maxServers  = 10_000
	maxNodes    = 10_000
	maxEvents   = 1_000_000
	maxTypes    = 1_000
	maxStreams  = 1_000
	maxCores    = 1e6
	maxBytes    = 1 << 50
	maxRate     = 1e7
	maxName     = 200
	// maxMessages is how many messages a request may cause, in the mean.
	maxMessages = 1e6
	maxProblems = 20
)

// Problem is something that is wrong with a world. Part and Index tell where: "actor" 3 is
// Actors[3]; Index is -1 if Part has none.
type Problem struct {
	Part  string
	Index int
	Text  string
}

// Invalid is what is wrong with a world: the first problems of it, at most 20.
type Invalid []Problem

func (e Invalid) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.Text
	}
	return strings.Join(lines, "\n")
}

// Validate tells what is wrong with a world, as Invalid: nil if it can be simulated. It changes
// nothing.
func (w *World) Validate() error {
	c := checker{w: w}
	c.whole()
	c.nodes()
	c.costs()
	c.types()
	c.actors()
	c.events()
	c.references()
	c.streams()
	if len(c.problems) == 0 {
		c.fanOut() // which relies on all the others
	}
	if len(c.problems) == 0 {
		return nil
	}
	return c.problems
}

type checker struct {
	w        *World
	problems Invalid
	// typeOf is the type of each actor that there is at some time.
	typeOf map[string]string
}

func (c *checker) report(part string, index int, format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, Problem{part, index, fmt.Sprintf(format, args...)})
	}
}

func (c *checker) whole() {
	w := c.w
	if err := checkName(w.Name); err != nil {
		c.report("world", -1, "the world's name: %v", err)
	}
	if w.Seed > math.MaxInt64 {
		c.report("world", -1, "the seed is %d: give one below 2^63, as far as TOML's numbers go", w.Seed)
	}
	if w.Duration <= 0 || w.Duration > maxDuration {
		c.report("world", -1, "the duration is %s: give one up to %s", w.Duration, maxDuration)
	}
	if w.Warmup < 0 || w.Warmup >= max(w.Duration, 1) {
		c.report("world", -1, "the warmup is %s: give one shorter than the duration, %s", w.Warmup, w.Duration)
	}
	if w.Period <= 0 || w.Duration/max(w.Period, 1) > maxPeriods {
		c.report("world", -1, "the period is %s: give one that the duration has at most %d of", w.Period, maxPeriods)
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"servers", w.Servers}, {"peak", w.Peak}, {"mean", w.Mean}} {
		if n.value < 1 || n.value > maxServers {
			c.report("world", -1, "%s is %d: give a number from 1 to %d", n.name, n.value, maxServers)
		}
	}
	s := w.Server
	if !within(s.Cores, maxCores) || s.Cores == 0 {
		c.report("server", -1, "a server has %v cores: give more than 0", s.Cores)
	}
	if !within(s.Max, maxCores) || s.Max != 0 && s.Max < s.Cores {
		c.report("server", -1, "a server's max is %v cores: give 0, or no fewer than its cores, %v", s.Max, s.Cores)
	}
	if !within(s.Memory, maxBytes) || s.Memory == 0 || !within(s.Network, maxBytes) || s.Network == 0 {
		c.report("server", -1, "a server's memory and network must be more than 0 and at most 1 PiB")
	}
}

func (c *checker) nodes() {
	if n := len(c.w.Nodes); n == 0 || n > maxNodes {
		c.report("world", -1, "there are %d nodes: give from 1 to %d", n, maxNodes)
		return
	}
	room := 0.0
	seen := map[string]bool{}
	for i, n := range c.w.Nodes {
		if err := checkName(n.ID); err != nil {
			c.report("node", i, "a node's id: %v", err)
		}
		if seen[n.ID] {
			c.report("node", i, "two nodes are %q", n.ID)
		}
		seen[n.ID] = true
		if n.Zone != "" && checkName(n.Zone) != nil {
			c.report("node", i, "node %s: its zone is no name", n.ID)
		}
		if !within(n.Cores, maxCores) || !within(n.Memory, maxBytes) || !within(n.Network, maxBytes) {
			c.report("node", i, "node %s: its cores, memory and network must be from 0 to %v, 1 PiB and 1 PiB/s", n.ID, maxCores)
		}
		if c.w.Server.Cores > 0 {
			room += math.Floor(n.Cores/c.w.Server.Cores + 1e-9)
		}
	}
	if most := max(c.w.Servers, c.w.Peak, c.w.Mean); room < float64(most) {
		c.report("world", -1, "the nodes have room for %.0f servers of %v cores, and there are to be %d: add nodes", room, c.w.Server.Cores, most)
	}
}

func (c *checker) costs() {
	k := c.w.Costs
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"local_call", k.LocalCall},
		{"node_call", k.NodeCall},
		{"remote_call", k.RemoteCall},
		{"zone_call", k.ZoneCall},
		{"serialize", k.Serialize},
		{"move_pause", k.MovePause},
		{"move_per_mib", k.MovePerMiB},
		{"move_cpu", k.MoveCPU},
		{"start", k.Start},
		{"stop", k.Stop},
		{"resize", k.Resize},
	} {
		if d.value < 0 || d.value > maxCost {
			c.report("costs", -1, "%s is %s: give one from 0 to %s", d.name, d.value, maxCost)
		}
	}
}

// within tells whether a number is from 0 to a bound; NaN isn't.
func within(x, most float64) bool { return x >= 0 && x <= most }

// checkName refuses what can't be written or would spoil a table.
func checkName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("it is empty: give a name")
	case len(s) > maxName:
		return fmt.Errorf("it has %d bytes: give at most %d", len(s), maxName)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable):
		return fmt.Errorf("%q has characters that can't be printed", s)
	}
	return nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
