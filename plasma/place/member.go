package place

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Membership is that a node is there. It is kept until Close.
type Membership struct {
	store  *Store
	member Member
	ttl    time.Duration

	stop context.CancelFunc
	done chan struct{}

	// registering is held while instances change, so that a new lease gets all of them.
	registering sync.Mutex

	mu        sync.Mutex
	lease     clientv3.LeaseID
	until     time.Duration // since boot
	changed   chan struct{} // closed by the next change of lease
	instances map[[2]string]Instance
}

// Join says that a node is there, by a lease of ttl (whole seconds, at least 2) that is kept
// alive until Close. If the lease is lost all the same, a new one is made, and what was
// registered is put there again. ErrAlreadyExists: another plasmad that is alive, or was until
// less than its ttl ago, has the node's name and another Identity.
func (s *Store) Join(ctx context.Context, m Member, ttl time.Duration) (*Membership, error) {
	if err := named("join", m.Node); err != nil {
		return nil, err
	}
	if ttl < 2*time.Second || ttl%time.Second != 0 {
		return nil, fmt.Errorf("join with a lease of %s: want whole seconds, at least 2: %w", ttl, errdefs.ErrInvalidArgument)
	}
	if err := finite(m.Capacity); err != nil {
		return nil, fmt.Errorf("join: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	j := &Membership{
		store: s, member: m, ttl: ttl, stop: stop, done: make(chan struct{}),
		changed: make(chan struct{}), instances: map[[2]string]Instance{},
	}
	if err := j.claim(ctx); err != nil {
		stop()
		return nil, fmt.Errorf("join as %s: %w", m.Node, err)
	}
	go j.keep(own)
	return j, nil
}

// Valid is until when the lease is there for certain: the time to live after the last renewal was
// sent. Time in which the machine was suspended counts.
func (m *Membership) Valid() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.until - sinceBoot())
}

// Lease is the present one; 0 if it is lost and there is no new one yet.
func (m *Membership) Lease() clientv3.LeaseID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lease
}

// Changed is closed when Lease has changed.
func (m *Membership) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Close ends the membership at once: the lease with all that is on it.
func (m *Membership) Close(ctx context.Context) error {
	m.stop()
	<-m.done
	lease := m.Lease()
	m.hold(0, 0)
	if lease == 0 {
		return nil
	}
	if _, err := m.store.client.Revoke(ctx, lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("leave as %s: %w", m.member.Node, unavailable(err))
	}
	return nil
}

// Leave ends keeping the membership, which is there until its time to live has passed: hosts are
// found meanwhile, and a plasmad that starts by then finds all in place.
func (m *Membership) Leave() {
	m.stop()
	<-m.done
}

// hold notes a lease and until when it is there.
func (m *Membership) hold(lease clientv3.LeaseID, until time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.until = until
	if m.lease != lease {
		m.lease = lease
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

// keep renews the lease, three times as often as needed, and makes a new one when it is lost.
func (m *Membership) keep(ctx context.Context) {
	defer close(m.done)
	tick := time.NewTicker(m.ttl / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := m.renew(ctx); err != nil && ctx.Err() == nil {
			log.G(ctx).WithError(err).WithField("node", m.member.Node).Warn("can't renew the node's lease in etcd")
		}
	}
}

func (m *Membership) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.ttl)
	defer cancel()
	if lease := m.Lease(); lease != 0 {
		soon, cancel := context.WithTimeout(ctx, m.ttl/2)
		defer cancel()
		sent := sinceBoot()
		response, err := m.store.client.KeepAliveOnce(soon, lease)
		switch {
		case err == nil:
			m.hold(lease, sent+time.Duration(response.TTL)*time.Second)
			return nil
		case !errors.Is(err, rpctypes.ErrLeaseNotFound):
			return err
		}
		m.hold(0, 0)
		log.G(ctx).WithField("node", m.member.Node).Warn("the node's lease in etcd is lost: joining again")
	}
	return m.claim(ctx)
}

// claim makes a lease and puts the member and its instances on it: those that are known, and
// those that are there from a plasmad before this one.
func (m *Membership) claim(ctx context.Context) (err error) {
	m.registering.Lock()
	defer m.registering.Unlock()
	c, key := m.store.client, m.store.keys.member(m.member.Node)
	sent := sinceBoot()
	granted, err := c.Grant(ctx, int64(m.ttl/time.Second))
	if err != nil {
		return unavailable(err)
	}
	defer func() {
		if err != nil { // or the time to live ends it
			short, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_, _ = c.Revoke(short, granted.ID)
		}
	}()
	response, err := c.Get(ctx, key)
	if err != nil {
		return unavailable(err)
	}
	var revision, before int64
	if len(response.Kvs) > 0 {
		kv := response.Kvs[0]
		there, err := decodeMember(m.member.Node, kv)
		if err != nil || m.member.Identity == "" || there.Identity != m.member.Identity {
			return fmt.Errorf("node %s is there already, at %s: %w", m.member.Node, there.Address, errdefs.ErrAlreadyExists)
		}
		revision, before = kv.ModRevision, kv.Lease
	}
	put := clientv3.OpPut(key, encode(m.member), clientv3.WithLease(granted.ID))
	done, err := m.store.txn(ctx, []clientv3.Cmp{unchanged(key, revision)}, []clientv3.Op{put}, nil)
	if err != nil {
		return err
	}
	if !done.Succeeded {
		return fmt.Errorf("node %s has just been taken by another: %w", m.member.Node, errdefs.ErrAlreadyExists)
	}
	if err := m.bring(ctx, granted.ID); err != nil {
		return err
	}
	if before != 0 {
		// What is on it still is the election's: that time of being manager is over, now or when
		// the lease ends by itself.
		if _, err := c.Revoke(ctx, clientv3.LeaseID(before)); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			log.G(ctx).WithError(err).WithField("node", m.member.Node).Warn("can't end the node's earlier lease")
		}
	}
	m.hold(granted.ID, sent+time.Duration(granted.TTL)*time.Second)
	return nil
}
