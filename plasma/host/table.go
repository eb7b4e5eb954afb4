package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// errAgain says to look an actor up again, errFrozen to wait until new actors may be made.
var (
	errAgain  = errors.New("look again")
	errFrozen = fmt.Errorf("new actors are held back: %w", errdefs.ErrUnavailable)
)

const stripes = 64

// stripe is a part of the actors in memory. Its mu is taken before an actor's.
type stripe struct {
	mu     sync.Mutex
	actors map[placement.Actor]*actor

	touchMu sync.Mutex // is taken after an actor's
	touched []*actor
}

func (h *Host) stripe(a placement.Actor) *stripe { return &h.table[a.Shard()%stripes] }

// touch notes that an actor has something to report; its mu is held.
func (h *Host) touch(a *actor) {
	s := h.stripe(a.name)
	s.touchMu.Lock()
	s.touched = append(s.touched, a)
	s.touchMu.Unlock()
}

// find gives an actor that is here, which it makes if it may be here. An *errMoved says where it
// is.
func (h *Host) find(name placement.Actor) (*actor, error) {
	s := h.stripe(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.actors[name]; a != nil {
		return a, nil
	}
	if !h.ready.Load() {
		return nil, fmt.Errorf("the host starts or stops: %w", errdefs.ErrUnavailable)
	}
	owner, ok := h.owners.owner(name)
	if !ok {
		return nil, fmt.Errorf("no server for %s is known: %w", name, errdefs.ErrUnavailable)
	}
	if owner.Server != h.server {
		return nil, &errMoved{owner}
	}
	typ := h.types[name.Type]
	if typ == nil {
		return nil, fmt.Errorf("no type of actors is called %q: %w", name.Type, errdefs.ErrNotFound)
	}
	if h.frozen {
		exists := false
		if typ.Durable != None {
			var err error
			if exists, err = h.store.Exists(name); err != nil {
				return nil, err
			}
		}
		if !exists {
			return nil, errFrozen
		}
	}
	if h.count.Load() >= int64(h.limits.Actors)*8 {
		return nil, fmt.Errorf("%d actors are in memory: %w", h.count.Load(), errdefs.ErrResourceExhausted)
	}
	a := h.newActor(name, typ)
	h.add(s, a)
	return a, nil
}

// add puts an actor in; the stripe's mu is held.
func (h *Host) add(s *stripe, a *actor) {
	s.actors[a.name] = a
	if h.count.Add(1) > int64(h.limits.Actors) {
		select {
		case h.crowded <- struct{}{}:
		default:
		}
	}
}

// remove takes an actor out that is gone; no lock is held.
func (h *Host) remove(a *actor) {
	s := h.stripe(a.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.actors[a.name] == a {
		delete(s.actors, a.name)
		h.count.Add(-1)
	}
}

// put puts a message into an actor's mailbox.
func (h *Host) put(name placement.Actor, m *message) error {
	for {
		a, err := h.find(name)
		if err != nil {
			return err
		}
		if err = a.enqueue(m); !errors.Is(err, errAgain) {
			return err
		}
		h.remove(a)
	}
}

// local gives a message to an actor here and waits for its end. A message of the pool goes back
// to it.
func (h *Host) local(ctx context.Context, name placement.Actor, m *message) result {
	if m.done == nil {
		m.done = make(chan result, 1)
	}
	if err := h.put(name, m); err != nil {
		if !errors.Is(err, errFrozen) {
			return result{err: err}
		}
		if err := h.putThawed(ctx, name, m); err != nil {
			return result{err: err}
		}
	}
	select {
	case r := <-m.done:
		m.free()
		return r
	case <-ctx.Done():
	}
	if m.taken.CompareAndSwap(false, true) {
		return result{err: fmt.Errorf("the message waits too long: %w", errdefs.ErrUnavailable)}
	}
	return result{err: ctx.Err()}
}

// putThawed is put for an actor that is new while such are held back.
func (h *Host) putThawed(ctx context.Context, name placement.Actor, m *message) error {
	for {
		thawed, placed := h.thawed(), h.owners.view.Changed()
		if err := h.put(name, m); !errors.Is(err, errFrozen) {
			return err
		}
		select {
		case <-thawed:
		case <-placed: // others may make it now
		case <-ctx.Done():
			return errFrozen
		}
	}
}

func (h *Host) allows(t *Type, function string) bool {
	return len(t.Functions) == 0 || slices.Contains(t.Functions, function)
}

// each calls f for all actors in memory, without a lock.
func (h *Host) each(f func(*actor)) {
	for i := range h.table {
		s := &h.table[i]
		s.mu.Lock()
		all := make([]*actor, 0, len(s.actors))
		for _, a := range s.actors {
			all = append(all, a)
		}
		s.mu.Unlock()
		for _, a := range all {
			f(a)
		}
	}
}
