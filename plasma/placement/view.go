package placement

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

// Server is where a host is reached.
type Server struct {
	ID       string
	Node     string
	Instance uint64 // the last that is known; 0: none has been there
	Address  string // host:port, empty if it has none
}

// View is the placement as it is known. It may be used by several goroutines at once.
type View struct {
	mu       sync.RWMutex
	revision int64
	table    Table
	actors   map[Actor]Owner
	servers  map[string]Server
	changed  chan struct{} // closed by the next change
}

// NewView begins with nothing known.
func NewView() *View {
	return &View{actors: map[Actor]Owner{}, servers: map[string]Server{}, changed: make(chan struct{})}
}

// Apply takes a placement in. An owner of an older epoch than is known changes nothing. What
// makes no sense is ErrInvalidArgument and changes nothing either.
func (v *View) Apply(p *api.Placement) error {
	table, err := tableOf(p.GetShards())
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.servers
	if p.GetWhole() {
		clear(v.actors)
		v.servers = map[string]Server{}
		v.table = Table{}
	}
	if table != nil {
		v.table = *table
	}
	for _, x := range p.GetActors() {
		a := Of(x.GetActor())
		if x.GetOwner() == nil {
			delete(v.actors, a)
			continue
		}
		v.learn(a, Owner{x.GetOwner().GetServer(), x.GetOwner().GetEpoch()})
	}
	for _, s := range p.GetServers() {
		if s.GetInstance() == 0 && s.GetNode() == "" {
			delete(v.servers, s.GetId())
			continue
		}
		is := Server{s.GetId(), s.GetNode(), s.GetInstance(), s.GetAddress()}
		if is.Instance == 0 {
			// Nobody speaks for it now, as its plasmad is away: it may still be where it was.
			is.Instance, is.Address = before[is.ID].Instance, before[is.ID].Address
		}
		v.servers[is.ID] = is
	}
	v.revision = max(v.revision, p.GetRevision())
	close(v.changed)
	v.changed = make(chan struct{})
	return nil
}

func tableOf(s *api.Shards) (*Table, error) {
	if s == nil {
		return nil, nil
	}
	t := &Table{Servers: s.GetServers()}
	if len(s.GetOwners()) != Shards || len(s.GetEpochs()) != Shards || !slices.IsSorted(t.Servers) {
		return nil, fmt.Errorf("a table of %d shards and %d epochs: want %d: %w", len(s.GetOwners()), len(s.GetEpochs()), Shards, errdefs.ErrInvalidArgument)
	}
	for i, o := range s.GetOwners() {
		if int(o) >= len(t.Servers) {
			return nil, fmt.Errorf("shard %d has owner %d of %d: %w", i, o, len(t.Servers), errdefs.ErrInvalidArgument)
		}
		t.Owners[i] = uint16(o)
	}
	copy(t.Epochs[:], s.GetEpochs())
	return t, nil
}

func (v *View) learn(a Actor, o Owner) {
	if known, ok := v.actors[a]; ok && known.Epoch > o.Epoch {
		return
	}
	v.actors[a] = o
}

// Learn takes in that an actor has moved, as another host says, if that is news.
func (v *View) Learn(a Actor, o Owner) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if known, ok := v.owner(a); !ok || known.Epoch < o.Epoch {
		v.actors[a] = o
	}
}

// Owner gives who has an actor, or would have it; false if nobody is known.
func (v *View) Owner(a Actor) (Owner, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.owner(a)
}

func (v *View) owner(a Actor) (Owner, bool) {
	if o, ok := v.actors[a]; ok {
		return o, true
	}
	return v.table.Owner(a.Shard())
}

// Server gives where a host is reached; false if it is not known.
func (v *View) Server(id string) (Server, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	s, ok := v.servers[id]
	return s, ok
}

// Has tells whether a server has shards, and so may get actors that are new.
func (v *View) Has(server string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.table.Count(server) > 0
}

// Revision is of what was taken in last.
func (v *View) Revision() int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.revision
}

// Changed is closed when more is known than now.
func (v *View) Changed() <-chan struct{} {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.changed
}

// Await waits until something of a revision or later was taken in.
func (v *View) Await(ctx context.Context, revision int64) error {
	for {
		changed := v.Changed()
		if v.Revision() >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the placement of revision %d: %w", revision, ctx.Err())
		}
	}
}
