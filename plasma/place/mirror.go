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

const (
	// page is how many keys are read at once.
	page = 4096
	// again is how long a mirror waits before it asks etcd again.
	again = 200 * time.Millisecond
)

// Mirror is what etcd has, as it is followed until Close. What it returns is the caller's. It may
// be used by several goroutines at once.
type Mirror struct {
	store *Store
	stop  context.CancelFunc
	done  chan struct{}

	mu            sync.RWMutex
	world         *world
	revision      int64
	changed       chan struct{} // closed by the next change
	subscriptions map[*subscription]struct{}
}

// Mirror reads all and follows it until Close.
func (s *Store) Mirror(ctx context.Context) (*Mirror, error) {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	m := &Mirror{store: s, stop: stop, done: make(chan struct{}), changed: make(chan struct{}), subscriptions: map[*subscription]struct{}{}}
	if err := m.load(ctx); err != nil {
		stop()
		return nil, err
	}
	go m.follow(own)
	return m, nil
}

// Close ends it. What it knows can still be read.
func (m *Mirror) Close() {
	m.stop()
	<-m.done
}

// end of the range of keys that are followed.
func (s *Store) followed() clientv3.OpOption { return clientv3.WithRange(s.keys.prefix + unwatched) }

// load reads all, of one revision, page by page.
func (m *Mirror) load(ctx context.Context) error {
	w := newWorld(m.store.keys)
	revision, from := int64(0), m.store.keys.prefix
	for {
		response, err := m.store.client.Get(ctx, from, m.store.followed(), clientv3.WithLimit(page), clientv3.WithRev(revision))
		if err != nil {
			return fmt.Errorf("read the cluster: %w", unavailable(err))
		}
		if revision == 0 {
			revision = response.Header.Revision
		}
		for _, kv := range response.Kvs {
			w.put(ctx, kv)
		}
		if !response.More {
			break
		}
		from = string(response.Kvs[len(response.Kvs)-1].Key) + "\x00"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.world = w
	for s := range m.subscriptions {
		s.dirty.whole = true
	}
	m.advance(revision)
	return nil
}

// follow applies what changes, and reads all again when etcd no longer has all changes.
func (m *Mirror) follow(ctx context.Context) {
	defer close(m.done)
	for ctx.Err() == nil {
		err := m.watch(ctx)
		if errors.Is(err, rpctypes.ErrCompacted) {
			log.G(ctx).WithField("revision", m.Revision()).Warn("reading the cluster anew: etcd has dropped changes that were not seen yet")
			if err = m.load(ctx); err == nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		log.G(ctx).WithError(err).Warn("the cluster is not seen at the moment")
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// watch applies what changes until something goes wrong.
func (m *Mirror) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := m.store.client.Watch(clientv3.WithRequireLeader(ctx), m.store.keys.prefix, m.store.followed(), clientv3.WithRev(m.Revision()+1))
	for response := range changes {
		if err := response.Err(); err != nil {
			return err
		}
		m.apply(ctx, response.Events)
	}
	return errors.New("the watch ended")
}

func (m *Mirror) apply(ctx context.Context, events []*clientv3.Event) {
	if len(events) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range events {
		var c change
		if e.Type == clientv3.EventTypeDelete {
			c = m.world.remove(string(e.Kv.Key))
		} else {
			c = m.world.put(ctx, e.Kv)
		}
		for s := range m.subscriptions {
			s.dirty.add(s.service, c)
		}
	}
	// The response's own revision may be ahead of its events.
	m.advance(events[len(events)-1].Kv.ModRevision)
}

// advance tells everybody; mu is held.
func (m *Mirror) advance(revision int64) {
	m.revision = revision
	close(m.changed)
	m.changed = make(chan struct{})
	for s := range m.subscriptions {
		if !s.dirty.empty() {
			select {
			case s.wake <- struct{}{}:
			default: // it is awake
			}
		}
	}
}

// Revision is etcd's at the last change that is known.
func (m *Mirror) Revision() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.revision
}

// Changed is closed when more is known than now.
func (m *Mirror) Changed() <-chan struct{} {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.changed
}

// Await waits until a change is known that had a revision, such as an Instance's.
func (m *Mirror) Await(ctx context.Context, revision int64) error {
	for {
		changed := m.Changed()
		if m.Revision() >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-m.done:
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("revision %d of the cluster: %w", revision, ctx.Err())
		}
	}
}

var errEnded = fmt.Errorf("the mirror of the cluster has ended: %w", errdefs.ErrUnavailable)
