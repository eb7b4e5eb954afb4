package plan_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/plan"
)

const window = 5 * time.Second

// planner compiles a policy.
func planner(t testing.TB, text string) *plan.Planner {
	t.Helper()
	p, err := epl.Parse("test.epl", []byte(text), epl.Full)
	if err != nil {
		t.Fatal(err)
	}
	program, err := ir.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return plan.New(program)
}

// builder makes snapshots: each server has one core and 1 GiB on a node of its own of four
// cores, two nodes to a zone, unless it is said otherwise.
type builder struct {
	model.Snapshot
}

func newBuilder(servers int) *builder {
	b := &builder{model.Snapshot{Version: model.Version, At: time.Hour, Window: window}}
	for i := range servers {
		b.Nodes = append(b.Nodes, model.Node{
			ID: fmt.Sprintf("n%d", i), Zone: fmt.Sprintf("z%d", i/2), Capacity: model.Resources{CPU: 4, Mem: 4 << 30, Net: 1e9},
		})
		b.Servers = append(b.Servers, model.Server{
			ID: fmt.Sprintf("s%d", i), Node: i, State: model.Up, Limit: model.Resources{CPU: 1, Mem: 1 << 30, Net: 1e8},
		})
	}
	return b
}

// actor adds an actor that uses so much of a core.
func (b *builder) actor(id, kind string, server int, cpu float64) int {
	b.Actors = append(b.Actors, model.Actor{ID: id, Type: kind, Server: server, Usage: model.Resources{CPU: cpu, Mem: 1 << 20}, State: 1 << 16})
	s := &b.Servers[server].Usage
	s.CPU, s.Mem = s.CPU+cpu, s.Mem+1<<20
	return len(b.Actors) - 1
}

func (b *builder) ref(from int, property string, to int) {
	b.Actors[from].Refs = append(b.Actors[from].Refs, model.Ref{Name: property, To: to})
}

func (b *builder) call(from, to int, function string, count float64) {
	b.Calls = append(b.Calls, model.Call{From: from, To: to, Function: function, Count: count, Bytes: 100 * count})
}

// apply makes the next snapshot of what a plan leads to, if usage stays as it is.
func apply(s *model.Snapshot, p *model.Plan) *model.Snapshot {
	n := *s
	n.At += s.Window
	n.Nodes = append([]model.Node(nil), s.Nodes...)
	n.Servers = append([]model.Server(nil), s.Servers...)
	n.Actors = append([]model.Actor(nil), s.Actors...)
	for i := range n.Servers {
		if n.Servers[i].State == model.Starting {
			n.Servers[i].State = model.Up
		}
	}
	for _, a := range p.Actions {
		switch a.Verb {
		case model.Move:
			actor := &n.Actors[a.Actor]
			left := n.Servers[actor.Server].Usage.Sub(actor.Usage)
			n.Servers[actor.Server].Usage = model.Resources{CPU: max(left.CPU, 0), Mem: max(left.Mem, 0), Net: max(left.Net, 0)}
			actor.Server = a.To
			n.Servers[actor.Server].Usage = n.Servers[actor.Server].Usage.Add(actor.Usage)
		case model.ScaleOut:
			n.Servers = append(n.Servers, model.Server{
				ID: fmt.Sprintf("s%d", len(n.Servers)), Node: a.Node, State: model.Starting, Limit: a.Limit,
			})
		case model.Drain:
			n.Servers[a.To].State = model.Draining
		case model.Stop:
			n.Servers[a.To].State = model.Down
		case model.Resize:
			n.Servers[a.To].Limit = a.Limit
		}
	}
	return &n
}

// run plans and applies until nothing is done any more, or for so many periods.
func run(t testing.TB, p *plan.Planner, s *model.Snapshot, periods int) (last *model.Snapshot, plans []model.Plan) {
	t.Helper()
	var m model.Memory
	for range periods {
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		next := p.Plan(s, m)
		plans, m = append(plans, next), next.Memory
		s = apply(s, &next)
	}
	return s, plans
}

// actions are a plan's as text.
func actions(p model.Plan) []string {
	var list []string
	for _, a := range p.Actions {
		text := string(a.Verb)
		switch a.Verb {
		case model.Move:
			text += " " + a.ActorName + " " + a.FromName + " " + a.ToName
		case model.ScaleOut:
			text += " " + a.NodeName
		case model.Reserve, model.Release:
			text += " " + a.ActorName + " " + a.ToName
		default:
			text += " " + a.ToName
		}
		list = append(list, text)
	}
	return list
}
