package sim

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// maxServers bounds how many servers a run starts in all, so that a planner that has gone wild
// can't use up the memory.
const maxServers = model.MaxServers

// maxTime bounds the times of a world.
const maxTime = 366 * 24 * time.Hour

// prepare makes a run of a world, or says what is wrong with it.
func prepare(w *world.World, p Planner, o Options) (*run, error) {
	r := &run{
		world: w, options: o, planner: p, dice: newDice(),
		ids:      make(map[string]int32, len(w.Actors)),
		typeIDs:  make(map[string]int32, len(w.Types)),
		messages: messages{free: none}, frames: frames{free: none},
		result: newResult(w, o),
	}
	c := w.Costs
	r.costs = costs{
		local: float64(c.LocalCall), node: float64(c.NodeCall), remote: float64(c.RemoteCall),
		zone: float64(c.ZoneCall), serialize: float64(c.Serialize),
		move: float64(c.MovePause), moveMiB: float64(c.MovePerMiB), moveCPU: float64(c.MoveCPU),
	}
	switch {
	case o.Period <= 0:
		return nil, fmt.Errorf("the period is %s: give one that is longer than 0", o.Period)
	case o.Duration <= 0:
		return nil, fmt.Errorf("the duration is %s: give one that is longer than 0", o.Duration)
	case o.Duration/o.Period > 1_000_000:
		return nil, fmt.Errorf("%s in periods of %s is more than a million periods: use a longer period", o.Duration, o.Period)
	case o.Servers <= 0 || o.Servers > maxServers:
		return nil, fmt.Errorf("%d servers: give a number from 1 to %d", o.Servers, maxServers)
	case !(w.Server.Cores > 0) || w.Server.Cores > 1e6:
		return nil, fmt.Errorf("a server has %v cores: give more than 0", w.Server.Cores)
	case len(w.Nodes) == 0:
		return nil, fmt.Errorf("there are no nodes: give at least one")
	}
	for _, d := range []time.Duration{
		c.LocalCall, c.NodeCall, c.RemoteCall, c.ZoneCall, c.Serialize, c.MovePause, c.MovePerMiB,
		c.MoveCPU, c.Start, c.Stop, c.Resize,
	} {
		if d < 0 || d > maxTime {
			return nil, fmt.Errorf("a cost is %s: give one from 0 to %s", d, maxTime)
		}
	}
	if o.Duration > maxTime {
		return nil, fmt.Errorf("the duration is %s: give one up to %s", o.Duration, maxTime)
	}
	for _, n := range w.Nodes {
		r.nodes = append(r.nodes, node{Node: n})
	}
	for _, step := range []func() error{r.prepareTypes, r.prepareActors, r.prepareServers, r.place, r.prepareStreams} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	for i, e := range w.Events {
		r.heap.push(int64(e.At), evWorld, int32(i), 0)
	}
	r.heap.push(int64(o.Period), evTick, 0, 0)
	r.window.begin(r)
	return r, nil
}

func (r *run) prepareTypes() error {
	names := make([]string, 0, len(r.world.Types))
	for name := range r.world.Types {
		names = append(names, name)
	}
	slices.Sort(names)
	functionIDs := map[string]int32{}
	for _, name := range names {
		r.typeIDs[name] = int32(len(r.types))
		r.types = append(r.types, actorType{name: name})
		for f := range r.world.Types[name].Functions {
			functionIDs[f] = 0
		}
	}
	r.functionNames = make([]string, 0, len(functionIDs))
	for f := range functionIDs {
		r.functionNames = append(r.functionNames, f)
	}
	slices.Sort(r.functionNames)
	for i, f := range r.functionNames {
		functionIDs[f] = int32(i)
	}
	for t, name := range names {
		known := r.world.Types[name].Functions
		index := make([]int32, len(r.functionNames))
		for i, f := range r.functionNames {
			index[i] = none
			of, ok := known[f]
			if !ok {
				continue
			}
			made, err := r.function(f, int32(t), of, functionIDs)
			if err != nil {
				return fmt.Errorf("%s.%s: %w", name, f, err)
			}
			index[i] = int32(len(r.functions))
			r.functions = append(r.functions, made)
		}
		r.types[t].functions = index
	}
	return nil
}

func (r *run) function(name string, typ int32, w world.Function, ids map[string]int32) (function, error) {
	f := function{name: name, typ: typ, mean: float64(w.Service.Mean), bytes: w.Bytes}
	switch w.Service.Shape {
	case "", "exponential":
	case "constant":
		f.shape = constant
	case "lognormal":
		f.shape = lognormal
		f.sigma = w.Service.Sigma
		f.mu = math.Log(f.mean) - f.sigma*f.sigma/2
	default:
		return f, fmt.Errorf("no service time has the shape %q: use exponential, constant or lognormal", w.Service.Shape)
	}
	if f.mean < 0 || f.mean > float64(maxTime) || !positive(f.sigma) || !positive(f.bytes) {
		return f, fmt.Errorf("its service time and bytes must not be below zero")
	}
	if f.mean == 0 {
		f.shape = constant
	}
	for _, c := range w.Calls {
		id, ok := ids[c.Function]
		if !ok {
			return f, fmt.Errorf("it calls %s.%s, and no type has a function of that name", c.Property, c.Function)
		}
		p := c.Probability
		if p == 0 {
			p = 1
		}
		if !(p > 0 && p <= 1) {
			return f, fmt.Errorf("it calls %s.%s with probability %v: give one from 0 to 1", c.Property, c.Function, p)
		}
		f.calls = append(f.calls, call{
			property: r.property(c.Property), function: id, all: c.All, wait: c.Wait, probability: p,
		})
	}
	return f, nil
}

// property gives the number of a property's name.
func (r *run) property(name string) int32 {
	i := slices.Index(r.properties, name)
	if i < 0 {
		i = len(r.properties)
		r.properties = append(r.properties, name)
	}
	return int32(i)
}

// prepareActors gives all actors that there are or will be their numbers.
func (r *run) prepareActors() error {
	add := func(w *world.Actor) error {
		t, ok := r.typeIDs[w.Type]
		if !ok {
			return fmt.Errorf("%s is a %s, and there is no such type", w.ID, w.Type)
		}
		if i, ok := r.ids[w.ID]; ok {
			if r.actors[i].typ != t {
				return fmt.Errorf("%s is of two types", w.ID)
			}
			return nil
		}
		i := len(r.actors)
		r.ids[w.ID] = int32(i)
		r.names = append(r.names, w.ID)
		r.actors = append(r.actors, actor{
			typ: t, target: none, head: none, tail: none, current: none,
			rng: generator(r.options.Seed, 1, i),
		})
		return nil
	}
	for i := range r.world.Actors {
		if err := add(&r.world.Actors[i]); err != nil {
			return err
		}
	}
	if len(r.names) != len(r.world.Actors) {
		return fmt.Errorf("two actors have the same name: names are of one actor each")
	}
	for i := range r.world.Events {
		e := &r.world.Events[i]
		if e.Born != nil {
			if err := add(e.Born); err != nil {
				return fmt.Errorf("event at %s: %w", e.At, err)
			}
		}
		if e.At < 0 || e.Recover < 0 || e.At > maxTime || e.Recover > maxTime {
			return fmt.Errorf("event at %s: its times must be from 0 to %s", e.At, maxTime)
		}
	}
	return r.checkReferences()
}

func (r *run) setActor(i int32, w *world.Actor) {
	a := &r.actors[i]
	a.scale = w.Scale
	if a.scale == 0 {
		a.scale = 1
	}
	a.state, a.memory, a.fixed = w.State, w.Memory, w.Fixed
	a.refs = r.references(w.Refs)
}

// references gives an actor's references, by property in the order of their names.
func (r *run) references(of map[string][]string) []refs {
	made := make([]refs, 0, len(of))
	for name, to := range of {
		one := refs{property: r.property(name), to: make([]int32, len(to))}
		for k, id := range to {
			one.to[k] = r.ids[id]
		}
		made = append(made, one)
	}
	sort.Slice(made, func(i, k int) bool {
		return r.properties[made[i].property] < r.properties[made[k].property]
	})
	return made
}

func (r *run) prepareServers() error {
	w := r.world.Server
	limit := model.Resources{CPU: w.Cores, Mem: w.Memory, Net: w.Network}
	for i := range r.options.Servers {
		on := r.freestNode(w.Cores)
		if on == none {
			return fmt.Errorf("the nodes have room for %d servers of %v cores, and there are to be %d", i, w.Cores, r.options.Servers)
		}
		r.newServer(on, limit, 0)
	}
	return nil
}

// place puts the actors on the servers.
func (r *run) place() error {
	dealt := make([]int, len(r.types))
	for t := range dealt {
		dealt[t] = t // so that those that are alone of their type aren't all on the first server
	}
	for i := range r.world.Actors {
		w := &r.world.Actors[i]
		if w.Server >= r.world.Servers {
			return fmt.Errorf("%s is on server %d, and the last one is %d", w.ID, w.Server, r.world.Servers-1)
		}
		if !positive(w.Scale) || !positive(w.State) || !positive(w.Memory) {
			return fmt.Errorf("%s: its scale, state and memory must not be below zero", w.ID)
		}
		k := r.ids[w.ID]
		a := &r.actors[k]
		on := int32(w.Server)
		switch {
		case r.options.Servers != r.world.Servers:
			on = int32(dealt[a.typ] % len(r.servers))
			dealt[a.typ]++
		case on < 0:
			on = r.fewest()
		}
		r.setActor(k, w)
		a.status, a.server, a.before = idle, on, on
		a.place = int32(len(r.types[a.typ].live))
		r.types[a.typ].live = append(r.types[a.typ].live, k)
		r.servers[on].actors++
	}
	return nil
}

// fewest gives the server with the fewest actors.
func (r *run) fewest() int32 {
	best := 0
	for i := range r.servers {
		if r.servers[i].actors < r.servers[best].actors {
			best = i
		}
	}
	return int32(best)
}
