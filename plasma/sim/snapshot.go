package sim

import (
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// tick ends a window: the planner is asked, and what it says is done.
func (r *run) tick() error {
	s := r.close()
	if next := r.now + int64(r.options.Period); next <= int64(r.options.Duration) {
		r.heap.push(next, evTick, 0, 0)
	}
	if r.options.Progress != nil {
		r.options.Progress(time.Duration(r.now), r.options.Duration)
	}
	if r.now == int64(r.options.Duration) {
		return nil // nothing would come of it
	}
	before := r.memory
	p := r.planner.Plan(s, before)
	r.memory = p.Memory
	r.result.Plans++
	r.decided(&p)
	if r.options.Record != nil {
		if err := r.options.Record(&model.Step{Snapshot: *s, Before: before, Plan: p}); err != nil {
			return err
		}
	}
	if p.Shadow {
		r.result.Shadowed += len(p.Actions)
		return nil
	}
	r.apply(p.Actions)
	return nil
}

// close ends a window: it makes the snapshot and begins the next one.
func (r *run) close() *model.Snapshot {
	for i := range r.actors {
		if a := &r.actors[i]; a.status == running {
			r.account(a)
		}
	}
	length := r.now - r.window.began
	s := &model.Snapshot{
		Version: model.Version, At: time.Duration(r.now), Window: time.Duration(length),
	}
	for i := range r.nodes {
		n := &r.nodes[i]
		s.Nodes = append(s.Nodes, model.Node{
			ID: n.ID, Zone: n.Zone, Down: n.down,
			Capacity: model.Resources{CPU: n.Cores, Mem: n.Memory, Net: n.Network},
		})
	}
	r.snapServers(s)
	r.snapActors(s, seconds(length))
	r.snapCalls(s)
	r.observe(s, length)
	r.window.index++
	r.window.begin(r)
	return s
}

// snapServers adds the servers that there are, and gives their numbers in the snapshot.
func (r *run) snapServers(s *model.Snapshot) {
	w := &r.window
	offsets, values := groups(w.served, len(r.servers), func(x served) int32 { return x.server })
	w.snapped = w.snapped[:0]
	for i := range r.servers {
		v := &r.servers[i]
		v.snap = none
		if v.gone || v.stopping {
			continue
		}
		v.snap = int32(len(s.Servers))
		w.snapped = append(w.snapped, int32(i))
		m := model.Server{
			ID: v.id, Node: int(v.node), State: v.state, Limit: v.limit,
			Latency: latency(values[offsets[i]:offsets[i+1]]),
		}
		if r.world.Server.Max > 0 {
			m.Max = model.Resources{CPU: r.world.Server.Max, Mem: v.limit.Mem, Net: v.limit.Net}
		}
		// A server that came in this window is measured since it came.
		if up := seconds(r.now - max(w.began, v.up)); up > 0 && v.state != model.Starting {
			m.Usage.CPU = v.cpu / 1e9 / up
			m.Usage.Net = v.net / up
		}
		s.Servers = append(s.Servers, m)
	}
}

// snapActors adds the actors that live.
func (r *run) snapActors(s *model.Snapshot, length float64) {
	w := &r.window
	n := len(r.names)
	if w.numbers == nil {
		w.numbers = make([]int32, n)
		w.refsOf = make([][]model.Ref, n)
	}
	w.actors = w.actors[:0]
	for i := range n {
		w.numbers[i] = none
		if r.actors[i].status != unborn {
			w.numbers[i] = int32(len(w.actors))
			w.actors = append(w.actors, int32(i))
		}
	}
	if w.refsAt != w.refs {
		r.snapRefs()
	}
	offsets, values := groups(w.served, n, func(x served) int32 { return x.actor })
	s.Actors = make([]model.Actor, len(w.actors))
	sum := 0.0
	for k, i := range w.actors {
		a := &r.actors[i]
		on := a.server
		if a.target != none {
			on = a.target
		}
		m := &s.Actors[k]
		*m = model.Actor{
			ID: r.names[i], Type: r.types[a.typ].name, Server: int(r.servers[on].snap),
			Usage: model.Resources{CPU: a.cpu / 1e9 / length, Mem: a.memory, Net: a.net / length},
			State: a.state, Queue: float64(a.length), Refs: w.refsOf[i], Fixed: a.fixed,
			Moving:  a.target != none,
			Latency: latency(values[offsets[i]:offsets[i+1]]),
		}
		sum += m.Usage.CPU
		if m.Server >= 0 {
			s.Servers[m.Server].Queue += m.Queue
			s.Servers[m.Server].Usage.Mem += m.Usage.Mem
		}
	}
	w.typical = sum / float64(max(1, len(w.actors)))
}

// snapRefs makes the references anew, as the actors' numbers have changed. Earlier snapshots
// keep theirs.
func (r *run) snapRefs() {
	w := &r.window
	w.refsAt = w.refs
	for _, i := range w.actors {
		a := &r.actors[i]
		var made []model.Ref
		for _, f := range a.refs {
			for _, to := range f.to {
				if w.numbers[to] != none {
					made = append(made, model.Ref{Name: r.properties[f.property], To: int(w.numbers[to])})
				}
			}
		}
		w.refsOf[i] = made
	}
}

// snapCalls adds the calls between those that live.
func (r *run) snapCalls(s *model.Snapshot) {
	w := &r.window
	s.Calls = make([]model.Call, 0, len(w.calls))
	for i := range w.calls {
		c := &w.calls[i]
		m := model.Call{From: model.Client, To: int(w.numbers[c.to]), Function: r.functions[c.fn].name, Count: c.count, Bytes: c.bytes}
		if c.from != none {
			if m.From = int(w.numbers[c.from]); m.From < 0 {
				continue // it has died, and isn't a client
			}
		}
		if m.To >= 0 {
			s.Calls = append(s.Calls, m)
		}
	}
}

// observe adds the window to the result.
func (r *run) observe(s *model.Snapshot, length int64) {
	w := &r.window
	out := Window{
		At: s.At, Length: time.Duration(length), Actors: len(s.Actors),
		Requests: w.requests, Answered: w.answered, Moves: w.moves,
	}
	_, values := groups(w.served, 1, func(x served) int32 {
		if x.client {
			return 0
		}
		return none
	})
	out.Latency = latency(values)
	most, sum, serving := 0.0, 0.0, 0
	for k := range s.Servers {
		m := &s.Servers[k]
		v := &r.servers[w.snapped[k]]
		switch m.State {
		case model.Starting:
			out.Starting++
			continue
		case model.Down:
			continue
		}
		out.Servers++
		load := m.Usage.CPU / m.Limit.CPU
		v.load = load
		up := r.now - max(w.began, v.up)
		if load > r.options.Overload {
			out.Overloaded++
			r.result.OverloadSeconds += seconds(up)
		}
		if m.State == model.Up && up == length {
			most = max(most, load)
			sum += load
			serving++
		}
		out.Loads = append(out.Loads, Load{
			Server: w.snapped[k], CPU: float32(load), Draining: m.State == model.Draining,
			Mem: share(m.Usage.Mem, m.Limit.Mem), Net: share(m.Usage.Net, m.Limit.Net),
		})
	}
	if sum > 0 {
		out.MaxOverMean = most * float64(serving) / sum
	}
	r.result.Windows = append(r.result.Windows, out)
}

func share(used, of float64) float32 {
	if of <= 0 {
		return 0
	}
	return float32(used / of)
}
