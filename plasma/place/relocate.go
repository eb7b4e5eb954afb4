package place

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// SetTable replaces the table of revision ifRevision (0: there is none yet). ErrAborted: it has
// changed since, or one of the hosts has been replaced by a later instance.
func (l *Leadership) SetTable(ctx context.Context, service string, t placement.Table, ifRevision int64, hosts ...Instance) error {
	var same []clientv3.Cmp
	for _, h := range hosts {
		same = append(same, clientv3.Compare(clientv3.Value(l.store.keys.registered(service, h.Server)), "=", strconv.FormatUint(h.Instance, 10)))
	}
	return l.setTable(ctx, service, &t, ifRevision, same)
}

func (l *Leadership) setTable(ctx context.Context, service string, t *placement.Table, ifRevision int64, also []clientv3.Cmp) error {
	if err := checkTable(t); err != nil {
		return fmt.Errorf("store the table of %s: %w: %w", service, err, errdefs.ErrInvalidArgument)
	}
	key := l.store.keys.table(service)
	done, err := l.txn(ctx, append(also, unchanged(key, ifRevision)), []clientv3.Op{clientv3.OpPut(key, encodeTable(t))}, nil)
	if err == nil && !done.Succeeded {
		err = fmt.Errorf("it is not of revision %d, or a server is back: %w", ifRevision, errdefs.ErrAborted)
	}
	if err != nil {
		return fmt.Errorf("store the table of %s: %w", service, err)
	}
	return nil
}

// Relocate gives a server's shards and actors to others when its node is gone, without what
// they have stored: owners are new owners of actors that have an exception of that server, t the
// new table instead of the one of revision ifRevision, which is written last. Moves from and to
// the server are ended. ErrAborted: the server is back, or the table has changed; what was
// relocated until then stays so.
func (l *Leadership) Relocate(ctx context.Context, service, server string, t placement.Table, ifRevision int64, owners map[placement.Actor]placement.Owner) error {
	gone := []clientv3.Cmp{absent(l.store.keys.instance(service, server))}
	if err := l.abandon(ctx, service, server, gone); err != nil {
		return fmt.Errorf("relocate %s: %w", server, err)
	}
	actors := make([]placement.Actor, 0, len(owners))
	for a, o := range owners {
		if o.Server == "" || o.Server == server {
			return fmt.Errorf("relocate %s: actor %s to %q: %w", server, a, o.Server, errdefs.ErrInvalidArgument)
		}
		actors = append(actors, a)
	}
	slices.SortFunc(actors, func(a, b placement.Actor) int { return strings.Compare(a.String(), b.String()) })
	for part := range slices.Chunk(actors, batch-1) {
		if err := l.relocate(ctx, service, server, part, owners, gone); err != nil {
			return fmt.Errorf("relocate %s: %w", server, err)
		}
	}
	return l.setTable(ctx, service, &t, ifRevision, gone)
}

// abandon ends all moves from and to a server.
func (l *Leadership) abandon(ctx context.Context, service, server string, gone []clientv3.Cmp) error {
	moves, err := l.store.movesOf(ctx, service, func(v Move) bool { return v.From == server || v.To == server })
	if err != nil {
		return err
	}
	done, err := l.txn(ctx, gone, nil, nil)
	if err == nil && !done.Succeeded {
		err = back(server)
	}
	if err != nil {
		return err
	}
	return l.AbortMoves(ctx, service, moves)
}

func back(server string) error {
	return fmt.Errorf("server %s is back: %w", server, errdefs.ErrAborted)
}

// relocate changes the exceptions of a batch of actors that are still the server's.
func (l *Leadership) relocate(ctx context.Context, service, server string, part []placement.Actor, owners map[placement.Actor]placement.Owner, gone []clientv3.Cmp) error {
	reads := make([]clientv3.Op, len(part))
	for i, a := range part {
		reads[i] = clientv3.OpGet(l.store.keys.exception(service, a))
	}
	for range attempts {
		read, err := l.store.txn(ctx, nil, append(reads[:len(reads):len(reads)], clientv3.OpGet(l.store.keys.instance(service, server))), nil)
		if err != nil {
			return err
		}
		if len(read.Responses[len(reads)].GetResponseRange().Kvs) > 0 {
			return back(server)
		}
		compares := slices.Clone(gone)
		var then []clientv3.Op
		for i, a := range part {
			kvs := read.Responses[i].GetResponseRange().Kvs
			if len(kvs) == 0 {
				continue
			}
			e, err := decodeException(kvs[0])
			to := owners[a]
			if err == nil && (e.Server != server || e.Epoch >= to.Epoch) {
				continue
			}
			key := string(kvs[0].Key)
			compares = append(compares, unchanged(key, kvs[0].ModRevision))
			then = append(then, clientv3.OpPut(key, encode(exception{Server: to.Server, Epoch: to.Epoch})))
		}
		done, err := l.txn(ctx, compares, then, nil)
		if err != nil {
			return err
		}
		if done.Succeeded {
			return nil
		}
	}
	return fmt.Errorf("its actors change all the time: %w", errdefs.ErrUnavailable)
}
