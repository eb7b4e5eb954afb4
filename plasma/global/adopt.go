package global

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
)

// adopt keeps a service's servers what containers its nodes have found by label: nobody starts
// or ends those but who made them.
func (k *keeper) adopt(ctx context.Context) error {
	found := map[string]string{} // node by container
	heard := k.profiles.heard(time.Now().Add(-fresh * k.Period))
	for node, h := range heard {
		for _, s := range h.profile.GetServers() {
			if s.GetService() == k.name && s.GetRunning() {
				found[s.GetServer()] = node
			}
		}
	}
	known := map[string]bool{}
	for _, s := range k.Mirror.Servers(k.name) {
		known[s.ID] = true
		if _, there := heard[s.Node]; there && found[s.ID] == "" {
			if err := k.DeleteServer(ctx, k.name, s.ID); err != nil {
				return err
			}
		}
	}
	for _, id := range names(found) {
		if known[id] {
			continue
		}
		_, err := k.PutServer(ctx, place.Server{
			Service: k.name, ID: id, Node: found[id], State: model.Up, Limit: k.spec.Limit.Resources(), Created: time.Now(),
		})
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}
