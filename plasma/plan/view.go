package plan

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// none is no server, and no group.
const none = -1

// view is a snapshot with the indices that planning needs, and with what is planned already
// applied: where actors will be, and what that makes of the servers' loads.
type view struct {
	*model.Snapshot
	byType map[string][]int32
	hosted [][]int32         // actors by server; entries whose home changed since are stale
	home   []int32           // server by actor, as planned
	load   []model.Resources // by server, as planned: smoothed
	limit  []model.Resources // by server, as planned
	usage  []model.Resources // by actor: what it would use if nothing waited
	// keeper is whom a server is reserved for: an actor, or none.
	keeper []int32
	closed []bool            // servers that nothing may be put on
	free   []model.Resources // by node
	count  []int             // servers by node, as planned
	calls  *calls            // nil until somebody asks
	back   map[string][][]int32
}

func newView(s *model.Snapshot, m *model.Memory) *view {
	v := &view{
		Snapshot: s, byType: map[string][]int32{}, hosted: make([][]int32, len(s.Servers)),
		home: make([]int32, len(s.Actors)), load: make([]model.Resources, len(s.Servers)),
		limit: make([]model.Resources, len(s.Servers)), usage: make([]model.Resources, len(s.Actors)),
		keeper: make([]int32, len(s.Servers)), closed: make([]bool, len(s.Servers)),
		free: make([]model.Resources, len(s.Nodes)), count: make([]int, len(s.Nodes)),
	}
	counts := make([]int32, len(s.Servers))
	types, last, at := []string{}, "", 0
	perType := map[string]int{}
	number := make([]int, 0, 16)
	kind := make([]int32, len(s.Actors))
	for i := range s.Actors {
		a := &s.Actors[i]
		if a.Type != last || i == 0 {
			last = a.Type
			known, ok := perType[last]
			if !ok {
				known = len(types)
				perType[last] = known
				types, number = append(types, last), append(number, 0)
			}
			at = known
		}
		kind[i] = int32(at)
		number[at]++
		if a.Server >= 0 && a.Server < len(s.Servers) {
			counts[a.Server]++
			v.home[i] = int32(a.Server)
		} else {
			v.home[i] = none
		}
	}
	lists := make([][]int32, len(types))
	for t, n := range number {
		lists[t] = make([]int32, 0, n)
	}
	for i := range v.hosted {
		v.hosted[i] = make([]int32, 0, counts[i]+4)
	}
	waiting := make([]model.Resources, len(s.Servers))
	served := v.served()
	for i := range s.Actors {
		lists[kind[i]] = append(lists[kind[i]], int32(i))
		a := &s.Actors[i]
		v.usage[i] = a.Usage
		if a.Queue > 0 && served != nil {
			// What waits would have been done, too, had there been more of the processor.
			v.usage[i].CPU *= min(3, 1+a.Queue/max(served[i], 1))
		}
		if h := v.home[i]; h != none {
			v.hosted[h] = append(v.hosted[h], int32(i))
			waiting[h].CPU += v.usage[i].CPU - a.Usage.CPU
		}
	}
	for t, name := range types {
		v.byType[name] = lists[t]
	}
	for i := range s.Nodes {
		v.free[i] = s.Nodes[i].Capacity
	}
	for i := range s.Servers {
		one := &s.Servers[i]
		now := one.Usage.Add(waiting[i])
		if before, ok := m.Usage[one.ID]; ok {
			now = smooth(before, now)
		}
		v.load[i], v.limit[i], v.keeper[i] = now, one.Limit, none
		v.closed[i] = one.State != model.Up || one.Node >= 0 && one.Node < len(s.Nodes) && s.Nodes[one.Node].Down
		if one.Node >= 0 && one.Node < len(s.Nodes) && one.State != model.Down {
			v.free[one.Node] = v.free[one.Node].Sub(one.Limit)
			v.count[one.Node]++
		}
	}
	return v
}

// smooth weighs what was and what is alike: measured usage of one window is noisy.
func smooth(before, now model.Resources) model.Resources {
	return model.Resources{
		CPU: (before.CPU + now.CPU) / 2, Mem: (before.Mem + now.Mem) / 2, Net: (before.Net + now.Net) / 2,
	}
}

// served is how many messages each actor got; nil if no message waits anywhere.
func (v *view) served() []float64 {
	if !slices.ContainsFunc(v.Actors, func(a model.Actor) bool { return a.Queue > 0 }) {
		return nil
	}
	n := make([]float64, len(v.Actors))
	for i := range v.Calls {
		if to := v.Calls[i].To; to >= 0 && to < len(n) {
			n[to] += v.Calls[i].Count
		}
	}
	return n
}

// of lists the actors of a type.
func (v *view) of(kind string) []int32 {
	if kind == epl.Any {
		if _, ok := v.byType[epl.Any]; !ok {
			all := make([]int32, len(v.Actors))
			for i := range all {
				all[i] = int32(i)
			}
			v.byType[epl.Any] = all
		}
	}
	return v.byType[kind]
}

func (v *view) is(actor int32, kind string) bool {
	return kind == epl.Any || v.Actors[actor].Type == kind
}

// on lists the actors that will be on a server.
func (v *view) on(server int32) []int32 {
	list := v.hosted[server]
	kept := list[:0]
	for _, a := range list {
		if v.home[a] == server {
			kept = append(kept, a)
		}
	}
	v.hosted[server] = kept
	return kept
}

// place plans an actor at another server.
func (v *view) place(actor, server int32) {
	if from := v.home[actor]; from != none {
		v.load[from] = v.load[from].Sub(v.usage[actor])
	}
	v.home[actor] = server
	v.load[server] = v.load[server].Add(v.usage[actor])
	if !slices.Contains(v.hosted[server], actor) {
		v.hosted[server] = append(v.hosted[server], actor)
	}
}

// used is the share of a server's limit that is used; of what has no limit nothing is.
func (v *view) used(server int32, resource string) float64 {
	limit := v.limit[server].Get(resource)
	if limit <= 0 {
		return 0
	}
	return v.load[server].Get(resource) / limit
}

// full is the share of a server's memory and network that actors may fill.
const full = 0.95

// fits tells whether a server has room for more, of the processor up to a share of its limit.
func (v *view) fits(server int32, more model.Resources, share float64) bool {
	limit, load := v.limit[server], v.load[server].Add(more)
	return (limit.CPU <= 0 || load.CPU <= share*limit.CPU || more.CPU <= 0) &&
		(limit.Mem <= 0 || load.Mem <= full*limit.Mem || more.Mem <= 0) &&
		(limit.Net <= 0 || load.Net <= full*limit.Net || more.Net <= 0)
}

// near tells whether two servers are the same, on one node, or in one zone.
func (v *view) near(a, b int32, level epl.Level) bool {
	if a == b {
		return true
	}
	if a == none || b == none || level == epl.Server {
		return false
	}
	x, y := v.Servers[a].Node, v.Servers[b].Node
	if x == y || level == epl.Node || x < 0 || y < 0 || x >= len(v.Nodes) || y >= len(v.Nodes) {
		return x == y
	}
	return v.Nodes[x].Zone == v.Nodes[y].Zone
}

func (v *view) names(a, b int32) int { return cmp.Compare(v.Actors[a].ID, v.Actors[b].ID) }

// calls are the snapshot's by callee and by caller.
type calls struct {
	in, out edges
	shares  *shares // nil until somebody asks
}

// shares are how many calls servers received.
type shares struct {
	byClients []float64
	byType    map[string][]float64 // by actors of a type
}

func (v *view) callIndex() *calls {
	if v.calls == nil {
		c := &calls{}
		var both sync.WaitGroup // each goes through all calls
		both.Go(func() { c.out = v.edges(func(e *model.Call) int { return e.From }) })
		c.in = v.edges(func(e *model.Call) int { return e.To })
		both.Wait()
		v.calls = c
	}
	return v.calls
}

func (v *view) received() *shares {
	c := v.callIndex()
	if c.shares != nil {
		return c.shares
	}
	c.shares = &shares{byClients: make([]float64, len(v.Servers)), byType: map[string][]float64{}}
	for i := range v.Calls {
		e := &v.Calls[i]
		server := v.Actors[e.To].Server
		if server < 0 {
			continue
		}
		if e.From == model.Client {
			c.shares.byClients[server] += e.Count
			continue
		}
		kind := v.Actors[e.From].Type
		sums := c.shares.byType[kind]
		if sums == nil {
			sums = make([]float64, len(v.Servers))
			c.shares.byType[kind] = sums
		}
		sums[server] += e.Count
	}
	return c.shares
}

// edges are calls by the actor at one of their ends.
type edges struct {
	begin []int32 // by actor, and the end of the last one's
	all   []int32 // indices of calls
}

func (e *edges) of(actor int32) []int32 { return e.all[e.begin[actor]:e.begin[actor+1]] }

func (v *view) edges(end func(*model.Call) int) edges {
	n := len(v.Actors)
	e := edges{make([]int32, n+2), nil}
	for i := range v.Calls {
		if at := end(&v.Calls[i]); at >= 0 {
			e.begin[at+2]++
		}
	}
	for a := range n {
		e.begin[a+2] += e.begin[a+1]
	}
	e.all = make([]int32, e.begin[n+1])
	for i := range v.Calls {
		if at := end(&v.Calls[i]); at >= 0 {
			e.all[e.begin[at+1]] = int32(i)
			e.begin[at+1]++ // in the end it is where the next one's begin
		}
	}
	return e
}

// referrers lists by actor who has references to it in a property.
func (v *view) referrers(property string) [][]int32 {
	if list, ok := v.back[property]; ok {
		return list
	}
	list := make([][]int32, len(v.Actors))
	for i := range v.Actors {
		for _, r := range v.Actors[i].Refs {
			if r.Name == property && r.To >= 0 && r.To < len(list) {
				list[r.To] = append(list[r.To], int32(i))
			}
		}
	}
	if v.back == nil {
		v.back = map[string][][]int32{}
	}
	v.back[property] = list
	return list
}

// past tells whether so much time has gone by since then, if ever.
func past(since *time.Duration, now, wait time.Duration) bool {
	return since == nil || now-*since >= wait
}
