package place

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// maxOps is how many comparisons, or operations, a transaction may have: etcd's default.
const maxOps = 128

// attempts bounds how often something is tried again because others were faster.
const attempts = 64

// Store is a cluster's part of etcd. It may be used by several goroutines at once.
type Store struct {
	client *clientv3.Client
	keys   keys

	mu     sync.Mutex
	tables map[string]tableAt // what commits have read: see table
}

type tableAt struct {
	revision int64
	table    *placement.Table // shared: read only
}

// New gives a cluster's part of etcd. The client remains the caller's.
func New(c *clientv3.Client, cluster string) *Store {
	return &Store{client: c, keys: newKeys(cluster), tables: map[string]tableAt{}}
}

// unavailable is what is said when etcd didn't answer, so that it isn't known what it did.
func unavailable(err error) error {
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return fmt.Errorf("etcd: %w: %w", err, errdefs.ErrResourceExhausted)
	}
	return fmt.Errorf("etcd: %w: %w", err, errdefs.ErrUnavailable)
}

// txn makes a transaction.
func (s *Store) txn(ctx context.Context, compares []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	response, err := s.client.Txn(ctx).If(compares...).Then(then...).Else(otherwise...).Commit()
	if err != nil {
		return nil, unavailable(err)
	}
	return response, nil
}

// unchanged compares that a key is as it was read: of that revision, or absent if it is 0.
func unchanged(key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

func absent(key string) clientv3.Cmp { return clientv3.Compare(clientv3.CreateRevision(key), "=", 0) }
