package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// demand is how many servers rules want more, and how many they need at least.
type demand struct {
	more   int
	rule   *ir.Rule
	why    string
	needed int   // 0: no rule says
	by     fired // the rule that says so
	spare  bool  // each rule that balances allows fewer
}

// want asks for servers.
func (d *demand) want(n int, rule *ir.Rule, why string) {
	if n > d.more {
		d.more, d.rule, d.why = n, rule, why
	}
}

// consider says how many servers balancing needs.
func (d *demand) consider(r *run, f fired, l *level, stuck bool) {
	target := l.target()
	if target <= 0 || l.limit <= 0 {
		return
	}
	each := l.limit / float64(len(l.servers))
	need := int(math.Ceil(r.soon(f.behavior.Resource, l.load)/(each*target) - 0.05))
	have := len(l.servers)
	if need > have && l.mean > headroom*l.upper || stuck && l.mean > target {
		d.want(max(1, need-have), f.rule, fmt.Sprintf("the servers use %s of their %s in the mean, the bound is %s",
			percent(l.mean), f.behavior.Resource, percent(l.upper)))
	}
	if d.needed == 0 {
		d.spare = true
	}
	d.spare = d.spare && l.lower > 0 && l.over == 0
	// One that goes must not come back at once.
	if least := max(1, int(math.Ceil(l.load/(each*target)+0.1))); least >= d.needed {
		d.needed, d.by = least, f
	}
}

// scale starts servers, or has some give their actors away, within the limits.
func (r *run) scale() {
	limits := r.program.Limits
	up, starting := 0, 0
	for i := range r.Servers {
		switch s := r.Servers[i].State; {
		case s == model.Starting:
			starting++
		case s == model.Up:
			up++
		}
	}
	if have := up + starting; have < limits.MinServers {
		r.start(limits.MinServers-have, nil, fmt.Sprintf("there are %d of at least %d servers", have, limits.MinServers))
		return
	}
	if limits.MaxServers > 0 && up > limits.MaxServers {
		r.drain(up-limits.MaxServers, fired{}, fmt.Sprintf("there are %d of at most %d servers", up, limits.MaxServers))
		return
	}
	most := r.needed()
	if r.demand.more > 0 {
		r.scaleOut(up, starting)
		return
	}
	if r.demand.needed == 0 || !r.demand.spare || starting > 0 || r.unfired() {
		return
	}
	r.scaleIn(up, most)
}

// needed is how many servers were needed at most within the cooldown of scaling in.
func (r *run) needed() int {
	m := &r.plan.Memory
	for _, s := range r.before.Needed {
		if r.At-s.At < r.program.Limits.Down {
			m.Needed = append(m.Needed, s)
		}
	}
	now := r.demand.needed
	if now == 0 || !r.demand.spare || r.unfired() {
		now = len(r.Servers) // all
	}
	m.Needed = append(m.Needed, model.Sample{At: r.At, Value: float64(now)})
	most := 0
	for _, s := range m.Needed {
		most = max(most, int(s.Value))
	}
	return most
}

// noise is by which part a load has to rise before that is taken for more than chance.
const noise = 0.05

// soon is what a load will be at the next plan, if it goes on to rise as it did since the last.
func (r *run) soon(resource string, load float64) float64 {
	m := &r.plan.Memory
	if m.Loads == nil {
		m.Loads = map[string]float64{}
	}
	m.Loads[resource] = load
	if before, ok := r.before.Loads[resource]; ok && load > (1+noise)*before {
		return load + (load - before)
	}
	return load
}

// unfired tells whether a rule that balances between bounds holds nowhere: its servers are as
// they should be, and must not become fewer.
func (r *run) unfired() bool {
	return slices.ContainsFunc(r.idle, func(rule *ir.Rule) bool {
		return slices.ContainsFunc(rule.Do, func(b *epl.Behavior) bool {
			if b.Verb != epl.Balance {
				return false
			}
			lower, upper := boundsOf(rule, b.Resource)
			return lower > 0 && upper > 0
		})
	})
}

func (r *run) scaleOut(up, starting int) {
	d, limits := &r.demand, r.program.Limits
	tell := func(code, format string, args ...any) { r.explain.say(d.rule, nil, false, code, format, args...) }
	n := d.more - starting
	if n <= 0 {
		tell(codeStarting, "%s, but %s already", d.why, count(starting, "server is starting", "servers are starting"))
		return
	}
	if limits.CooldownSet && (!past(r.before.ScaledOut, r.At, limits.Up) || !past(r.before.ScaledIn, r.At, limits.Up)) {
		tell(codeCooldown, "%s, but the number of servers was changed within the last %s", d.why, limits.Up)
		return
	}
	if limits.MaxServers > 0 {
		if n = min(n, limits.MaxServers-up-starting); n <= 0 {
			tell(codeMax, "%s, but there are %d servers, the most that the limits allow", d.why, limits.MaxServers)
			return
		}
	}
	r.start(n, d.rule, d.why)
}

// start plans new servers, each on the node that has most room.
func (r *run) start(n int, rule *ir.Rule, why string) {
	limit := r.usual()
	from := len(r.plan.Actions)
	for range n {
		node := r.roomiest(limit)
		if node == none {
			break
		}
		r.free[node] = r.free[node].Sub(limit)
		r.count[node]++
		r.act(model.Action{
			Verb: model.ScaleOut, Actor: none, From: none, To: none, Node: node, NodeName: r.Nodes[node].ID,
			Limit: limit, Rule: nameOf(rule), Reason: why,
		})
	}
	started := len(r.plan.Actions) - from
	switch {
	case started == 0:
		r.explain.add(rule, "", false, codeNoNode, why+", but no node has room for another server", nil)
	case started < n:
		r.explain.add(rule, "", true, codeOut, why+": "+count(started, "server starts", "servers start")+"; no node has room for more", r.explain.since(from))
	default:
		r.explain.add(rule, "", true, codeOut, why+": "+count(started, "server starts", "servers start"), r.explain.since(from))
	}
}

// usual is the limit that most servers have, before any was raised.
func (r *run) usual() model.Resources {
	counts := map[model.Resources]int{}
	var best model.Resources
	for i := range r.Servers {
		limit := r.Servers[i].Limit
		if was, ok := r.before.Raised[r.Servers[i].ID]; ok {
			limit = was
		}
		counts[limit]++
		if n := counts[limit]; n > counts[best] || n == counts[best] && limit.CPU > best.CPU {
			best = limit
		}
	}
	return best
}

// roomiest is the node with most of the processor free that has room for a server, or none. Of
// alike ones it is that with the fewest servers; if servers have no limit, all nodes are alike.
func (r *run) roomiest(limit model.Resources) int {
	best := none
	for i := range r.Nodes {
		free := r.free[i]
		c := r.Nodes[i].Capacity
		if r.Nodes[i].Down || c.CPU > 0 && free.CPU < limit.CPU-1e-9 || c.Mem > 0 && free.Mem < limit.Mem || c.Net > 0 && free.Net < limit.Net {
			continue
		}
		switch {
		case best == none,
			limit.CPU > 0 && free.CPU > r.free[best].CPU,
			(limit.CPU == 0 || free.CPU == r.free[best].CPU) && r.count[i] < r.count[best],
			limit.CPU == 0 && r.count[i] == r.count[best] && free.CPU > r.free[best].CPU:
			best = i
		}
	}
	return best
}

func (r *run) scaleIn(up, most int) {
	d, limits := &r.demand, r.program.Limits
	tell := func(code, format string, args ...any) {
		r.explain.say(d.by.rule, d.by.behavior, false, code, format, args...)
	}
	least := max(limits.MinServers, 1)
	if up <= least {
		tell(codeMin, "servers are used little, but there are %d, the fewest that the limits allow", up)
		return
	}
	kept := 0 // reserved servers are not counted as needed
	for _, k := range r.keeper {
		if k != none {
			kept++
		}
	}
	n := up - max(max(d.needed, most)+kept, least)
	now := up - max(d.needed+kept, least)
	if now > 0 && limits.CooldownSet && (n <= 0 || !past(r.plan.Memory.Began, r.At, limits.Down) || !past(r.before.ScaledOut, r.At, limits.Down)) {
		tell(codeCooldown, "%s could go, once that has been so for %s", count(now, "server", "servers"), limits.Down)
		return
	}
	if n <= 0 {
		return
	}
	r.drain(n, d.by, fmt.Sprintf("no more than %d are needed", up-n))
}

// drain takes the servers out of service that are emptied at least cost.
func (r *run) drain(n int, f fired, why string) {
	type victim struct {
		server int32
		cost   float64
	}
	var all []victim
	for i := range r.Servers {
		s := int32(i)
		if r.closed[s] || r.drained[s] || r.keeper[s] != none {
			continue
		}
		cost, free, unsettled := 0.0, true, 0
		for _, a := range r.on(s) {
			if r.Actors[a].Ends && r.pinned[a] == application {
				continue
			}
			code, _ := r.stays(a)
			free = free && code == ""
			if cost += r.weight([]int32{a}); !r.settled(a) {
				unsettled++
			}
		}
		if free && 2*unsettled <= len(r.on(s)) { // else many would move again at once
			all = append(all, victim{s, cost * (1 + r.used(s, "cpu"))})
		}
	}
	slices.SortFunc(all, func(x, y victim) int {
		return cmp.Or(cmp.Compare(x.cost, y.cost), cmp.Compare(r.Servers[y.server].ID, r.Servers[x.server].ID))
	})
	if len(all) == 0 {
		r.explain.add(f.rule, "", false, codeBlocked, why+", but each has actors that must stay, or mostly such as were moved lately", nil)
		return
	}
	from := len(r.plan.Actions)
	for _, v := range all[:min(n, len(all))] {
		r.drained[v.server] = true
		r.act(model.Action{
			Verb: model.Drain, Actor: none, From: none, To: int(v.server), ToName: r.Servers[v.server].ID, Node: none,
			Rule: nameOf(f.rule), Reason: why + ", and it is the one that is emptied at least cost",
		})
	}
	r.explain.add(f.rule, "", true, codeIn, why+": "+count(len(r.plan.Actions)-from, "server goes", "servers go"), r.explain.since(from))
}

// draining stands for the rule by which a server is emptied: the one that wanted fewer may hold
// no more.
var draining = &ir.Rule{Name: "drain"}

// evacuate moves actors away from servers that are draining, and ends those that are empty.
func (r *run) evacuate() {
	for i := range r.Servers {
		s := int32(i)
		if !r.drained[s] {
			continue
		}
		if len(r.hosted[s]) == 0 && r.Servers[s].State == model.Draining {
			at := r.act(model.Action{Verb: model.Stop, Actor: none, From: none, To: i, ToName: r.Servers[s].ID, Node: none, Rule: draining.Name, Reason: "it hosts nobody"})
			r.explain.add(draining, "", true, codeStopped, r.Servers[s].ID+" is empty, and ends", []int{at})
			continue
		}
		r.empty(s)
	}
}

func (r *run) empty(s int32) {
	from, why := len(r.plan.Actions), ""
	for _, u := range r.units(s, nil, "cpu") {
		to, _, reason := r.least(u.members, u.usage, "cpu", r.ceiling, s, false)
		if to == none { // better a full server, or one that they left, than one that never ends
			to, _, _ = r.least(u.members, u.usage, "cpu", 1, s, false)
		}
		if to == none {
			to, _, reason = r.least(u.members, u.usage, "cpu", 1, s, true)
		}
		if to == none {
			why = r.Actors[u.members[0]].ID + " can't go: " + reason
			continue
		}
		if !r.move(u.members, to, fired{rule: draining}, r.Servers[s].ID+" is draining") {
			why = "the limit on moves is reached"
			break
		}
	}
	left := 0
	for _, a := range r.on(s) {
		if code, reason := r.stays(a); code != "" && code != codeMoving {
			why = reason
		}
		left++
	}
	switch {
	case left > 0 && why != "":
		r.explain.add(draining, "", false, codeBlocked, r.Servers[s].ID+" is draining, and "+count(left, "actor is", "actors are")+" still there: "+why, r.explain.since(from))
	case len(r.plan.Actions) > from:
		r.explain.add(draining, "", true, codeDrained, r.Servers[s].ID+" gives its last actors away", r.explain.since(from))
	}
}
