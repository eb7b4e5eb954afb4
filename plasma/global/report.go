package global

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// report tells how everything is.
func (r *reign) report(members []place.Member) {
	s := &status.Cluster{Version: status.Version, At: time.Now(), Cluster: r.Cluster, Nodes: []status.Node{}, Services: []status.Service{}}
	if l, ok := r.Mirror.Leader(); ok {
		s.Leader = l.Node
	}
	heard := r.profiles.heard(time.Time{})
	for _, m := range members {
		s.Nodes = append(s.Nodes, status.Node{
			Name: m.Node, Zone: m.Zone, Address: m.Address, Capacity: m.Capacity, Up: true, Heard: heard[m.Node].at,
		})
	}
	for _, name := range names(r.services) {
		if k := r.services[name]; k.policy != nil {
			s.Services = append(s.Services, k.report())
		}
	}
	s.Nodes = append(s.Nodes, lost(s)...)
	r.tell(s)
}

// lost are the nodes that have servers and are not there.
func lost(s *status.Cluster) (nodes []status.Node) {
	known := map[string]bool{}
	for _, n := range s.Nodes {
		known[n.Name] = true
	}
	for _, v := range s.Services {
		for _, server := range v.Servers {
			if !known[server.Node] {
				known[server.Node] = true
				nodes = append(nodes, status.Node{Name: server.Node})
			}
		}
	}
	return nodes
}

func (k *keeper) report() status.Service {
	k.follow()
	s := status.Service{
		Name: k.name, Version: k.service.Generation, Image: k.spec.Image, Policy: k.service.Policy, Paused: k.service.Paused,
		Shadow: k.policy.planner.Program().Shadow, Total: len(k.shot.Actors),
		Servers: []status.Server{}, Actors: k.busiest(), Moves: []status.Move{}, Recent: slices.Clone(k.recent),
		Planned: k.planned, Took: float64(k.took.Microseconds()) / 1e3, Actions: k.plan.Actions, Decisions: k.plan.Decisions,
	}
	if k.trouble != "" {
		s.Trouble = append(s.Trouble, k.trouble)
	}
	s.Trouble = append(s.Trouble, k.said("no-node", "")...)
	hosted := make([]int, len(k.shot.Servers))
	for i := range k.shot.Actors {
		if on := k.shot.Actors[i].Server; on >= 0 {
			hosted[on]++
		}
	}
	reserved := map[string]string{}
	for actor, kept := range k.plan.Memory.Reserved {
		reserved[kept.Server] = actor
	}
	trouble := map[string]string{}
	for _, h := range k.profiles.heard(time.Now().Add(-fresh * k.Period)) {
		maps.Copy(trouble, h.profile.GetTrouble())
	}
	table, _ := k.Mirror.Table(k.name)
	shards := table.Counts()
	hosts := k.instances()
	for _, v := range k.servers() {
		o := status.Server{
			ID: v.ID, Node: v.Node, State: v.State, Version: v.Generation, Created: v.Created, Limit: v.Limit, Shards: shards[v.ID],
			Reserved: reserved[v.ID], Why: k.blocked[v.ID],
		}
		if i := slices.IndexFunc(k.shot.Servers, func(x model.Server) bool { return x.ID == v.ID }); i >= 0 {
			x := &k.shot.Servers[i]
			o.Usage, o.Queue, o.Latency, o.Actors = x.Usage, x.Queue, x.Latency, hosted[i]
			o.State = x.State
		}
		if stuck := k.said("drain-blocked", v.ID+" is draining"); o.Why == "" && len(stuck) > 0 {
			o.Why = strings.TrimPrefix(stuck[0], v.ID+" ")
		}
		if _, there := hosts[v.ID]; !there && o.Shards > 0 {
			o.Why = "its host does not answer: its actors wait for it"
		}
		if why := trouble[v.ID]; why != "" {
			o.Why = why
		}
		if o.Why != "" {
			s.Trouble = append(s.Trouble, v.ID+": "+o.Why)
		}
		s.Servers = append(s.Servers, o)
	}
	for _, id := range names(k.moves) {
		s.Moves = append(s.Moves, k.moves[id])
	}
	return s
}

// said gives the reasons with a code and a beginning that the last plan has.
func (k *keeper) said(code, begin string) (reasons []string) {
	for i := range k.plan.Decisions {
		if d := &k.plan.Decisions[i]; d.Code == code && strings.HasPrefix(d.Reason, begin) {
			reasons = append(reasons, d.Reason)
		}
	}
	return reasons
}

// busiest are the actors that use most.
func (k *keeper) busiest() []status.Actor {
	order := make([]int, len(k.shot.Actors))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(k.shot.Actors[b].Usage.CPU, k.shot.Actors[a].Usage.CPU)
	})
	all := make([]status.Actor, 0, min(len(order), status.MaxActors))
	for _, i := range order[:min(len(order), status.MaxActors)] {
		a := &k.shot.Actors[i]
		o := status.Actor{ID: a.ID, Type: a.Type, Usage: a.Usage, State: a.State, Queue: a.Queue}
		if a.Server >= 0 {
			o.Server = k.shot.Servers[a.Server].ID
		}
		all = append(all, o)
	}
	return all
}

// follow takes down which moves are under way, and what came of those that are not any more.
func (k *keeper) follow() {
	now := time.Now()
	there := map[string]bool{}
	for _, m := range k.Mirror.Moves(k.name) {
		there[m.ID] = true
		if _, known := k.moves[m.ID]; !known {
			if k.moves == nil {
				k.moves = map[string]status.Move{}
			}
			k.moves[m.ID] = status.Move{ID: m.ID, Actor: m.Actor.String(), From: m.From, To: m.To, Rule: m.Rule, Reason: m.Reason, Began: m.At}
		}
	}
	for _, id := range names(k.moves) {
		if there[id] {
			continue
		}
		m := k.moves[id]
		delete(k.moves, id)
		m.Took = float64(now.Sub(m.Began).Microseconds()) / 1e3
		if actor, ok := actorOf(m.Actor); ok {
			if o, ok := k.Mirror.Owner(k.name, actor); !ok || o.Server != m.To {
				m.Refused = "it stayed where it was"
			}
		}
		k.recent = slices.Insert(k.recent, 0, m)
	}
	k.recent = k.recent[:min(len(k.recent), status.MaxRecent)]
}
