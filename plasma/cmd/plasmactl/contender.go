package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/apps"
	"github.com/peregrine-dev/peregrine/plasma/baseline"
	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/plan"
	"github.com/peregrine-dev/peregrine/plasma/sim"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// source is where worlds come from: a file, or what is built in.
type source struct {
	name        string
	builtIn     bool
	file        *world.World
	calibration *sim.Calibration
	duration    time.Duration // 0 is the world's
}

func worldNames() string { return strings.Join(apps.Names(), ", ") }

func baselineNames() string { return strings.Join(baseline.Names(), ", ") }

// worldOf finds a world by its name or file, and reads the calibration if one is given.
func worldOf(c *cli.Context, name string) (*source, error) {
	s := &source{name: name, builtIn: slices.Contains(apps.Names(), name), duration: c.Duration("duration")}
	if s.duration < 0 {
		return nil, fmt.Errorf("the duration is %s: give one that is longer than 0: %w", s.duration, errdefs.ErrInvalidArgument)
	}
	if !s.builtIn {
		text, err := readUpTo(name, world.MaxText)
		if os.IsNotExist(err) {
			return nil, fmt.Errorf("there is no file %s, and no world of that name: there are %s", name, worldNames())
		}
		if err != nil {
			return nil, err
		}
		if s.file, err = world.Read(name, text, os.DirFS(filepath.Dir(name))); err != nil {
			return nil, err
		}
	}
	if file := c.Path("calibration"); file != "" {
		text, err := readUpTo(file, sim.MaxCalibration)
		if err != nil {
			return nil, err
		}
		if s.calibration, err = sim.ReadCalibration(file, text); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// readUpTo reads a file, of a longer one only as much as shows that it is too long.
func readUpTo(file string, size int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, size+1))
}

// draw gives the world of a seed; 0 is the world's own, or 1.
func (s *source) draw(seed uint64) (w *world.World, err error) {
	if s.builtIn {
		w, err = apps.World(s.name, max(seed, 1))
	} else {
		copied := *s.file
		if seed != 0 {
			copied.Seed = seed
		}
		w = &copied
	}
	if err == nil && s.calibration != nil {
		w, err = s.calibration.Apply(w)
	}
	return w, err
}

// notes are what a report says of how the runs were made.
func (s *source) notes(c *cli.Context) []string {
	notes := []string{"Simulated: nothing of this was measured."}
	if s.builtIn {
		if text, err := apps.Summary(s.name); err == nil {
			notes = append(notes, text)
		}
	}
	if file := c.Path("calibration"); file != "" {
		notes = append(notes, "Calibrated by "+file+".")
	}
	return notes
}

// contender is a policy or a baseline by its name.
type contender struct {
	name     string
	text     []byte
	paper    bool
	program  *ir.Program // of a policy; of the original's baseline, whose bounds it has
	baseline bool
	duration time.Duration
}

// contenderOf finds a policy: a file, - for the world's own, or a baseline's name.
func contenderOf(c *cli.Context, from *source, name string) (*contender, error) {
	k := &contender{name: name, duration: from.duration}
	mode, err := language(c)
	if err != nil {
		return nil, err
	}
	k.paper = mode == epl.Paper
	switch {
	case baseline.Is(name):
		k.baseline = true
		if name == baseline.Original && from.builtIn {
			k.program, _, err = builtInPolicy(from.name, mode)
		}
	case name == "-":
		if !from.builtIn {
			return nil, fmt.Errorf("%s brings no policy: give a file instead of -", from.name)
		}
		k.name = "plasma"
		k.program, k.text, err = builtInPolicy(from.name, mode)
	default:
		k.program, k.text, err = compile(c, name)
		k.name = strings.TrimSuffix(filepath.Base(name), ".epl")
	}
	return k, err
}

func builtInPolicy(name string, mode epl.Mode) (*ir.Program, []byte, error) {
	text, err := apps.Policy(name, mode)
	if err != nil {
		return nil, nil, err
	}
	p, err := epl.Parse(name+" (policy)", text, mode)
	if err != nil {
		return nil, nil, err
	}
	program, err := ir.Compile(p)
	return program, text, err
}

// entry is a contender on a world.
type entry struct {
	doc     string
	planner sim.Planner
	options sim.Options
}

// on makes a contender ready for a world.
func (k *contender) on(w *world.World) (entry, error) {
	e := entry{options: sim.Options{Duration: w.Duration}}
	if k.duration > 0 {
		e.options.Duration = k.duration
	}
	if k.baseline {
		b, err := baseline.New(k.name, w, k.program)
		if err != nil {
			return e, err
		}
		e.doc, e.planner, e.options.Servers = b.Doc, b.Planner, b.Servers
		return e, nil
	}
	e.planner = plan.New(k.program)
	e.options.Period = k.program.Limits.Period // 0, if it says nothing, is the world's
	return e, nil
}
