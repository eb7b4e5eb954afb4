package peers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/backoff"
)

// etcdSource implements Source, Leaver and Reporter with etcd.
type etcdSource struct {
	EtcdConfig
	status

	// check is how often the record and its lease are looked after; timeout is what a
	// request may take; grace is how long nodes are held on to when etcd lost its data, in
	// which all of them should have noticed.
	check, timeout, grace time.Duration
	retry                 backoff.Config // between sessions

	mu    sync.Mutex
	lease clientv3.LeaseID // of this value's record, 0 if it has none
}

// Etcd is the source of nodes that publish themselves in etcd, 3.4 or newer, as JSON at
// Prefix/nodes/NAME. The record is under a lease that is renewed while Run is at work, and
// outlives it by the TTL. A record that got lost, because the lease expired or etcd was
// wiped, is published again; when etcd lost it, nodes that it doesn't have are kept for a
// minute, in which they do the same.
//
// If another node, one with another address, has the name, this one isn't published: that
// is logged and in the Status, ErrAlreadyExists, until the other's record goes. Of nodes
// that are in conflict otherwise, the one whose key was made first remains.
//
// The source is a Leaver and a Reporter too.
func Etcd(config EtcdConfig) Source {
	return &etcdSource{
		EtcdConfig: config,
		check:      min(10*time.Second, config.ttl()/3),
		timeout:    5 * time.Second,
		grace:      time.Minute,
		retry:      backoff.Config{BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 15 * time.Second},
	}
}

// Run implements Source. What it does is done in sessions, each with a client of its own,
// that begin with reading everything: whatever goes wrong, the next one is right again.
func (e *etcdSource) Run(ctx context.Context, self Node, changed func([]Node)) error {
	if err := e.EtcdConfig.Validate(); err != nil {
		return err
	}
	if err := self.Validate(); err != nil {
		return fmt.Errorf("this node: %w", err)
	}
	r := &etcdRun{etcdSource: e, list: list{self: self, changed: changed, status: &e.status}}
	for failures := 0; ; {
		began := time.Now()
		err := r.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > e.retry.MaxDelay {
			failures = 0
		}
		if e.connected(false, err) {
			log.G(ctx).WithError(err).Warn("lost etcd; the last list of nodes holds")
		}
		if !pause(ctx, delay(e.retry, failures)) {
			return nil
		}
		failures++
	}
}

// delay is how long to wait before trying again after a number of failures in a row.
func delay(c backoff.Config, failures int) time.Duration {
	d, limit := float64(c.BaseDelay), float64(c.MaxDelay)
	for range failures {
		if d = d * c.Multiplier; d >= limit {
			break
		}
	}
	return time.Duration(min(d, limit) * (1 + c.Jitter*(rand.Float64()*2-1)))
}

// pause waits for d, and returns false if ctx is done before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Leave implements Leaver.
func (e *etcdSource) Leave(ctx context.Context, self Node) error {
	if err := e.EtcdConfig.Validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	client, err := e.connect(ctx, e.timeout)
	if err != nil {
		return fmt.Errorf("leave etcd: %w", err)
	}
	defer client.Close()
	key := e.nodes() + self.Name
	response, err := client.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("leave etcd: %w", err)
	}
	if len(response.Kvs) == 0 {
		return nil
	}
	kv := response.Kvs[0]
	if err := e.ours(kv, self, true); err != nil {
		return fmt.Errorf("leave etcd: %w", err)
	}
	deleted, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
		Then(clientv3.OpDelete(key)).Commit()
	if err != nil {
		return fmt.Errorf("leave etcd: %w", err)
	}
	if !deleted.Succeeded {
		return fmt.Errorf("leave etcd: the record was written at the same time, is the agent still running? try again: %w", errdefs.ErrAborted)
	}
	if kv.Lease != 0 { // has no more keys; if this fails, it expires
		_, _ = client.Revoke(ctx, clientv3.LeaseID(kv.Lease))
	}
	return nil
}
