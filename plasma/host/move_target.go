package host

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/failpoint"
	"github.com/peregrine-dev/peregrine/plasma/host/store"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

const (
	// holdTime is how long messages are held for an actor that is to come. After it they are
	// told where it is, and it may still come.
	holdTime = 5 * time.Second
	// maxArriving is how many may be coming.
	maxArriving = 4096
)

// incoming is an actor on its way here.
type incoming struct {
	since   time.Time
	move    string
	epoch   uint64
	request *api.TransferRequest // nil until it has been handed over
}

// fate is what the placement says of a move to here.
type fate int

const (
	fateOpen fate = iota // nothing yet
	fateOurs             // it took place
	fateNot              // it never will
)

func (h *Host) fate(name placement.Actor, epoch uint64) fate {
	owner, ok := h.owners.owner(name)
	switch {
	case !ok || owner.Epoch < epoch:
		return fateOpen
	case owner.Server == h.server && owner.Epoch == epoch:
		return fateOurs
	}
	return fateNot
}

// Prepare implements api.PeerService.
func (h peerService) Prepare(_ context.Context, req *api.PrepareRequest) (*api.PrepareResponse, error) {
	resp := &api.PrepareResponse{Instance: h.inst.Load(), Refused: make([]string, len(req.GetActors()))}
	for i, a := range req.GetActors() {
		if _, err := h.expect(placement.Of(a)); err != nil {
			resp.Refused[i] = err.Error()
		}
	}
	failpoint.Hit(failpoint.TargetPrepared)
	return resp, nil
}

// expect gives the place of an actor that is to come.
func (h *Host) expect(name placement.Actor) (*actor, error) {
	typ := h.types[name.Type]
	if typ == nil {
		return nil, fmt.Errorf("no type of actors is called %q: %w", name.Type, errdefs.ErrNotFound)
	}
	s := h.stripe(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !h.ready.Load() {
		return nil, errClosed
	}
	if a := s.actors[name]; a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		switch a.phase {
		case arriving:
			a.incoming.since = time.Now()
			return a, nil
		case gone:
			delete(s.actors, name)
			h.count.Add(-1)
		default:
			return nil, fmt.Errorf("%s is here: %w", name, errdefs.ErrAlreadyExists)
		}
	}
	if owner, ok := h.owners.owner(name); ok && owner.Server == h.server {
		return nil, fmt.Errorf("%s belongs here: %w", name, errdefs.ErrAlreadyExists)
	}
	if h.arriving.Load() >= maxArriving || h.count.Load() >= int64(h.limits.Actors)*8 {
		return nil, fmt.Errorf("%d actors are in memory and %d coming: %w", h.count.Load(), h.arriving.Load(), errdefs.ErrResourceExhausted)
	}
	a := h.newActor(name, typ)
	a.phase, a.incoming = arriving, &incoming{since: time.Now()}
	h.arriving.Add(1)
	h.add(s, a)
	return a, nil
}

// Transfer implements api.PeerService.
func (h peerService) Transfer(_ context.Context, req *api.TransferRequest) (*api.TransferResponse, error) {
	hash, err := hashOf(req)
	if err == nil {
		err = h.receive(req)
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	failpoint.Hit(failpoint.TargetStored)
	return &api.TransferResponse{Hash: hash}, nil
}

// receive stores an actor that is coming.
func (h *Host) receive(req *api.TransferRequest) error {
	name := placement.Of(req.GetActor())
	a, err := h.expect(name)
	if err != nil {
		return err
	}
	if h.fate(name, req.GetEpoch()) != fateOpen {
		return fmt.Errorf("epoch %d of %s is over: %w", req.GetEpoch(), name, errdefs.ErrFailedPrecondition)
	}
	// It is loaded before it is accepted: one that can't be is better where it was.
	behavior, err := a.trial(req)
	if err != nil {
		return err
	}
	if a.durable() {
		if err := h.store.Do(func(tx *store.Tx) error { return tx.PutPending(req) }); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase != arriving {
		return fmt.Errorf("%s came or went meanwhile: %w", name, errdefs.ErrAborted)
	}
	a.incoming = &incoming{since: time.Now(), move: req.GetMove(), epoch: req.GetEpoch(), request: req}
	a.behavior = behavior
	return nil
}

// trial makes the behavior of an actor that is coming.
func (a *actor) trial(req *api.TransferRequest) (b Behavior, err error) {
	if !req.GetExists() {
		return nil, nil
	}
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, fmt.Errorf("Load of %s panics: %v: %w", a.name, p, errdefs.ErrFailedPrecondition)
		}
	}()
	if b, err = a.make(true, req.GetState()); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return b, nil
}

// Activate implements api.PeerService.
func (h peerService) Activate(_ context.Context, req *api.ActivateRequest) (*api.ActivateResponse, error) {
	for _, m := range req.GetMoves() {
		name := placement.Of(m.GetActor())
		s := h.stripe(name)
		s.mu.Lock()
		a := s.actors[name]
		s.mu.Unlock()
		if a == nil || m.GetTo() != h.server {
			continue
		}
		a.mu.Lock()
		in := a.incoming
		a.mu.Unlock()
		if in == nil || in.request == nil || in.move != m.GetId() || in.epoch != m.GetEpoch() {
			continue
		}
		if req.GetRefused() {
			h.dismiss(a, in)
			continue
		}
		h.owners.learn(name, placement.Owner{Server: h.server, Epoch: m.GetEpoch()})
		h.resolve(a, in)
	}
	return &api.ActivateResponse{}, nil
}

// resolve activates an actor that has come, or gives it up, when it is known which.
func (h *Host) resolve(a *actor, in *incoming) {
	f := h.fate(a.name, in.epoch)
	if f == fateOpen {
		return
	}
	a.mu.Lock()
	if a.phase != arriving || a.incoming != in {
		a.mu.Unlock()
		return
	}
	if f == fateNot {
		h.giveUp(a)
		a.mu.Unlock()
		h.remove(a)
		return
	}
	defer a.mu.Unlock()
	failpoint.Hit(failpoint.TargetActivating)
	a.incoming = nil
	h.arriving.Add(-1)
	if err := a.take(in.request); err != nil {
		// It was taken on trial: this can't be. The stored copy stays as it is.
		log.G(h.ctx).WithError(err).WithField("actor", a.name.String()).Error("an actor that has come can't be used")
	}
	if a.durable() {
		// What its turns store comes after this.
		a.submit(len(in.request.GetState()), func(tx *store.Tx) error {
			return tx.Adopt(in.request, time.Now())
		}, func(error) {}) // if it fails ensure does it again
	}
	a.phase = serving
	a.startSends()
	a.kick()
	failpoint.Hit(failpoint.TargetActivated)
}

// dismiss ends the place of an actor whose move was refused.
func (h *Host) dismiss(a *actor, in *incoming) {
	a.mu.Lock()
	if a.phase != arriving || a.incoming != in {
		a.mu.Unlock()
		return
	}
	h.giveUp(a)
	a.mu.Unlock()
	h.remove(a)
}

// giveUp ends the place of an actor that doesn't come; mu is held. The caller removes it.
func (h *Host) giveUp(a *actor) {
	stored := a.incoming.request != nil && a.durable()
	a.incoming = nil
	h.arriving.Add(-1)
	a.phase = gone
	owner, ok := h.owners.owner(a.name)
	if ok && owner.Server != h.server {
		a.drain(&errMoved{owner})
	} else {
		a.drain(errAway)
	}
	a.signal()
	if stored {
		h.store.Submit(&store.Write{Bytes: 64, Apply: func(tx *store.Tx) error { return tx.DropPending(a.name) }})
	}
}

// expire stops holding messages for an actor that is overdue.
func (h *Host) expire(a *actor, now time.Time) {
	a.mu.Lock()
	if a.phase != arriving || now.Sub(a.incoming.since) < holdTime {
		a.mu.Unlock()
		return
	}
	if a.incoming.request == nil {
		h.giveUp(a)
		a.mu.Unlock()
		h.remove(a)
		return
	}
	defer a.mu.Unlock()
	// It has been handed over and may come at any time; the messages can look for it elsewhere.
	if owner, ok := h.owners.owner(a.name); ok && owner.Server != h.server {
		a.drain(&errMoved{owner})
	}
}
