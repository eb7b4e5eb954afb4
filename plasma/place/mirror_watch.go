package place

import (
	"context"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// maxDirty bounds what a slow reader is still to be told: beyond that it gets all.
const maxDirty = 16384

// subscription is a WatchPlacement. dirty is guarded by the mirror's mu.
type subscription struct {
	service string
	wake    chan struct{} // holds one
	dirty   dirty
}

// dirty is what has changed since it was last told.
type dirty struct {
	whole   bool
	table   bool
	actors  map[placement.Actor]struct{}
	servers map[string]struct{}
}

func (d *dirty) empty() bool { return !d.whole && !d.table && len(d.actors)+len(d.servers) == 0 }

func (d *dirty) add(service string, c change) {
	if c.service != service || d.whole {
		return
	}
	d.table = d.table || c.table
	if c.actor != nil {
		if d.actors == nil {
			d.actors = map[placement.Actor]struct{}{}
		}
		d.actors[*c.actor] = struct{}{}
	}
	if c.server != "" {
		if d.servers == nil {
			d.servers = map[string]struct{}{}
		}
		d.servers[c.server] = struct{}{}
	}
	if len(d.actors)+len(d.servers) > maxDirty {
		*d = dirty{whole: true}
	}
}

// Placement gives all of a service's placement.
func (m *Mirror) Placement(service string) *api.Placement {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.placement(service, dirty{whole: true})
}

// WatchPlacement calls tell with a service's placement whole, then with what changes, until ctx or
// the mirror ends or tell fails, and returns why. A slow tell gets several changes at once.
func (m *Mirror) WatchPlacement(ctx context.Context, service string, tell func(*api.Placement) error) error {
	s := &subscription{service: service, wake: make(chan struct{}, 1), dirty: dirty{whole: true}}
	m.mu.Lock()
	m.subscriptions[s] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.subscriptions, s)
	}()
	for {
		m.mu.Lock()
		p, news := m.placement(service, s.dirty), !s.dirty.empty()
		s.dirty = dirty{}
		m.mu.Unlock()
		if news {
			if err := tell(p); err != nil {
				return err
			}
		}
		select {
		case <-s.wake:
		case <-m.done:
			return errEnded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// placement is what has changed, as it is now; mu is held.
func (m *Mirror) placement(service string, d dirty) *api.Placement {
	p := m.of(service)
	noTable := p.table == nil || len(p.table.Servers) == 0
	if d.table && noTable {
		d = dirty{whole: true} // a part can't say that there is no table any more
	}
	out := &api.Placement{Whole: d.whole, Revision: m.revision}
	if (d.whole || d.table) && !noTable {
		out.Shards = p.table.API()
	}
	if d.whole {
		out.Actors = make([]*api.Exception, 0, len(p.actors))
		for a := range p.actors {
			out.Actors = append(out.Actors, p.exception(a))
		}
		for id := range p.servers {
			out.Servers = append(out.Servers, p.server(id))
		}
		return out
	}
	for a := range d.actors {
		out.Actors = append(out.Actors, p.exception(a))
	}
	for id := range d.servers {
		out.Servers = append(out.Servers, p.server(id))
	}
	return out
}

// exception gives where an actor is, for the protocol; without an owner it is one no more.
func (p *part) exception(a placement.Actor) *api.Exception {
	e := &api.Exception{Actor: a.API()}
	if o, ok := p.actors[a]; ok {
		e.Owner = &api.Owner{Server: o.Server, Epoch: o.Epoch}
	}
	return e
}

// server gives where a server is reached, for the protocol; without a node it is none any more.
func (p *part) server(id string) *api.Server {
	v, ok := p.servers[id]
	if !ok {
		return &api.Server{Id: id}
	}
	i := p.instances[id]
	return &api.Server{Id: id, Node: v.Node, Instance: i.Instance, Address: i.Address}
}
