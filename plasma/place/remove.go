package place

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// RemoveServer removes a server that was to stop, with its instance, once its node has ended it.
// One that is not there is no error. ErrFailedPrecondition: it is not to stop, or is another
// node's; ErrAborted: it was changed meanwhile.
func (m *Membership) RemoveServer(ctx context.Context, service, id string) error {
	s := m.store
	key := s.keys.server(service, id)
	got, err := s.client.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("remove server %s: %w", id, unavailable(err))
	}
	if len(got.Kvs) == 0 {
		return nil
	}
	v, err := decodeServer(service, id, got.Kvs[0])
	if err != nil {
		return fmt.Errorf("remove server %s: %w", id, err)
	}
	if !v.Stopping || v.Node != m.member.Node {
		return fmt.Errorf("server %s is not one that this node has ended: %w", id, errdefs.ErrFailedPrecondition)
	}
	done, err := s.txn(ctx, []clientv3.Cmp{unchanged(key, got.Kvs[0].ModRevision)},
		[]clientv3.Op{clientv3.OpDelete(key), clientv3.OpDelete(s.keys.instance(service, id)), clientv3.OpDelete(s.keys.registered(service, id))}, nil)
	if err == nil && !done.Succeeded {
		err = stale(v.Version)
	}
	if err != nil {
		return fmt.Errorf("remove server %s: %w", id, err)
	}
	return nil
}
