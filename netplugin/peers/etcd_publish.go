package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ours returns nil if kv, at self's key, is this node's to replace: it has self's address,
// it is what this value wrote, or an earlier run of this instance. Anything else is
// ErrAlreadyExists. Two copies of one installation have the same Instance, so earlier is
// false once self was published: of copies, the last to start has the name, rather than
// all by turns.
func (e *etcdSource) ours(kv *mvccpb.KeyValue, self Node, earlier bool) error {
	_, record, err := decodeRecord(self.Name, kv.Value)
	if err != nil {
		return fmt.Errorf("what is in etcd at %q can't be read, so it is left alone; if no other node wrote it, remove it with etcdctl del: %w: %w",
			kv.Key, err, errdefs.ErrAlreadyExists)
	}
	lease := e.currentLease()
	switch {
	case record.Address == self.Address,
		lease != 0 && clientv3.LeaseID(kv.Lease) == lease,
		earlier && e.Instance != "" && record.Instance == e.Instance:
		return nil
	}
	return fmt.Errorf("a node with address %s is published as %q: give one of the two another name or, if that node is gone, remove %q with etcdctl del: %w",
		record.Address, self.Name, kv.Key, errdefs.ErrAlreadyExists)
}

// publish makes self's record what it should be, if it isn't. That another node has the
// name is no error, but in the status.
func (r *etcdRun) publish(ctx context.Context) error {
	self := r.list.self
	key, value := r.nodes()+self.Name, encodeRecord(self, r.Instance)
	kv, revision := r.keys[self.Name], int64(0)
	if kv != nil {
		if err := r.ours(kv, self, !r.published); err != nil {
			if r.connected(true, err) {
				log.G(ctx).WithError(err).Error("this node is not published: no other node has routes to it")
			}
			return nil
		}
		lease := r.currentLease()
		if bytes.Equal(kv.Value, value) && lease != 0 && clientv3.LeaseID(kv.Lease) == lease {
			r.wellPublished(ctx)
			return nil
		}
		revision = kv.ModRevision
	}
	put, err := r.put(ctx, key, value, revision)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // expired, and the record with it
		r.setLease(0)
		put, err = r.put(ctx, key, value, revision)
	}
	if err != nil {
		return fmt.Errorf("publish this node in etcd: %w", err)
	}
	if !put.Succeeded {
		// The event that tells of the other's record is on its way, and leads back here.
		return nil
	}
	r.keys[self.Name] = put.Responses[1].GetResponseRange().Kvs[0]
	r.revision = max(r.revision, put.Header.Revision)
	log.G(ctx).WithFields(self.fields()).Info("published this node in etcd")
	r.wellPublished(ctx)
	return nil
}

func (r *etcdRun) wellPublished(ctx context.Context) {
	r.published = true
	if r.well() {
		log.G(ctx).Info("all is well with etcd again")
	}
}

// put writes self's record if the key is at revision; 0: if there is none.
func (r *etcdRun) put(ctx context.Context, key string, value []byte, revision int64) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	lease, err := r.grant(ctx)
	if err != nil {
		return nil, err
	}
	return r.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(lease)), clientv3.OpGet(key)).
		Commit()
}

// grant returns the lease of this value, a new one if there is none.
func (r *etcdRun) grant(ctx context.Context) (clientv3.LeaseID, error) {
	if lease := r.currentLease(); lease != 0 {
		return lease, nil
	}
	granted, err := r.client.Grant(ctx, int64(r.ttl()/time.Second))
	if err != nil {
		return 0, fmt.Errorf("get a lease: %w", err)
	}
	r.setLease(granted.ID)
	return granted.ID, nil
}

// lookAfter renews the lease and makes sure that the watch is of the store that is there.
func (r *etcdRun) lookAfter(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	// Linearizable: no member that is behind answers.
	response, err := r.client.Get(ctx, r.nodes()+r.list.self.Name, clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("look after this node in etcd: %w", err)
	}
	// A watch from a revision that is yet to come is silent until then.
	if response.Header.Revision < r.revision {
		return fmt.Errorf("etcd is at revision %d after %d: it was wiped or restored", response.Header.Revision, r.revision)
	}
	r.revision = response.Header.Revision
	if lease := r.currentLease(); lease != 0 {
		_, err := r.client.KeepAliveOnce(ctx, lease)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			r.setLease(0)
		}
		if err != nil {
			return fmt.Errorf("renew the lease in etcd: %w", err)
		}
	}
	return nil
}

func (e *etcdSource) currentLease() clientv3.LeaseID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lease
}

func (e *etcdSource) setLease(lease clientv3.LeaseID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lease = lease
}
