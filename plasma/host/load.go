package host

import (
	"time"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/lane"
	"github.com/peregrine-dev/peregrine/plasma/host/store"
)

// ensure reads what is stored of an actor, if it has not been read; mu is held.
func (a *actor) ensure() error {
	if a.loaded {
		return nil
	}
	if !a.durable() {
		a.loaded = true
		return nil
	}
	// It has come by a move, and storing that has failed.
	coming, err := a.host.store.Coming(a.name)
	if err != nil {
		return err
	}
	if coming != nil && a.host.fate(a.name, coming.GetEpoch()) == fateOurs {
		if err := a.host.store.Do(func(tx *store.Tx) error { return tx.Adopt(coming, time.Now()) }); err != nil {
			return err
		}
	}
	r, _, err := a.host.store.Load(a.name)
	if err != nil {
		return err
	}
	return a.take(r)
}

// take sets an actor to what was stored or has come; mu is held.
func (a *actor) take(r *api.TransferRequest) error {
	lanes, err := lane.Load(r.GetLanes())
	if err != nil {
		return err
	}
	a.lanes, a.exists, a.saved = lanes, r.GetExists(), r.GetState()
	a.timers = nil
	for _, t := range r.GetTimers() {
		a.setTimer(t)
	}
	if !a.outbox.loaded {
		if err := a.outbox.load(r.GetOutbox()); err != nil {
			return err
		}
		a.startSends()
	}
	a.loaded = true
	return nil
}

// forget falls back to what is stored, after a failure to store more; mu is held, nothing is in
// flight.
func (a *actor) forget() {
	a.behavior, a.loaded, a.exists, a.saved = nil, false, false, nil
	a.lanes, a.timers = lane.Table{}, nil
	a.outbox.rollback()
	a.chain = new(store.Chain)
}

// idle tells whether an actor may leave the memory; mu is held.
func (a *actor) idle() bool {
	return a.phase == serving && !a.running && a.queue.len() == 0 && a.inflight == 0 && !a.dirty &&
		a.outbox.count == 0 && !a.outbox.busy() && a.durable() && !a.chain.Failed()
}
