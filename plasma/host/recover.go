package host

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/failpoint"
	"github.com/peregrine-dev/peregrine/plasma/host/lane"
	"github.com/peregrine-dev/peregrine/plasma/host/store"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// recover brings what is stored in line with the placement, and begins to serve.
func (h *Host) recover() error {
	failpoint.Hit(failpoint.Recover)
	if h.store != nil {
		if err := h.recoverPending(); err != nil {
			return err
		}
		failpoint.Hit(failpoint.RecoverPending)
		all, err := h.store.All()
		if err != nil {
			return err
		}
		if err := h.dropElsewhere(all); err != nil {
			return err
		}
		h.ready.Store(true)
		for _, s := range all {
			if err := h.wakeStored(s); err != nil {
				return err
			}
		}
	}
	h.ready.Store(true)
	failpoint.Hit(failpoint.RecoverDone)
	return nil
}

// recoverPending resolves the moves to here that were under way when the process died: what the
// placement doesn't know of yet goes on being held.
func (h *Host) recoverPending() error {
	all, err := h.store.Pending()
	if err != nil {
		return err
	}
	for _, r := range all {
		name := placement.Of(r.GetActor())
		typ := h.types[name.Type]
		if typ == nil {
			return fmt.Errorf("%s has come by a move and its type is gone: %w", name, errdefs.ErrFailedPrecondition)
		}
		switch h.fate(name, r.GetEpoch()) {
		case fateOurs:
			err = h.store.Do(func(tx *store.Tx) error { return tx.Adopt(r, time.Now()) })
		case fateNot:
			err = h.store.Do(func(tx *store.Tx) error { return tx.DropPending(name) })
		case fateOpen:
			a := h.newActor(name, typ)
			a.phase, a.incoming = arriving, &incoming{since: time.Now(), move: r.GetMove(), epoch: r.GetEpoch(), request: r}
			h.arriving.Add(1)
			s := h.stripe(name)
			s.mu.Lock()
			h.add(s, a)
			s.mu.Unlock()
		}
		if err != nil {
			return fmt.Errorf("%s, which has come by a move: %w", name, err)
		}
	}
	return nil
}

// dropElsewhere deletes stored actors that others have, and what is left of ended ones.
func (h *Host) dropElsewhere(all []store.Stored) error {
	var drop []placement.Actor
	for _, s := range all {
		if h.useless(s) {
			drop = append(drop, s.Actor)
		}
	}
	if len(drop) == 0 {
		return nil
	}
	return h.drop(drop)
}

// drop deletes stored actors, but for those that have come back or begun anew since they were
// found to be useless.
func (h *Host) drop(all []placement.Actor) error {
	return h.store.Do(func(tx *store.Tx) error {
		for _, a := range all {
			if s, ok, err := tx.Stored(a); err != nil {
				return err
			} else if !ok || !h.useless(s) {
				continue
			}
			if err := tx.Drop(a); err != nil {
				return err
			}
		}
		return nil
	})
}

// useless tells whether a stored actor is another's, or has ended so long ago that nobody asks for
// its answers any more.
func (h *Host) useless(s store.Stored) bool {
	owner, ok := h.owners.owner(s.Actor)
	old := !s.Ended.IsZero() && time.Since(s.Ended) > lane.Keep && !s.Sends
	return ok && owner.Server != h.server || old
}

// wakeStored has a stored actor go on: with what it has sent, and with its timers.
func (h *Host) wakeStored(s store.Stored) error {
	owner, ok := h.owners.owner(s.Actor)
	if !ok || owner.Server != h.server || (!s.Sends && !s.Timers) {
		return nil
	}
	if h.types[s.Actor.Type] == nil {
		log.G(h.ctx).WithField("actor", s.Actor.String()).Error("the type of a stored actor is gone; it waits")
		return nil
	}
	if !s.Sends {
		r, _, err := h.store.Load(s.Actor)
		if err != nil {
			return err
		}
		for _, t := range r.GetTimers() {
			h.clock.add(due{t.GetAt(), t.GetAt(), s.Actor, t.GetName()})
		}
		return nil
	}
	a, err := h.find(s.Actor)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ensure()
}

// applied takes in a change of the placement.
func (h *Host) applied(p *api.Placement) {
	if !h.ready.Load() {
		return
	}
	if !p.GetWhole() && p.GetShards() == nil {
		for _, x := range p.GetActors() {
			name := placement.Of(x.GetActor())
			s := h.stripe(name)
			s.mu.Lock()
			a := s.actors[name]
			s.mu.Unlock()
			if a != nil {
				h.reconcile(a)
			}
		}
		return
	}
	h.each(h.reconcile)
	if h.store == nil {
		return
	}
	// Shards change hands seldom, so looking at all that is stored costs little.
	if all, err := h.store.All(); err != nil {
		log.G(h.ctx).WithError(err).Error("stored actors can't be compared with the placement")
	} else if err := h.dropElsewhere(all); err != nil {
		log.G(h.ctx).WithError(err).Warn("actors that are elsewhere can't be deleted")
	}
}

// reconcile brings one actor in line with the placement.
func (h *Host) reconcile(a *actor) {
	a.mu.Lock()
	switch a.phase {
	case arriving:
		in := a.incoming
		a.mu.Unlock()
		if in.request != nil {
			h.resolve(a, in)
		}
		return
	case serving:
		if owner, ok := h.owners.owner(a.name); ok && owner.Server != h.server {
			a.leave(owner)
			a.mu.Unlock()
			h.remove(a)
			return
		}
	}
	a.mu.Unlock()
}

// leave ends an actor here, as another has it; mu is held.
func (a *actor) leave(owner placement.Owner) {
	a.phase, a.owner = gone, owner
	a.stopSends()
	a.drain(&errMoved{owner})
	a.signal()
}
