// Package plan decides what to do about a snapshot, by a policy. It is pure: no clock, no
// input or output, and the same snapshot, memory and policy give the same plan. A live system,
// a dry run and the simulator call the same function.
//
// What is asked for first is decided first: what is pinned stays, what has to be separate is
// separated, reserved servers are kept, and then rules follow by priority; what they would do
// against anything before is not done, and the plan says so. A server's limit is raised before
// actors move, and they move before a server is started.
package plan

import (
	"maps"
	"slices"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// Planner makes plans by a policy. It has no state: what has to be known of before is in the
// plan's memory. It may be used by several goroutines at once.
type Planner struct {
	program *ir.Program
}

// New makes a planner of a program.
func New(p *ir.Program) *Planner { return &Planner{p} }

// Program is what the planner plans by.
func (p *Planner) Program() *ir.Program { return p.program }

// Plan decides what to do about a snapshot. The memory is that of the plan before, or its zero
// value; neither is changed. The snapshot is valid: see model.Snapshot.Validate.
func (p *Planner) Plan(s *model.Snapshot, before model.Memory) model.Plan {
	r := newRun(p.program, s, &before)
	r.keep()
	r.match()
	r.pin()
	r.separate()
	r.reserve()
	for _, f := range r.fired {
		switch f.behavior.Verb {
		case epl.Colocate:
			r.colocate(f)
		case epl.Balance:
			r.balance(f)
		}
	}
	r.lower()
	r.scale()
	r.evacuate()
	r.remember()
	return r.plan
}

// run is the making of one plan.
type run struct {
	*view
	program *ir.Program
	before  *model.Memory
	plan    model.Plan
	fired   []fired
	idle    []*ir.Rule // rules that hold nowhere
	pinned  map[int32]string
	apart   map[int32][]bond // whom an actor must not be with
	beside  map[int32][]bond // whom it is to be near, at node or zone
	groups  groups
	budget  budget
	explain explainer
	demand  demand
	drained []bool  // servers that are, or begin, draining
	ceiling float64 // share of a processor up to which actors are put on a server
	moved   []bool  // actors that this plan moves
}

// fired is a behavior of a rule, with where the rule holds.
type fired struct {
	rule     *ir.Rule
	behavior *epl.Behavior
	pairs    []pair
	servers  map[int32]bool
}

// bond is a relation to another actor.
type bond struct {
	other int32
	level epl.Level
	rule  string
}

func newRun(p *ir.Program, s *model.Snapshot, before *model.Memory) *run {
	r := &run{
		view: newView(s, before), program: p, before: before,
		pinned: map[int32]string{}, apart: map[int32][]bond{}, beside: map[int32][]bond{},
		drained: make([]bool, len(s.Servers)), moved: make([]bool, len(s.Actors)),
	}
	r.ceiling = ceiling(p)
	r.groups.of = make([]int32, len(s.Actors))
	for i := range r.groups.of {
		r.groups.of[i] = none
	}
	r.plan = model.Plan{Version: model.Version, Shadow: p.Shadow, Actions: []model.Action{}, Decisions: []model.Decision{}}
	r.explain = explainer{run: r, told: map[*epl.Behavior]int{}}
	r.budget = newBudget(p.Limits, s, before)
	return r
}

// keep takes over what memory has, as far as it still matters.
func (r *run) keep() {
	m := &r.plan.Memory
	if m.Began = r.before.Began; m.Began == nil {
		at := r.At
		m.Began = &at
	}
	m.ScaledOut, m.ScaledIn = r.before.ScaledOut, r.before.ScaledIn
	m.Reserved, m.Raised = maps.Clone(r.before.Reserved), maps.Clone(r.before.Raised)
	m.Usage = make(map[string]model.Resources, len(r.Servers))
	for i := range r.Servers {
		if s := &r.Servers[i]; s.State == model.Up || s.State == model.Draining {
			m.Usage[s.ID] = r.load[i]
			r.drained[i] = s.State == model.Draining
		}
	}
	maps.DeleteFunc(m.Raised, func(id string, _ model.Resources) bool { _, ok := m.Usage[id]; return !ok })
	for i := range r.Actors {
		if r.Actors[i].Fixed {
			r.pinned[int32(i)] = application
		}
	}
}

// application is who pins an actor that is fixed.
const application = "the application"

// match finds where rules hold.
func (r *run) match() {
	h := &history{v: r.view, before: r.before, after: &r.plan.Memory}
	for _, rule := range r.program.Rules {
		m := h.match(rule)
		if m.cut {
			r.explain.say(rule, nil, false, codeTooMany, "its actors are connected by no call and no reference, and each with each are more than %d", maxMatches)
		}
		held := len(m.servers) > 0
		for i, b := range rule.Do {
			if b.Verb == epl.Balance && held || len(m.pairs[i]) > 0 {
				r.fired = append(r.fired, fired{rule, b, m.pairs[i], m.servers})
				held = true
			}
		}
		if !held {
			r.idle = append(r.idle, rule)
			r.explain.idle(rule)
		}
	}
}

// pin keeps actors where they are.
func (r *run) pin() {
	for _, f := range r.fired {
		if f.behavior.Verb != epl.Pin {
			continue
		}
		for _, p := range f.pairs {
			if r.pinned[p.a] == "" || r.pinned[p.a] == application {
				r.pinned[p.a] = f.rule.Name
			}
		}
		r.explain.say(f.rule, f.behavior, true, codePinned, "%s where it is", count(len(f.pairs), "actor stays", "actors stay"))
	}
}

// remember writes down what the next plan has to know.
func (r *run) remember() {
	m := &r.plan.Memory
	m.Moves = map[string]model.Moved{}
	for id, last := range r.before.Moves {
		if r.At-last.At < r.residence() {
			m.Moves[id] = last
		}
	}
	moved := 0
	for i := range r.plan.Actions {
		a := &r.plan.Actions[i]
		switch a.Verb {
		case model.Move:
			moved++
			m.Moves[a.ActorName] = model.Moved{At: r.At, From: a.FromName}
		case model.ScaleOut:
			at := r.At
			m.ScaledOut = &at
		case model.Drain:
			at := r.At
			m.ScaledIn = &at
		}
	}
	m.Budget = r.budget.spent(r.At, moved)
}

// stays tells why an actor must stay where it is; "" if it may move.
func (r *run) stays(a int32) (code, why string) {
	if len(r.pinned) > 0 {
		if by := r.pinned[a]; by != "" {
			return codePinned, r.Actors[a].ID + " is pinned by " + by
		}
	}
	switch {
	case r.Actors[a].Moving:
		return codeMoving, r.Actors[a].ID + " is on its way"
	case r.moved[a]:
		return codeSettled, r.Actors[a].ID + " moves by this plan already"
	case r.home[a] == none || r.Servers[r.home[a]].State == model.Down:
		return codeLost, r.Actors[a].ID + " is on a server that does not answer"
	}
	return "", ""
}

// settled tells whether an actor was moved so long ago that it may move again where nobody
// suffers if it doesn't.
func (r *run) settled(a int32) bool { return r.rested(a, r.residence()) }

// rested tells whether an actor was not moved for a time.
func (r *run) rested(a int32, wait time.Duration) bool {
	if len(r.before.Moves) == 0 {
		return true
	}
	last, ok := r.before.Moves[r.Actors[a].ID]
	return !ok || r.At-last.At >= wait
}

// returns tells whether one of the actors left the server lately.
func (r *run) returns(members []int32, server int32) bool {
	if len(r.before.Moves) == 0 {
		return false
	}
	for _, a := range members {
		if last, ok := r.before.Moves[r.Actors[a].ID]; ok && last.From == r.Servers[server].ID && r.At-last.At < r.residence() {
			return true
		}
	}
	return false
}

// residence is how long an actor stays before balancing moves it again.
func (r *run) residence() time.Duration { return residence * r.Window }

// residence is in windows.
const residence = 12

// may tells whether a server may have the actors, whom nobody but they are with; and if not,
// why.
func (r *run) may(server int32, members []int32) (code, why string) {
	if r.closed[server] || r.drained[server] {
		return codeClosed, r.Servers[server].ID + " takes nobody"
	}
	if k := r.keeper[server]; k != none && !slices.Contains(members, k) {
		return codeReserved, r.Servers[server].ID + " is reserved for " + r.Actors[k].ID
	}
	if len(r.apart)+len(r.beside) == 0 {
		return "", ""
	}
	for _, a := range members {
		for _, b := range r.apart[a] {
			if !slices.Contains(members, b.other) && r.near(server, r.home[b.other], b.level) {
				return codeSeparate, r.Actors[a].ID + " must be separate from " + r.Actors[b.other].ID + " by " + b.rule
			}
		}
		for _, b := range r.beside[a] {
			if !slices.Contains(members, b.other) && !r.near(server, r.home[b.other], b.level) {
				return codeColocated, r.Actors[a].ID + " is to be near " + r.Actors[b.other].ID + " by " + b.rule
			}
		}
	}
	return "", ""
}

// move plans actors to a server, those that are not there, if the budget allows so many.
func (r *run) move(members []int32, to int32, f fired, reason string) bool {
	var moving []int32
	for _, a := range members {
		if r.home[a] != to {
			moving = append(moving, a)
		}
	}
	if !r.budget.take(len(moving)) {
		return false
	}
	for _, a := range moving {
		from := r.home[a]
		r.place(a, to)
		r.moved[a] = true
		r.act(model.Action{
			Verb: model.Move, Actor: int(a), ActorName: r.Actors[a].ID, From: int(from), FromName: r.Servers[from].ID,
			To: int(to), ToName: r.Servers[to].ID, Node: none, Rule: nameOf(f.rule), Reason: reason,
		})
	}
	return true
}

func nameOf(r *ir.Rule) string {
	if r == nil {
		return "limits"
	}
	return r.Name
}

func (r *run) act(a model.Action) int {
	r.plan.Actions = append(r.plan.Actions, a)
	return len(r.plan.Actions) - 1
}

// sum is what actors use together.
func (r *run) sum(members []int32) model.Resources {
	var all model.Resources
	for _, a := range members {
		all = all.Add(r.usage[a])
	}
	return all
}
