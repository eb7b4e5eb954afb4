package global

import (
	"context"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
)

// renew replaces servers of an earlier generation, one at a time: a new one starts, and when it
// is up, the old one is drained.
func (k *keeper) renew(ctx context.Context) error {
	if k.service.Paused {
		return nil
	}
	all := k.servers()
	old := map[string]place.Server{}
	for _, s := range all {
		if s.State == model.Draining || s.State == model.Starting {
			return nil
		}
		if s.Generation < k.service.Generation {
			old[s.ID] = s
		}
	}
	for _, s := range all {
		if o, ok := old[s.Replaces]; ok {
			return k.change(ctx, o.ID, func(s *place.Server) { s.State = model.Draining })
		}
	}
	for _, id := range names(old) {
		return k.start(ctx, place.Server{Node: old[id].Node, Limit: old[id].Limit, Replaces: id})
	}
	return nil
}
