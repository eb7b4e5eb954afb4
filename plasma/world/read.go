package world

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// MaxText is the size of the longest world that is read, in bytes, without its traces.
const MaxText = 4 << 20

// Read reads a world in TOML and validates it. Errors begin with name:line, and keys that are
// not known are errors. Traces are read from files, which may be nil if the world names none.
// What a world may not say, how many servers it needs at its peak and in the mean, is reckoned
// from its load.
func Read(name string, text []byte, files fs.FS) (*World, error) {
	return read(name, text, files, bounds{maxActors, maxRefs, maxArrivals})
}

// bounds are of what a short text can ask for.
type bounds struct{ actors, refs, arrivals int }

func read(name string, text []byte, files fs.FS, b bounds) (*World, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("%s:1: a world of more than %d MiB is not read: put its arrivals into a trace", name, MaxText>>20)
	}
	r := reader{name: name, files: files, bounds: b}
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(&r.in); err != nil {
		return nil, tomlError(name, err)
	}
	r.places = findPlaces(text)
	if err := r.world(); err != nil {
		return nil, err
	}
	w := &r.out
	reckon := w.Peak == 0 && w.Mean == 0
	if reckon {
		w.Peak, w.Mean = 1, 1
	}
	err := w.Validate()
	if err == nil && reckon {
		w.Size()
		err = w.Validate()
	}
	var invalid Invalid
	if errors.As(err, &invalid) {
		lines := make([]string, len(invalid))
		for i, p := range invalid {
			lines[i] = fmt.Sprintf("%s:%d: %s", name, r.line(p.Part, p.Index), p.Text)
		}
		return nil, errors.New(strings.Join(lines, "\n"))
	}
	return w, nil
}

// tomlError gives the lines of what the TOML reader found.
func tomlError(name string, err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		var lines []string
		for i := range unknown.Errors[:min(len(unknown.Errors), maxProblems)] {
			e := &unknown.Errors[i]
			line, column := e.Position()
			lines = append(lines, fmt.Sprintf("%s:%d:%d: there is no key %q", name, line, column, strings.Join(e.Key(), ".")))
		}
		return errors.New(strings.Join(lines, "\n"))
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		line, column := decode.Position()
		return fmt.Errorf("%s:%d:%d: %s", name, line, column, strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", name, err)
}

// reader makes a world of what was written.
type reader struct {
	name   string
	files  fs.FS
	bounds bounds
	places places
	in     file
	out    World
	// from is the part of each of the world's actors in the file, as a key of places.
	from []string
	refs int
}

// line is where a part of the world was written; 1 if that isn't known.
func (r *reader) line(part string, index int) int {
	key := part
	if index >= 0 {
		key += " " + strconv.Itoa(index)
		if part == "actor" && index < len(r.from) {
			key = r.from[index]
		}
	}
	if line, ok := r.places[key]; ok {
		return line
	}
	// A type's function may be written in its type's table, or in one of its own.
	if typ, _, ok := cutLast(part); ok {
		if line, ok := r.places[typ]; ok {
			return line
		}
	}
	return 1
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func (r *reader) fail(part string, index int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", r.name, r.line(part, index), fmt.Sprintf(format, args...))
}

func (r *reader) world() error {
	in, w := &r.in, &r.out
	*w = World{
		Name: in.Name, Seed: in.Seed, Servers: in.Servers, Peak: in.Peak, Mean: in.Mean,
		Duration: time.Duration(in.Duration), Warmup: time.Duration(in.Warmup), Period: time.Duration(in.Period),
		Server: Server{
			Cores: in.Server.Cores, Max: in.Server.Max,
			Memory: float64(in.Server.Memory), Network: float64(in.Server.Network),
		},
		Costs: Costs{
			LocalCall: time.Duration(in.Costs.LocalCall), NodeCall: time.Duration(in.Costs.NodeCall),
			RemoteCall: time.Duration(in.Costs.RemoteCall), ZoneCall: time.Duration(in.Costs.ZoneCall),
			Serialize: time.Duration(in.Costs.Serialize), MovePause: time.Duration(in.Costs.MovePause),
			MovePerMiB: time.Duration(in.Costs.MovePerMiB), MoveCPU: time.Duration(in.Costs.MoveCPU),
			Start: time.Duration(in.Costs.Start), Stop: time.Duration(in.Costs.Stop),
			Resize: time.Duration(in.Costs.Resize),
		},
		Types: make(map[string]Type, len(in.Types)),
	}
	for _, n := range in.Nodes {
		w.Nodes = append(w.Nodes, Node{n.ID, n.Zone, n.Cores, float64(n.Memory), float64(n.Network)})
	}
	for name, t := range in.Types {
		typ := Type{Functions: make(map[string]Function, len(t.Functions))}
		for f, in := range t.Functions {
			out := Function{Service: Service{time.Duration(in.Service), in.Shape, in.Sigma}, Bytes: float64(in.Bytes)}
			for _, c := range in.Calls {
				out.Calls = append(out.Calls, Call(c))
			}
			typ.Functions[f] = out
		}
		w.Types[name] = typ
	}
	for i, a := range in.Actors {
		w.Actors = append(w.Actors, a.actor())
		r.from = append(r.from, "actor "+strconv.Itoa(i))
	}
	if err := r.populations(); err != nil {
		return err
	}
	if err := r.streams(); err != nil {
		return err
	}
	for _, e := range in.Events {
		event := Event{At: time.Duration(e.At), Dies: e.Dies, Fails: e.Fails, Recover: time.Duration(e.Recover)}
		if e.Born != nil {
			a := e.Born.actor()
			event.Born = &a
		}
		if e.Refs != nil {
			event.Refs = &Refs{e.Refs.ID, e.Refs.Refs}
		}
		w.Events = append(w.Events, event)
	}
	return nil
}

func (a *actorPart) actor() Actor {
	out := Actor{
		ID: a.ID, Type: a.Type, Server: -1, State: float64(a.State), Memory: float64(a.Memory),
		Scale: a.Scale, Refs: a.Refs, Fixed: a.Fixed,
	}
	if a.Server != nil {
		out.Server = *a.Server
	}
	return out
}

func (r *reader) populations() error {
	w := &r.out
	for i, p := range r.in.Populations {
		if p.Count < 1 || p.Count > r.bounds.actors-len(w.Actors) {
			return r.fail("population", i, "a population of %d: give from 1 to %d actors in all", p.Count, r.bounds.actors)
		}
		for k := range p.Count {
			w.Actors = append(w.Actors, Actor{
				ID: p.ID + strconv.Itoa(k), Type: p.Type, Server: -1,
				State: float64(p.State), Memory: float64(p.Memory), Scale: p.Scale, Fixed: p.Fixed,
			})
			r.from = append(r.from, "population "+strconv.Itoa(i))
		}
	}
	byType := map[string][]string{}
	for i := range w.Actors {
		byType[w.Actors[i].Type] = append(byType[w.Actors[i].Type], w.Actors[i].ID)
	}
	first := len(r.in.Actors)
	for i, p := range r.in.Populations {
		for k, rule := range p.Refs {
			if err := r.rule(i, k, first, p.Count, rule, byType[rule.To]); err != nil {
				return err
			}
		}
		first += p.Count
	}
	return nil
}

// rule gives the references of one rule to a population's actors.
func (r *reader) rule(i, k, first, count int, rule refRule, all []string) error {
	if rule.Count < 1 || rule.Count > len(all) {
		return r.fail("population", i, "%d references to %s: give from 1 to as many as there are, %d", rule.Count, rule.To, len(all))
	}
	if r.refs += rule.Count * count; r.refs > r.bounds.refs {
		return r.fail("population", i, "there are more than %d references: give fewer", r.bounds.refs)
	}
	if rule.Pick != "" && rule.Pick != "turn" && rule.Pick != "random" {
		return r.fail("population", i, "references are picked in \"turn\" or at \"random\", not %q", rule.Pick)
	}
	dice := rand.New(rand.NewPCG(r.out.Seed, uint64(i)<<32|uint64(k)))
	next := 0
	for a := first; a < first+count; a++ {
		picked := make([]string, rule.Count)
		if rule.Pick == "random" {
			for n, at := range sample(dice, len(all), rule.Count) {
				picked[n] = all[at]
			}
		} else {
			for n := range picked {
				picked[n] = all[next%len(all)]
				next++
			}
		}
		if r.out.Actors[a].Refs == nil {
			r.out.Actors[a].Refs = map[string][]string{}
		}
		r.out.Actors[a].Refs[rule.Property] = picked
	}
	return nil
}

// sample draws k of n, all different, in time that grows with k alone (Floyd's method).
func sample(dice *rand.Rand, n, k int) []int {
	in := make(map[int]bool, k)
	out := make([]int, 0, k)
	for i := n - k; i < n; i++ {
		v := dice.IntN(i + 1)
		if in[v] {
			v = i
		}
		in[v] = true
		out = append(out, v)
	}
	return out
}

func (r *reader) streams() error {
	total := 0
	for i, s := range r.in.Streams {
		out := Stream{Type: s.Type, Function: s.Function, Rate: s.Rate.points()}
		for _, t := range s.Targets {
			out.Targets = append(out.Targets, Target{t.ID, t.Weight.points()})
		}
		if s.Zipf != nil {
			if len(s.Targets) > 0 || !within(*s.Zipf, 10) {
				return r.fail("stream", i, "zipf is an exponent from 0 to 10, and takes the place of targets")
			}
			for _, a := range r.out.Actors {
				if a.Type == s.Type {
					v := math.Pow(float64(len(out.Targets)+1), -*s.Zipf)
					out.Targets = append(out.Targets, Target{a.ID, []Point{{Value: v}}})
				}
			}
		}
		name, text := r.name, []byte(s.Arrivals)
		if s.Trace != "" {
			if s.Arrivals != "" {
				return r.fail("stream", i, "a stream has a trace or arrivals, not both")
			}
			var err error
			if text, err = r.trace(s.Trace); err != nil {
				return r.fail("stream", i, "the trace %s: %v", s.Trace, err)
			}
			name = s.Trace
		}
		if len(text) > 0 {
			arrivals, err := readTrace(name, text, r.bounds.arrivals-total)
			if err != nil {
				if s.Trace == "" {
					return r.fail("stream", i, "its arrivals: %v", err)
				}
				return err
			}
			total += len(arrivals)
			out.Arrivals = arrivals
		}
		r.out.Streams = append(r.out.Streams, out)
	}
	return nil
}

func (r *reader) trace(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, errors.New("give a path below the world's own folder, without \"..\"")
	}
	if r.files == nil {
		return nil, errors.New("there are no files to read it from")
	}
	f, err := r.files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxTrace+1))
}
