package place

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// empty is what is known of a service that isn't there.
var empty = &part{}

// of gives a service's part; mu is held.
func (m *Mirror) of(service string) *part {
	if p := m.world.services[service]; p != nil {
		return p
	}
	return empty
}

// Members gives the nodes, by name.
func (m *Mirror) Members() []Member {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.SortedFunc(maps.Values(m.world.members), func(a, b Member) int { return strings.Compare(a.Node, b.Node) })
}

// Leader gives the global manager's node; false if there is none.
func (m *Mirror) Leader() (Member, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var first *candidate
	for _, c := range m.world.leaders {
		if first == nil || c.created < first.created {
			first = &c
		}
	}
	if first == nil {
		return Member{}, false
	}
	v, ok := m.world.members[first.node]
	return v, ok
}

// Services gives all services, by name.
func (m *Mirror) Services() []Service {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []Service
	for _, p := range m.world.services {
		if p.service != nil {
			all = append(all, p.service.clone())
		}
	}
	slices.SortFunc(all, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Service gives one.
func (m *Mirror) Service(name string) (Service, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if v := m.of(name).service; v != nil {
		return v.clone(), true
	}
	return Service{}, false
}

func (v Service) clone() Service {
	v.Certificate, v.Key = slices.Clone(v.Certificate), slices.Clone(v.Key)
	return v
}

// Servers gives a service's servers, by identity.
func (m *Mirror) Servers(service string) []Server {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.SortedFunc(maps.Values(m.of(service).servers), func(a, b Server) int { return strings.Compare(a.ID, b.ID) })
}

// Instances gives a service's hosts that have registered, by server.
func (m *Mirror) Instances(service string) []Instance {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.SortedFunc(maps.Values(m.of(service).instances), func(a, b Instance) int { return strings.Compare(a.Server, b.Server) })
}

// Moves gives a service's moves that are under way, the oldest first.
func (m *Mirror) Moves(service string) []Move {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.SortedFunc(maps.Values(m.of(service).moves), func(a, b Move) int {
		return cmp.Or(a.At.Compare(b.At), strings.Compare(a.ID, b.ID))
	})
}

// Table gives a service's table and its revision, 0 if there is none.
func (m *Mirror) Table(service string) (placement.Table, int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	p := m.of(service)
	if p.table == nil {
		return placement.Table{}, 0
	}
	t := *p.table
	t.Servers = slices.Clone(t.Servers)
	return t, p.tableAt
}

// Exceptions gives the actors that are not where their shards are, in no order.
func (m *Mirror) Exceptions(service string) iter.Seq2[placement.Actor, placement.Owner] {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.All(maps.Clone(m.of(service).actors))
}

// ExceptionCount is how many those are.
func (m *Mirror) ExceptionCount(service string) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.of(service).actors)
}

// Owner gives who has an actor, or would have it; false if nobody is known.
func (m *Mirror) Owner(service string, a placement.Actor) (placement.Owner, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	p := m.of(service)
	if o, ok := p.actors[a]; ok {
		return o, true
	}
	if p.table == nil {
		return placement.Owner{}, false
	}
	return p.table.Owner(a.Shard())
}
