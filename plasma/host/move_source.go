package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/failpoint"
	"github.com/peregrine-dev/peregrine/plasma/host/store"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

const (
	// maxMoves is how many actors move at once. Each moves on its own: one that waits for
	// another would stand still with it otherwise.
	maxMoves = 16
	// quiesceTimeout is how long a turn under way may hold up a move.
	quiesceTimeout = 10 * time.Second
	peerTimeout    = 5 * time.Second
)

// hostService is what plasmad calls.
type hostService struct{ *Host }

// Move implements api.HostService.
func (h hostService) Move(ctx context.Context, req *api.MoveRequest) (*api.MoveResponse, error) {
	if !h.ready.Load() {
		return nil, errgrpc.ToGRPC(errClosed)
	}
	resp := &api.MoveResponse{
		Refused: make([]string, len(req.GetMoves())), Pauses: make([]int64, len(req.GetMoves())),
	}
	to := placement.Server{
		ID: req.GetTo().GetId(), Node: req.GetTo().GetNode(), Instance: req.GetTo().GetInstance(), Address: req.GetTo().GetAddress(),
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxMoves)
	for i, m := range req.GetMoves() {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			pause, err := h.moveOne(ctx, m, to)
			if err != nil {
				resp.Refused[i] = err.Error()
			}
			resp.Pauses[i] = int64(pause)
		})
	}
	wg.Wait()
	return resp, nil
}

// moveOne moves an actor. An error means that it stays. It goes on when ctx ends: a move that is
// in doubt can't be left.
func (h *Host) moveOne(ctx context.Context, m *api.Move, to placement.Server) (time.Duration, error) {
	name := placement.Of(m.GetActor())
	h.moves.Lock()
	if h.moving[name] || h.stopped.Load() {
		h.moves.Unlock()
		return 0, fmt.Errorf("%s moves already, or the host stops: %w", name, errdefs.ErrUnavailable)
	}
	h.moving[name] = true
	h.work.Add(1)
	h.moves.Unlock()
	defer func() {
		h.moves.Lock()
		delete(h.moving, name)
		h.moves.Unlock()
		h.work.Done()
	}()
	if to.ID == h.server || m.GetTo() != to.ID {
		return 0, fmt.Errorf("a move from %s to %s: %w", h.server, m.GetTo(), errdefs.ErrInvalidArgument)
	}
	a, err := h.find(name)
	if err != nil {
		return 0, err
	}
	target, instance, err := h.prepare(ctx, name, to)
	if err != nil {
		return 0, err
	}
	failpoint.Hit(failpoint.MovePrepared)
	start := time.Now()
	r, err := a.quiesce(ctx)
	if err != nil {
		return time.Since(start), err
	}
	failpoint.Hit(failpoint.MoveQuiet)
	owner := placement.Owner{Server: to.ID, Epoch: m.GetEpoch()}
	r.From, r.Move, r.Epoch = h.server, m.GetId(), m.GetEpoch()
	if err := h.transfer(ctx, target, r); err != nil {
		a.resume()
		return time.Since(start), err
	}
	failpoint.Hit(failpoint.MoveTransferred)
	if err := h.decide(&api.Move{Id: m.GetId(), Actor: m.GetActor(), To: to.ID, Epoch: m.GetEpoch(), Target: instance}); err != nil {
		if h.ctx.Err() == nil {
			a.resume()
			h.recall(target, m)
		}
		return time.Since(start), err
	}
	failpoint.Hit(failpoint.MoveCommitted)
	return h.depart(a, target, m, owner, start), nil
}

// prepare has the target hold what comes for an actor.
func (h *Host) prepare(ctx context.Context, name placement.Actor, to placement.Server) (api.PeerService, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	target, err := h.router.pool.Get(ctx, to)
	if err != nil {
		return nil, 0, err
	}
	p, err := target.Prepare(ctx, &api.PrepareRequest{From: h.server, Actors: []*api.Actor{name.API()}})
	if err != nil {
		return nil, 0, fmt.Errorf("prepare %s: %w", to.ID, native(err))
	}
	if len(p.GetRefused()) > 0 && p.GetRefused()[0] != "" {
		return nil, 0, fmt.Errorf("%s refuses: %s: %w", to.ID, p.GetRefused()[0], errdefs.ErrFailedPrecondition)
	}
	return target, p.GetInstance(), nil
}

// quiesce has an actor stand still, and gives all of it.
func (a *actor) quiesce(ctx context.Context) (*api.TransferRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, quiesceTimeout)
	defer cancel()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase != serving {
		return nil, fmt.Errorf("%s is not here, or moves: %w", a.name, errdefs.ErrFailedPrecondition)
	}
	a.phase = leaving
	a.stopSends()
	err := a.wait(ctx, func() bool { return !a.running && a.inflight == 0 && !a.outbox.busy() })
	if err == nil && a.phase != leaving {
		return nil, errClosed
	}
	if err == nil && a.chain.Failed() {
		a.forget()
	}
	if err == nil {
		err = a.ensure()
	}
	var r *api.TransferRequest
	if err == nil {
		r, err = a.whole()
	}
	if err != nil {
		a.resumeLocked()
		return nil, fmt.Errorf("%s does not stand still: %w", a.name, err)
	}
	return r, nil
}

// resume has an actor go on that stays.
func (a *actor) resume() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resumeLocked()
}

func (a *actor) resumeLocked() {
	if a.phase != leaving || a.host.stopped.Load() {
		return
	}
	if owner, ok := a.host.owners.owner(a.name); ok && owner.Server != a.host.server {
		// It doesn't stay: it took place and the actor has moved on since, or its shard or all that
		// this host had was given away. Whoever has it must not find a second one here.
		a.drop()
		a.leave(owner)
		return
	}
	a.phase = serving
	a.startSends()
	a.kick()
}

// transfer hands an actor over and checks that it arrived as it is.
func (h *Host) transfer(ctx context.Context, target api.PeerService, r *api.TransferRequest) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	hash, err := hashOf(r)
	if err != nil {
		return err
	}
	resp, err := target.Transfer(ctx, r)
	if err != nil {
		return fmt.Errorf("transfer: %w", native(err))
	}
	if !bytes.Equal(resp.GetHash(), hash) {
		return fmt.Errorf("the target has stored something else: %w", errdefs.ErrDataLoss)
	}
	return nil
}

func hashOf(r *api.TransferRequest) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", placement.Of(r.GetActor()), err)
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// decide asks plasmad until it says whether a move took place, or the placement does.
func (h *Host) decide(m *api.Move) error {
	name := placement.Of(m.GetActor())
	for delay := retryFirst; ; delay = min(2*delay, retryLast) {
		changed := h.owners.view.Changed()
		if owner, ok := h.owners.view.Owner(name); ok && owner.Epoch >= m.GetEpoch() {
			if owner.Server == m.GetTo() && owner.Epoch == m.GetEpoch() {
				return nil
			}
			return fmt.Errorf("%s has %s at epoch %d: %w", owner.Server, name, owner.Epoch, errdefs.ErrFailedPrecondition)
		}
		resp, err := ask(h.ctx, h.agent, agentTimeout, func(ctx context.Context, a api.AgentClient) (*api.CommitResponse, error) {
			return a.Commit(ctx, &api.CommitRequest{Instance: h.inst.Load(), Moves: []*api.Move{m}})
		})
		if err == nil && len(resp.GetRefused()) == 1 {
			if why := resp.GetRefused()[0]; why != "" {
				return fmt.Errorf("the move is refused: %s: %w", why, errdefs.ErrFailedPrecondition)
			}
			return nil
		}
		log.G(h.ctx).WithError(err).WithField("actor", name.String()).Warn("whether an actor has moved is not known; it stands still")
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-changed:
		case <-h.ctx.Done():
			t.Stop()
			return fmt.Errorf("whether the move took place is not known: %w", errClosed)
		}
		t.Stop()
	}
}

// recall tells the target that an actor doesn't come. If it isn't heard, the target keeps what it
// was sent until the actor moves again.
func (h *Host) recall(target api.PeerService, m *api.Move) {
	ctx, cancel := context.WithTimeout(h.ctx, peerTimeout)
	defer cancel()
	if _, err := target.Activate(ctx, &api.ActivateRequest{Moves: []*api.Move{m}, Refused: true}); err != nil {
		log.G(h.ctx).WithError(native(err)).Debug("the target was not told that a move doesn't take place")
	}
}

// depart ends an actor here whose move is committed, and gives how long it stood still.
func (h *Host) depart(a *actor, target api.PeerService, m *api.Move, owner placement.Owner, start time.Time) time.Duration {
	h.owners.learn(a.name, owner)
	ctx, cancel := context.WithTimeout(h.ctx, peerTimeout)
	_, err := target.Activate(ctx, &api.ActivateRequest{Moves: []*api.Move{m}})
	cancel()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.G(h.ctx).WithError(native(err)).Debug("the target was not told of a move; it learns of it from the placement")
	}
	a.mu.Lock()
	// Before others can have it come back: then this would be after what it comes with.
	a.drop()
	a.leave(owner)
	a.mu.Unlock()
	pause := time.Since(start)
	h.remove(a)
	failpoint.Hit(failpoint.MoveActivated)
	return pause
}

// drop deletes what is stored of an actor that another host has; mu is held. When it fails the
// next start does it.
func (a *actor) drop() {
	if !a.durable() {
		return
	}
	a.host.store.Submit(&store.Write{
		Bytes: 64, Apply: func(tx *store.Tx) error { return tx.Drop(a.name) },
		Done: func(error) { failpoint.Hit(failpoint.MoveDeleted) },
	})
}
