package host

import (
	"cmp"
	"slices"
	"time"
)

// storePeriod is how often periodic actors are stored.
const storePeriod = time.Second

// tidy stores periodic actors, lets idle ones leave the memory and stops waiting for those that
// do not come, until the host stops.
func (h *Host) tidy() {
	t := time.NewTicker(storePeriod)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			now := time.Now()
			h.each(func(a *actor) {
				a.mu.Lock()
				if a.dirty && a.typ.Durable == Periodic {
					a.wantSave = true
					a.kick()
				}
				a.mu.Unlock()
				h.expire(a, now)
			})
			h.shrink()
		case <-h.crowded:
			h.shrink()
		case <-h.ctx.Done():
			return
		}
	}
}

// shrink takes idle durable actors out of the memory when there are more than the limit, those
// first whose last turn is longest ago, until a tenth is free.
func (h *Host) shrink() {
	if h.count.Load() <= int64(h.limits.Actors) {
		return
	}
	type candidate struct {
		a    *actor
		last uint32
	}
	var idle []candidate
	h.each(func(a *actor) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.idle() {
			idle = append(idle, candidate{a, a.last})
		}
	})
	slices.SortFunc(idle, func(x, y candidate) int { return cmp.Compare(x.last, y.last) })
	for _, c := range idle {
		if h.count.Load() <= int64(h.limits.Actors)*9/10 {
			return
		}
		h.passivate(c.a)
	}
}

// passivate takes an actor out of the memory if it still is idle. All of it is stored.
func (h *Host) passivate(a *actor) {
	s := h.stripe(a.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.idle() || s.actors[a.name] != a {
		return
	}
	a.phase = gone
	delete(s.actors, a.name)
	h.count.Add(-1)
}
