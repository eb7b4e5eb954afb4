package baseline

import (
	"fmt"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// FirstFit plans as the original runtime did: from a server above a bound, the first actor in
// order goes to the first server where it fits, one from each such server in a period; pairs are
// put together at once. There is no cooldown, no hysteresis, and no memory of earlier plans; no
// server is added or removed.
type FirstFit struct {
	Bounds Bounds
}

// firstFit is a plan being made.
type firstFit struct {
	s     *model.Snapshot
	p     model.Plan
	was   []float64 // load of servers, as shares of their cores
	load  []float64 // and with the moves of this plan
	moved []bool    // actors
	gave  []bool    // servers
	at    []int     // where actors are by now
}

// Plan implements Planner.
func (b FirstFit) Plan(s *model.Snapshot, _ model.Memory) model.Plan {
	f := &firstFit{
		s: s, p: empty(), load: make([]float64, len(s.Servers)),
		moved: make([]bool, len(s.Actors)), gave: make([]bool, len(s.Servers)), at: make([]int, len(s.Actors)),
	}
	for i := range s.Servers {
		f.load[i] = s.Servers[i].Usage.CPU / s.Servers[i].Limit.CPU
	}
	f.was = slices.Clone(f.load)
	for i := range s.Actors {
		f.at[i] = s.Actors[i].Server
	}
	for i := range b.Bounds.Rules {
		switch r := &b.Bounds.Rules[i]; r.Verb {
		case epl.Balance:
			f.balance(r)
		case epl.Reserve:
			f.reserve(r)
		case epl.Colocate:
			f.colocate(r)
		}
	}
	return f.p
}

func (f *firstFit) share(actor, of int) float64 {
	return f.s.Actors[actor].Usage.CPU / f.s.Servers[of].Limit.CPU
}

func (f *firstFit) move(actor, to int, r *Rule, reason string) {
	from := f.at[actor]
	f.load[from] -= f.share(actor, from)
	f.load[to] += f.share(actor, to)
	f.moved[actor] = true
	f.at[actor] = to
	move(f.s, &f.p, actor, to, r.Name, reason)
}

// free tells whether an actor of a type may be moved by this plan.
func (f *firstFit) free(i int, types ...string) bool {
	return !f.moved[i] && movable(f.s, i) && serves(&f.s.Servers[f.at[i]]) && isOf(f.s.Actors[i].Type, types)
}

func isOf(typ string, types []string) bool {
	for _, t := range types {
		if t == typ || t == epl.Any {
			return true
		}
	}
	return false
}

func (f *firstFit) balance(r *Rule) {
	for from := range f.s.Servers {
		if f.gave[from] || !serves(&f.s.Servers[from]) || f.load[from] <= r.Upper {
			continue
		}
		f.give(from, r)
	}
	if r.Lower <= 0 {
		return
	}
	middle := (r.Lower + r.Upper) / 2
	for to := range f.s.Servers {
		if !serves(&f.s.Servers[to]) || f.load[to] >= r.Lower {
			continue
		}
		f.take(to, middle, r)
	}
}

// give moves the first actor of a server that fits on another.
func (f *firstFit) give(from int, r *Rule) {
	for i := range f.s.Actors {
		if f.at[i] != from || f.s.Actors[i].Usage.CPU == 0 || !f.free(i, r.Types...) {
			continue
		}
		for to := range f.s.Servers {
			if to != from && serves(&f.s.Servers[to]) && f.load[to]+f.share(i, to) <= r.Upper {
				f.gave[from] = true
				f.move(i, to, r, fmt.Sprintf("%s is at %.0f %%, above %.0f %%", f.s.Servers[from].ID, 100*f.load[from], 100*r.Upper))
				return
			}
		}
	}
}

// take moves the first actor that fits from the first server above the middle to one below the
// lower bound.
func (f *firstFit) take(to int, middle float64, r *Rule) {
	for i := range f.s.Actors {
		from := f.at[i]
		if from < 0 || from == to || f.gave[from] || f.s.Actors[i].Usage.CPU == 0 || !f.free(i, r.Types...) {
			continue
		}
		if f.load[from] > middle && f.load[to]+f.share(i, to) <= r.Upper {
			f.gave[from] = true
			f.move(i, to, r, fmt.Sprintf("%s is at %.0f %%, below %.0f %%", f.s.Servers[to].ID, 100*f.load[to], 100*r.Lower))
			return
		}
	}
}

// reserve moves an actor that has most of a loaded server's calls to the least loaded server.
func (f *firstFit) reserve(r *Rule) {
	all := make([]float64, len(f.s.Servers))
	own := make([]float64, len(f.s.Actors))
	for _, c := range f.s.Calls {
		if at := f.s.Actors[c.To].Server; c.From == model.Client && at >= 0 {
			all[at] += c.Count
			if c.Function == r.Function {
				own[c.To] += c.Count
			}
		}
	}
	for i := range f.s.Actors {
		from := f.at[i]
		if from < 0 || f.gave[from] || !f.free(i, r.Types[0]) || f.load[from] <= r.Upper {
			continue
		}
		if r.Function != "" && own[i] <= r.Calls*all[from] {
			continue
		}
		best := -1
		for to := range f.s.Servers {
			if to != from && serves(&f.s.Servers[to]) && (best < 0 || f.load[to] < f.load[best]) {
				best = to
			}
		}
		if best >= 0 && f.load[best] < f.load[from] {
			f.gave[from] = true
			f.move(i, best, r, fmt.Sprintf("%s is at %.0f %%, above %.0f %%", f.s.Servers[from].ID, 100*f.load[from], 100*r.Upper))
		}
	}
}

// colocate puts the second of each pair where the first is.
func (f *firstFit) colocate(r *Rule) {
	first, second := r.Types[0], r.Types[1]
	if r.Function != "" {
		for _, c := range f.s.Calls {
			if c.From == model.Client || c.Function != r.Function || c.Count < r.Calls {
				continue
			}
			if r.Reverse {
				f.together(c.To, c.From, first, second, r)
			} else {
				f.together(c.From, c.To, first, second, r)
			}
		}
		return
	}
	for i := range f.s.Actors {
		for _, ref := range f.s.Actors[i].Refs {
			if ref.Name != r.Property {
				continue
			}
			if r.Reverse {
				f.together(ref.To, i, first, second, r)
			} else {
				f.together(i, ref.To, first, second, r)
			}
		}
	}
}

func (f *firstFit) together(a, b int, first, second string, r *Rule) {
	s := f.s
	if !isOf(s.Actors[a].Type, []string{first}) || f.at[a] < 0 || f.at[a] == f.at[b] || f.at[b] < 0 {
		return
	}
	if !serves(&s.Servers[f.at[a]]) || !f.free(b, second) {
		return
	}
	if at := s.Actors[a].Server; r.Upper < 1 && f.was[at] <= r.Upper {
		return
	}
	f.move(b, f.at[a], r, s.Actors[a].ID+" is there")
}
