package host

import (
	"context"

	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Freeze implements api.HostService.
func (h hostService) Freeze(ctx context.Context, req *api.FreezeRequest) (*api.FreezeResponse, error) {
	if !h.ready.Load() {
		return nil, errgrpc.ToGRPC(errClosed)
	}
	if !req.GetFrozen() {
		// Before it knows who has the shards now it would make actors that are others'.
		if err := h.owners.view.Await(ctx, req.GetRevision()); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
	}
	h.setFrozen(req.GetFrozen())
	resp := &api.FreezeResponse{}
	seen := map[placement.Actor]bool{}
	h.each(func(a *actor) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.phase == serving || a.phase == leaving {
			seen[a.name] = true
			resp.Actors = append(resp.Actors, a.name.API())
		}
	})
	if h.store == nil {
		return resp, nil
	}
	all, err := h.store.All()
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	for _, s := range all {
		if owner, ok := h.owners.owner(s.Actor); ok && owner.Server == h.server && !seen[s.Actor] {
			resp.Actors = append(resp.Actors, s.Actor.API())
		}
	}
	return resp, nil
}

// setFrozen holds back new actors, or no longer. Those that were being made have been when it
// returns.
func (h *Host) setFrozen(frozen bool) {
	for i := range h.table {
		h.table[i].mu.Lock()
		defer h.table[i].mu.Unlock()
	}
	if h.frozen == frozen {
		return
	}
	h.frozen = frozen
	h.thawMu.Lock()
	defer h.thawMu.Unlock()
	if frozen {
		h.thaw = make(chan struct{})
	} else {
		close(h.thaw)
	}
}

// thawed is closed when new actors may be made.
func (h *Host) thawed() <-chan struct{} {
	h.thawMu.Lock()
	defer h.thawMu.Unlock()
	return h.thaw
}
