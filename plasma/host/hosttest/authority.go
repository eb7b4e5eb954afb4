// Package hosttest is a plasmad for tests of hosts: an authority on the placement of one service,
// in memory, which serves the Agent protocol to each server and can be made to fail.
package hosttest

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Service is the name of the service that an authority has.
const Service = "test"

// Authority is who decides which server has which actor. It may be used by several goroutines at
// once.
type Authority struct {
	mu       sync.Mutex
	revision int64
	table    placement.Table
	actors   map[placement.Actor]placement.Owner
	servers  map[string]*server
	durable  map[string]string // of types
	decided  map[string]string // moves: why not, empty if they took place
	changed  chan struct{}
	lease    int64
	history  []Change
	log      []*api.Placement // what has changed since the beginning
}

type server struct {
	placement.Server
}

// Change is an actor's change of hands.
type Change struct {
	Actor placement.Actor
	Owner placement.Owner
	Move  string
}

// New makes an authority in which the servers named share all shards.
func New(servers ...string) *Authority {
	a := &Authority{
		revision: 1, actors: map[placement.Actor]placement.Owner{}, servers: map[string]*server{},
		durable: map[string]string{}, decided: map[string]string{}, changed: make(chan struct{}),
	}
	a.table = a.table.Assign(servers)
	return a
}

// Lease sets the lease that hosts get, in nanoseconds.
func (a *Authority) Lease(length int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lease = length
}

// Assign divides the shards among servers anew.
func (a *Authority) Assign(servers ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.table = a.table.Assign(servers)
	a.bump(&api.Placement{Shards: a.table.API()})
}

// Except gives an actor to a server, as when a server is drained or lost.
func (a *Authority) Except(actor placement.Actor, server string) placement.Owner {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := placement.Owner{Server: server, Epoch: a.owner(actor).Epoch + 1}
	a.actors[actor] = o
	a.bump(exception(actor, o))
	return o
}

// Owner gives who has an actor.
func (a *Authority) Owner(actor placement.Actor) placement.Owner {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.owner(actor)
}

// Server gives what is known of a server.
func (a *Authority) Server(id string) placement.Server {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.servers[id]; s != nil {
		return s.Server
	}
	return placement.Server{}
}

// History gives the moves that took place, in order.
func (a *Authority) History() []Change {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.history)
}

func (a *Authority) owner(actor placement.Actor) placement.Owner {
	if o, ok := a.actors[actor]; ok {
		return o
	}
	o, _ := a.table.Owner(actor.Shard())
	return o
}

// bump makes a change known; mu is held.
func (a *Authority) bump(p *api.Placement) {
	a.revision++
	p.Revision = a.revision
	a.log = append(a.log, p)
	close(a.changed)
	a.changed = make(chan struct{})
}

// register notes a new instance of a server.
func (a *Authority) register(id, node string, certificate, key []byte, req *api.RegisterRequest) *api.RegisterResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	resp := &api.RegisterResponse{Service: Service, Node: node, Certificate: certificate, Key: key, Lease: a.lease}
	if len(req.GetTypes()) == 0 {
		return resp
	}
	s := a.servers[id]
	if s == nil {
		s = &server{}
		a.servers[id] = s
	}
	s.Server = placement.Server{ID: id, Node: node, Instance: s.Instance + 1, Address: req.GetAddress()}
	for _, t := range req.GetTypes() {
		a.durable[t.GetName()] = t.GetDurable()
	}
	a.bump(&api.Placement{Servers: []*api.Server{s.api()}})
	resp.Server, resp.Instance = id, s.Instance
	return resp
}

// commit decides a move: only the owner's present instance may ask, for the epoch that follows,
// and the same move always gets the same answer.
func (a *Authority) commit(from string, instance uint64, m *api.Move) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if why, ok := a.decided[m.GetId()]; ok {
		return why
	}
	why := a.judge(from, instance, m)
	a.decided[m.GetId()] = why
	if why == "" {
		actor := placement.Of(m.GetActor())
		o := placement.Owner{Server: m.GetTo(), Epoch: m.GetEpoch()}
		a.actors[actor] = o
		a.history = append(a.history, Change{actor, o, m.GetId()})
		a.bump(exception(actor, o))
	}
	return why
}

func (a *Authority) judge(from string, instance uint64, m *api.Move) string {
	actor := placement.Of(m.GetActor())
	owner, source, target := a.owner(actor), a.servers[from], a.servers[m.GetTo()]
	switch {
	case source == nil || source.Instance != instance:
		return fmt.Sprintf("%s is not instance %d any more", from, instance)
	case owner.Server != from:
		return fmt.Sprintf("%s has it", owner.Server)
	case owner.Epoch+1 != m.GetEpoch():
		return fmt.Sprintf("epoch %d does not follow %d", m.GetEpoch(), owner.Epoch)
	case target == nil:
		return "the target is not there"
	case a.durable[actor.Type] == "none" && target.Instance != m.GetTarget():
		return fmt.Sprintf("%s is not instance %d any more", m.GetTo(), m.GetTarget())
	}
	return ""
}

// present tells whether an instance is a server's.
func (a *Authority) present(id string, instance uint64) (known, present bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.servers[id]
	return s != nil, s != nil && s.Instance == instance
}

func exception(actor placement.Actor, o placement.Owner) *api.Placement {
	return &api.Placement{Actors: []*api.Exception{{Actor: actor.API(), Owner: &api.Owner{Server: o.Server, Epoch: o.Epoch}}}}
}

func (s *server) api() *api.Server {
	return &api.Server{Id: s.ID, Node: s.Node, Instance: s.Instance, Address: s.Address}
}

// whole gives all there is, and how many changes that includes.
func (a *Authority) whole() (*api.Placement, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &api.Placement{Whole: true, Revision: a.revision, Shards: a.table.API()}
	for actor, o := range a.actors {
		p.Actors = append(p.Actors, exception(actor, o).Actors...)
	}
	for _, id := range slices.Sorted(maps.Keys(a.servers)) {
		p.Servers = append(p.Servers, a.servers[id].api())
	}
	return p, len(a.log)
}

// since gives the changes after the first n, and what is closed when there are more.
func (a *Authority) since(n int) ([]*api.Placement, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.log[n:]), a.changed
}
