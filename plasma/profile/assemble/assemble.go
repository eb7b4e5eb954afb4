// Package assemble makes what the planner sees of a service from what its nodes have measured.
// It is pure: no clock, no I/O. What was measured comes from hosts, which are the users', and may
// be anything; what comes out is always valid.
package assemble

import (
	"cmp"
	"slices"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Connection is the function that what passes between containers without a host calls.
const Connection = "connection"

// Input is what is known of a service.
type Input struct {
	Service string
	// At and Window are those of the snapshot. Calls are given as if all had been counted for
	// the window, whatever the reports' own; 0 is the longest of the profiles'.
	At, Window time.Duration
	Nodes      []model.Node
	Servers    []Server
	// Profiles are the last of each node, in the order in which they came: of what two of them
	// say of the same server or actor, the later counts.
	Profiles []*api.ProfileResponse
	// Moves are those under way.
	Moves map[placement.Actor]Move
	// Owner, if not nil, is the placement: it says where an actor is that moved while it was
	// measured.
	Owner func(placement.Actor) (placement.Owner, bool)
	// Manifest, if not nil, says how large actors' states are that report none.
	Manifest *manifest.Manifest
}

// Server is a container of the service.
type Server struct {
	ID, Node   string
	State      model.State
	Limit, Max model.Resources
	// Plain is one without a host: it is an actor by itself.
	Plain bool
}

// Move is a move under way, by servers.
type Move struct{ From, To string }

// Snapshot assembles. Actors that nobody reports are not in it; where one is that two servers
// report is told by its move, then by its owner, then by who reported last. A server's actors
// together use no more of the processor than the server. All is in the order of its names.
func Snapshot(in Input) model.Snapshot {
	b := &builder{Input: in}
	b.window()
	b.nodes()
	b.servers()
	b.profiles()
	b.usage()
	b.actors()
	b.references()
	b.calls()
	b.flows()
	b.order()
	return b.snapshot
}

// builder is a snapshot in the making.
type builder struct {
	Input
	snapshot model.Snapshot
	known    []Server         // as in the snapshot
	numbers  map[string]int32 // of servers
	profile  []profile        // by server
	arrived  []int32          // servers with a profile, the last one last
	entries  []*entry         // as the actors in the snapshot
	index    map[placement.Actor]int32
}

// profile is the last of a server.
type profile struct {
	*api.ServerProfile
	seconds float64 // that its report is of; 0 has no counts
}

func (b *builder) window() {
	if b.Window <= 0 {
		for _, p := range b.Profiles {
			b.Window = max(b.Window, time.Duration(p.GetWindow()))
		}
	}
	if b.Window <= 0 {
		b.Window = time.Second
	}
	b.snapshot = model.Snapshot{Version: model.Version, At: b.At, Window: b.Window}
}

func (b *builder) nodes() {
	nodes := slices.Clone(b.Nodes)
	nodes = slices.DeleteFunc(nodes, func(n model.Node) bool { return n.ID == "" })
	slices.SortStableFunc(nodes, func(x, y model.Node) int { return cmp.Compare(x.ID, y.ID) })
	nodes = slices.CompactFunc(nodes, func(x, y model.Node) bool { return x.ID == y.ID })
	nodes = nodes[:min(len(nodes), model.MaxServers)]
	for i := range nodes {
		nodes[i].Capacity = resources(nodes[i].Capacity)
	}
	b.snapshot.Nodes = nodes
}

func (b *builder) servers() {
	all := slices.Clone(b.Servers)
	all = slices.DeleteFunc(all, func(s Server) bool { return s.ID == "" })
	slices.SortStableFunc(all, func(x, y Server) int { return cmp.Compare(x.ID, y.ID) })
	all = slices.CompactFunc(all, func(x, y Server) bool { return x.ID == y.ID })
	b.known = all[:min(len(all), model.MaxServers)]
	b.numbers = make(map[string]int32, len(b.known))
	b.snapshot.Servers = make([]model.Server, len(b.known))
	for i, s := range b.known {
		b.numbers[s.ID] = int32(i)
		node, found := slices.BinarySearchFunc(b.snapshot.Nodes, s.Node, func(n model.Node, id string) int { return cmp.Compare(n.ID, id) })
		if !found {
			node = -1
		}
		switch s.State {
		case model.Up, model.Starting, model.Draining:
		default:
			s.State = model.Down
		}
		b.snapshot.Servers[i] = model.Server{ID: s.ID, Node: node, State: s.State, Limit: resources(s.Limit), Max: resources(s.Max)}
	}
}

// profiles finds the last profile of each server.
func (b *builder) profiles() {
	b.profile = make([]profile, len(b.known))
	for _, response := range b.Profiles {
		for _, p := range response.GetServers() {
			i, ok := b.numbers[p.GetServer()]
			if !ok || p.GetService() != b.Service || !p.GetRunning() {
				continue
			}
			if b.profile[i].ServerProfile != nil {
				b.arrived = slices.DeleteFunc(b.arrived, func(o int32) bool { return o == i })
			}
			b.arrived = append(b.arrived, i)
			b.profile[i] = profile{p, seconds(p.GetReport().GetWindow())}
		}
	}
}

// usage is what containers used. What is not measured, as of one that was read once only, or the
// traffic of one in the host's network, is what its actors say.
func (b *builder) usage() {
	for _, i := range b.arrived {
		p, s := &b.profile[i], &b.snapshot.Servers[i]
		r := p.GetReport()
		s.Usage = resources(model.Resources{CPU: p.GetCpu(), Mem: p.GetMemory(), Net: p.GetNetwork()})
		if s.Usage.CPU == 0 || s.Usage.Net == 0 {
			var sum model.Resources
			for _, a := range r.GetActors() {
				sum = sum.Add(p.used(a))
			}
			sum = resources(sum)
			if s.Usage.CPU == 0 {
				s.Usage.CPU = sum.CPU
			}
			if s.Usage.Net == 0 {
				s.Usage.Net = sum.Net
			}
		}
		s.Latency, s.Queue = latency(r.GetLatency()), amount(r.GetQueue())
		s.Metrics = metrics(r.GetMetrics(), p.GetMetrics())
	}
}

// used is what an actor says that it used.
func (p *profile) used(a *api.ActorReport) model.Resources {
	u := model.Resources{Mem: float64(a.GetMemory())}
	if p.seconds > 0 {
		u.CPU = amount(float64(a.GetCpu()) / 1e9 / p.seconds)
		u.Net = amount((float64(a.GetReceived()) + float64(a.GetSent())) / p.seconds)
	}
	return u
}
