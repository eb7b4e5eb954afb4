package global

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// share divides the shards among the servers that host actors and are up. A server that is to
// give shards to others freezes meanwhile: it makes no new actors, those that it has in these
// shards are written down as exceptions, and then the shards change hands. It thaws once it
// knows the new table.
func (k *keeper) share(ctx context.Context) error {
	hosts := k.instances()
	if len(hosts) == 0 {
		return nil
	}
	table, revision := k.Mirror.Table(k.name)
	if revision == 0 {
		if able := k.able(hosts); len(able) >= min(k.policy.planner.Program().Limits.MinServers, len(k.servers())) && len(able) > 0 {
			return k.settable(ctx, placement.Table{}.Assign(able), 0)
		}
		return nil // the others will have started soon
	}
	next := k.wanted(&table, hosts)
	losing := losers(&table, &next)
	if slices.ContainsFunc(losing, func(id string) bool { _, there := hosts[id]; return !there }) {
		losing = nil // nobody can say which actors it has
	}
	if len(losing) > 0 {
		return k.reshard(ctx, hosts, &table, &next, revision, losing)
	}
	return k.thaw(ctx, hosts, table, revision)
}

// able are the servers that may have shards.
func (k *keeper) able(hosts map[string]place.Instance) (ids []string) {
	for _, s := range k.servers() {
		if _, there := hosts[s.ID]; there && s.State == model.Up {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// wanted is the table as it should be: those that drain have no shards, new ones their part.
func (k *keeper) wanted(table *placement.Table, hosts map[string]place.Instance) placement.Table {
	able := k.able(hosts)
	if len(able) == 0 {
		return *table
	}
	next := *table
	draining := map[string]bool{}
	for _, s := range k.servers() {
		if s.State == model.Draining {
			draining[s.ID] = true
			if table.Count(s.ID) > 0 {
				next = next.Without(s.ID, able)
			}
		}
	}
	shards := table.Counts()
	if !slices.ContainsFunc(able, func(id string) bool { return shards[id] == 0 }) {
		return next
	}
	// One that doesn't answer now keeps its part.
	for _, id := range table.Servers {
		if !draining[id] && !slices.Contains(able, id) {
			able = append(able, id)
		}
	}
	return next.Assign(able)
}

// settable replaces the table. That the mirror is behind is no error: there will be another look.
func (k *keeper) settable(ctx context.Context, t placement.Table, revision int64, listed ...place.Instance) error {
	err := k.SetTable(ctx, k.name, t, revision, listed...)
	if errdefs.IsAborted(err) {
		return nil
	}
	return err
}

// losers are the servers that have shards in one table which they don't have in the next.
func losers(table, next *placement.Table) (ids []string) {
	for shard := range placement.Shards {
		was, ok := table.Owner(shard)
		is, _ := next.Owner(shard)
		if ok && was.Server != is.Server && !slices.Contains(ids, was.Server) {
			ids = append(ids, was.Server)
		}
	}
	slices.Sort(ids)
	return ids
}

// reshard replaces the table.
func (k *keeper) reshard(ctx context.Context, hosts map[string]place.Instance, table, next *placement.Table, revision int64, losing []string) error {
	stay := map[placement.Actor]placement.Owner{}
	var listed []place.Instance // a host that starts again meanwhile is not frozen
	for _, id := range losing {
		listed = append(listed, hosts[id])
		k.frozen = true // it may be, even if it doesn't answer
		actors, err := k.freeze(ctx, id, true, 0)
		if err != nil {
			return err
		}
		for _, a := range actors {
			actor := placement.Of(a)
			shard := actor.Shard()
			was, _ := table.Owner(shard)
			if is, _ := next.Owner(shard); was.Server == id && is.Server != id {
				stay[actor] = was
			}
		}
	}
	if err := k.AddExceptions(ctx, k.name, stay); err != nil {
		return err
	}
	return k.settable(ctx, *next, revision, listed...)
}

// thaw has all hosts make new actors again. Before, the table is written once more as it is: of
// what this or an earlier manager wrote and never heard of again, nothing takes place any more.
func (k *keeper) thaw(ctx context.Context, hosts map[string]place.Instance, table placement.Table, revision int64) error {
	if !k.frozen {
		return nil
	}
	if k.sealed != revision {
		if err := k.settable(ctx, table, revision); err != nil {
			return err
		}
		after, err := k.tableAfter(ctx, revision)
		if err != nil {
			return err
		}
		k.sealed, revision = after, after
	}
	for id := range hosts {
		if _, err := k.freeze(ctx, id, false, revision); err != nil {
			return err
		}
	}
	k.frozen = false
	return nil
}

// tableAfter waits until a later table than that of a revision is known.
func (k *keeper) tableAfter(ctx context.Context, revision int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	for {
		changed := k.Mirror.Changed()
		if _, now := k.Mirror.Table(k.name); now > revision {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, fmt.Errorf("the table of service %s that was written is not seen: %w", k.name, ctx.Err())
		}
	}
}

// freeze has a server make no new actors, or make them again, and lists what it has.
func (k *keeper) freeze(ctx context.Context, id string, frozen bool, revision int64) ([]*api.Actor, error) {
	s, err := k.server(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	for _, m := range k.Mirror.Members() {
		if m.Node == s.Node {
			r, err := k.Nodes.Freeze(ctx, m, &api.NodeFreezeRequest{Service: k.name, Server: id, Frozen: frozen, Revision: revision})
			return r.GetActors(), err
		}
	}
	return nil, fmt.Errorf("server %s is on node %s, which is not there: %w", id, s.Node, errdefs.ErrUnavailable)
}

// nodeTimeout bounds a question to a node.
const nodeTimeout = 5 * time.Second

// relocate gives what lost nodes have to others, if the user wants that.
func (k *keeper) relocate(ctx context.Context) error {
	if !k.spec.Relocate {
		return nil
	}
	members := map[string]bool{}
	for _, m := range k.Mirror.Members() {
		members[m.Node] = true
	}
	hosts := k.instances()
	var able []string
	for _, s := range k.servers() {
		if _, there := hosts[s.ID]; there && s.State == model.Up {
			able = append(able, s.ID)
		}
	}
	if len(able) == 0 {
		return nil
	}
	for _, s := range k.servers() {
		if _, there := hosts[s.ID]; there || members[s.Node] || s.State == model.Starting {
			continue
		}
		if err := k.abandon(ctx, s, able); err != nil {
			return err
		}
	}
	return nil
}

// abandon gives up a server whose node is gone.
func (k *keeper) abandon(ctx context.Context, s place.Server, able []string) error {
	table, revision := k.Mirror.Table(k.name)
	owners := map[placement.Actor]placement.Owner{}
	turn := 0
	for a, o := range k.Mirror.Exceptions(k.name) {
		if o.Server == s.ID {
			// One more than a move would give that was under way.
			owners[a] = placement.Owner{Server: able[turn%len(able)], Epoch: o.Epoch + 2}
			turn++
		}
	}
	if table.Count(s.ID) > 0 {
		table = table.Without(s.ID, able)
	}
	if err := k.Relocate(ctx, k.name, s.ID, table, revision, owners); err != nil {
		if errdefs.IsAborted(err) {
			return nil
		}
		return err
	}
	s.Stopping = true
	_, err := k.PutServer(ctx, s)
	if errdefs.IsAborted(err) {
		return nil
	}
	return err
}
