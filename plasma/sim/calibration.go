package sim

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/peregrine-dev/peregrine/plasma/world"
)

// Calibration is what was measured of a real runtime, to be used instead of what a world says:
//
//	[costs]
//	local_call = "2us"     # and node_call, remote_call, zone_call, serialize, move_pause,
//	move_pause = "3ms"     # move_per_mib, move_cpu, start, stop, resize
//
//	[service]              # factors of service times: of a type, or of one of its functions
//	Folder = 1.1
//	"Folder.open" = 1.25   # instead of the type's
type Calibration struct {
	// Costs are those that are given, by their key.
	Costs map[string]time.Duration
	// Service has factors by "Type" or "Type.function".
	Service map[string]float64
}

// MaxCalibration is the size of the longest calibration that is read, in bytes.
const MaxCalibration = 1 << 20

// maxFactor bounds the factors of service times.
const maxFactor = 1e6

// costKeys are where a calibration's costs go.
var costKeys = map[string]func(*world.Costs) *time.Duration{
	"local_call":   func(c *world.Costs) *time.Duration { return &c.LocalCall },
	"node_call":    func(c *world.Costs) *time.Duration { return &c.NodeCall },
	"remote_call":  func(c *world.Costs) *time.Duration { return &c.RemoteCall },
	"zone_call":    func(c *world.Costs) *time.Duration { return &c.ZoneCall },
	"serialize":    func(c *world.Costs) *time.Duration { return &c.Serialize },
	"move_pause":   func(c *world.Costs) *time.Duration { return &c.MovePause },
	"move_per_mib": func(c *world.Costs) *time.Duration { return &c.MovePerMiB },
	"move_cpu":     func(c *world.Costs) *time.Duration { return &c.MoveCPU },
	"start":        func(c *world.Costs) *time.Duration { return &c.Start },
	"stop":         func(c *world.Costs) *time.Duration { return &c.Stop },
	"resize":       func(c *world.Costs) *time.Duration { return &c.Resize },
}

// ReadCalibration reads a calibration in TOML. Errors begin with name:line:column, and keys that
// are not known are errors.
func ReadCalibration(name string, text []byte) (*Calibration, error) {
	if len(text) > MaxCalibration {
		return nil, fmt.Errorf("%s:1:1: a calibration of more than %d MiB is not read", name, MaxCalibration>>20)
	}
	var in struct {
		Costs   map[string]any `toml:"costs"`
		Service map[string]any `toml:"service"`
	}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&in); err != nil {
		return nil, positioned(name, err)
	}
	at := places(text)
	c := &Calibration{Costs: map[string]time.Duration{}, Service: map[string]float64{}}
	for _, key := range slices.Sorted(maps.Keys(in.Costs)) {
		d, err := cost(key, in.Costs[key])
		if err != nil {
			return nil, fmt.Errorf("%s:%s: %w", name, at.of("costs", key), err)
		}
		c.Costs[key] = d
	}
	for _, key := range slices.Sorted(maps.Keys(in.Service)) {
		f, err := factor(in.Service[key])
		if err != nil {
			return nil, fmt.Errorf("%s:%s: %s: %w", name, at.of("service", key), key, err)
		}
		c.Service[key] = f
	}
	return c, nil
}

func cost(key string, value any) (time.Duration, error) {
	if costKeys[key] == nil {
		return 0, fmt.Errorf("there is no cost %q: there are %s", key, strings.Join(slices.Sorted(maps.Keys(costKeys)), ", "))
	}
	text, ok := value.(string)
	d, err := time.ParseDuration(text)
	if !ok || err != nil {
		return 0, fmt.Errorf("%s is no duration: write it as \"250us\", \"3ms\" or \"1.5s\"", key)
	}
	if d < 0 || d > maxTime {
		return 0, fmt.Errorf("%s is no cost: give one from 0 to %s", d, maxTime)
	}
	return d, nil
}

func factor(value any) (float64, error) {
	f := math.NaN()
	switch v := value.(type) {
	case float64:
		f = v
	case int64:
		f = float64(v)
	}
	if !(f > 0 && f <= maxFactor) {
		return 0, fmt.Errorf("%.40s is no factor: give a number above 0, up to %v", fmt.Sprint(value), maxFactor)
	}
	return f, nil
}

// positioned gives the places of what the TOML reader found.
func positioned(name string, err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		e := &unknown.Errors[0]
		line, column := e.Position()
		return fmt.Errorf("%s:%d:%d: there is no key %q: a calibration has the tables costs and service", name, line, column, strings.Join(e.Key(), "."))
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		line, column := decode.Position()
		return fmt.Errorf("%s:%d:%d: %s", name, line, column, strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return fmt.Errorf("%s:1:1: %w", name, err)
}

// keyPlaces are where keys are written, as line:column, by their parts with a zero byte between.
type keyPlaces map[string]string

// of gives where a key is written. A key in an inline table is where the table is.
func (at keyPlaces) of(table, key string) string {
	for _, k := range []string{table + "\x00" + key, table} {
		if p, ok := at[k]; ok {
			return p
		}
	}
	return "1:1"
}

func places(text []byte) keyPlaces {
	at := make(keyPlaces)
	var p unstable.Parser
	p.Reset(text)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.KeyValue && e.Kind != unstable.Table {
			continue
		}
		var path []string
		if e.Kind == unstable.KeyValue {
			path = slices.Clone(table)
		}
		var last *unstable.Node
		for k := e.Key(); k.Next(); {
			last = k.Node()
			path = append(path, string(last.Data))
		}
		if e.Kind == unstable.Table {
			table = path
		}
		if last != nil {
			start := p.Shape(last.Raw).Start
			at[strings.Join(path, "\x00")] = fmt.Sprintf("%d:%d", start.Line, start.Column)
		}
	}
	return at
}

// Apply gives a copy of a world with a calibration's costs and factors. Types and functions that
// the world hasn't are errors: they would be mistakes that nobody sees.
func (c *Calibration) Apply(w *world.World) (*world.World, error) {
	out := *w
	for key, d := range c.Costs {
		if of := costKeys[key]; of != nil {
			*of(&out.Costs) = d
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.Service)) {
		typ, function, one := strings.Cut(key, ".")
		t, ok := w.Types[typ]
		if _, has := t.Functions[function]; !ok || one && !has {
			return nil, fmt.Errorf("the calibration has a factor for %s, and the world %s has no such type or function", key, w.Name)
		}
	}
	out.Types = make(map[string]world.Type, len(w.Types))
	for typ, t := range w.Types {
		functions := make(map[string]world.Function, len(t.Functions))
		for name, f := range t.Functions {
			factor, ok := c.Service[typ+"."+name]
			if !ok {
				factor, ok = c.Service[typ]
			}
			if ok {
				f.Service.Mean = time.Duration(min(float64(f.Service.Mean)*factor, float64(maxTime)))
			}
			functions[name] = f
		}
		t.Functions = functions
		out.Types[typ] = t
	}
	return &out, nil
}
