// Package baseline has planners to compare PLASMA's with: what people run today, what the
// original runtime did, and nothing at all. They see the same snapshots and their plans are
// carried out in the same way.
package baseline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// Planner is what a baseline is, and what package plan's is: a pure function.
type Planner interface {
	Plan(*model.Snapshot, model.Memory) model.Plan
}

// Baseline is a planner and how many servers it begins with.
type Baseline struct {
	Name string
	// Doc is one sentence.
	Doc     string
	Servers int
	Planner Planner
}

// The names of the baselines.
const (
	None        = "none"
	StaticPeak  = "static-peak"
	StaticMean  = "static-mean"
	HPA         = "hpa"
	Original    = "original"
	BoundedLoad = "bounded-load"
)

// Names are of all baselines, in the order in which they are shown.
func Names() []string {
	return []string{StaticPeak, StaticMean, None, HPA, Original, BoundedLoad}
}

// New gives a baseline for a world. The policy is for the original's, which takes its bounds and
// pairs from it; nil stands for bounds alone.
func New(name string, w *world.World, policy *ir.Program) (Baseline, error) {
	b := Baseline{Name: name, Servers: w.Servers}
	switch name {
	case None:
		b.Doc = "no rules: the servers and places of the beginning"
		b.Planner = none{}
	case StaticPeak:
		b.Doc = "as many servers as the load's peak needs, actors dealt out evenly"
		b.Servers = max(1, w.Peak)
		b.Planner = Static{Servers: b.Servers}
	case StaticMean:
		b.Doc = "as many servers as the mean load needs, actors dealt out evenly"
		b.Servers = max(1, w.Mean)
		b.Planner = Static{Servers: b.Servers}
	case HPA:
		b.Doc = "the formula of Kubernetes' HorizontalPodAutoscaler on CPU, places by rendezvous hashing"
		b.Planner = DefaultAutoscaler()
	case Original:
		b.Doc = "first fit as in the original runtime: the policy's bounds and pairs, no cooldown, no hysteresis; as it adds no servers, it has as many as the peak needs"
		b.Servers = max(1, w.Peak)
		b.Planner = FirstFit{Bounds: BoundsOf(policy)}
	case BoundedLoad:
		b.Doc = "consistent hashing with bounded loads: no server has more than 1.25 times the mean number of actors; as many servers as the peak needs"
		b.Servers = max(1, w.Peak)
		b.Planner = Ring{Factor: 1.25}
	default:
		return b, fmt.Errorf("there is no baseline %q: there are %s", name, strings.Join(Names(), ", "))
	}
	return b, nil
}

// Is tells whether a baseline has that name.
func Is(name string) bool { return slices.Contains(Names(), name) }

type none struct{}

func (none) Plan(*model.Snapshot, model.Memory) model.Plan { return empty() }

func empty() model.Plan { return model.Plan{Version: model.Version} }

// Static keeps so many servers: it starts one for each that failed.
type Static struct{ Servers int }

// Plan implements Planner.
func (b Static) Plan(s *model.Snapshot, _ model.Memory) model.Plan {
	p := empty()
	room := newRoom(s)
	have := 0
	for i := range s.Servers {
		if serves(&s.Servers[i]) || s.Servers[i].State == model.Starting {
			have++
		}
	}
	for ; have < b.Servers; have++ {
		if !scaleOut(s, &p, room, "static", fmt.Sprintf("there are to be %d servers", b.Servers)) {
			break
		}
	}
	return p
}

func serves(v *model.Server) bool { return v.State == model.Up }

// room is how many cores of each node no server has.
type room []float64

func newRoom(s *model.Snapshot) room {
	free := make(room, len(s.Nodes))
	for i := range s.Nodes {
		free[i] = s.Nodes[i].Capacity.CPU
	}
	for i := range s.Servers {
		if v := &s.Servers[i]; v.Node >= 0 && v.State != model.Down {
			free[v.Node] -= v.Limit.CPU
		}
	}
	return free
}

// scaleOut adds a start of a server like the first, on the node with the most free cores. It
// tells whether any node had as many.
func scaleOut(s *model.Snapshot, p *model.Plan, free room, rule, reason string) bool {
	if len(s.Servers) == 0 {
		return false
	}
	limit := s.Servers[0].Limit
	best := -1
	for i := range free {
		if !s.Nodes[i].Down && free[i]+1e-9 >= limit.CPU && (best < 0 || free[i] > free[best]+1e-9) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	free[best] -= limit.CPU
	p.Actions = append(p.Actions, model.Action{
		Verb: model.ScaleOut, Actor: -1, From: -1, To: -1,
		Node: best, NodeName: s.Nodes[best].ID, Limit: limit, Rule: rule, Reason: reason,
	})
	return true
}

// move adds a move of an actor.
func move(s *model.Snapshot, p *model.Plan, actor, to int, rule, reason string) {
	a := &s.Actors[actor]
	p.Actions = append(p.Actions, model.Action{
		Verb: model.Move, Actor: actor, ActorName: a.ID, Node: -1,
		From: a.Server, FromName: s.Servers[a.Server].ID, To: to, ToName: s.Servers[to].ID,
		Rule: rule, Reason: reason,
	})
}

// server adds an action on a server.
func server(s *model.Snapshot, p *model.Plan, verb model.Verb, to int, rule, reason string) {
	p.Actions = append(p.Actions, model.Action{
		Verb: verb, Actor: -1, From: -1, Node: -1, To: to, ToName: s.Servers[to].ID, Rule: rule, Reason: reason,
	})
}

// movable tells whether an actor can be moved now.
func movable(s *model.Snapshot, i int) bool {
	a := &s.Actors[i]
	return !a.Fixed && !a.Moving && a.Server >= 0 && s.Servers[a.Server].State != model.Down
}
