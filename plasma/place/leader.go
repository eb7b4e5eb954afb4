package place

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Leadership is that this node is the global manager. Its writes are ErrFailedPrecondition when it
// is no longer, and then change nothing; ErrUnavailable when it is not known what came of them.
type Leadership struct {
	store *Store
	key   string
	fence int64 // at which the key was created

	stop context.CancelFunc
	done chan struct{} // of watch
	lost chan struct{}

	mu         sync.Mutex
	remembered map[string][32]byte // hash of each service's memory as it was last written
}

// Campaign waits until the node is the global manager.
func (s *Store) Campaign(ctx context.Context, m *Membership) (*Leadership, error) {
	for {
		l, err := s.candidate(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("campaign: %w", err)
		}
		if l != nil {
			return l, nil
		}
	}
}

// candidate is one try. It gives nil if the lease was lost meanwhile.
func (s *Store) candidate(ctx context.Context, m *Membership) (_ *Leadership, err error) {
	changed := m.Changed()
	lease := m.Lease()
	if lease == 0 {
		select {
		case <-changed:
			return nil, nil
		case <-m.done:
			return nil, fmt.Errorf("the membership has ended: %w", errdefs.ErrFailedPrecondition)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	key := s.keys.leader(lease)
	fence, err := s.stand(ctx, key, m.member.Node, lease)
	if err != nil {
		select {
		case <-changed:
			return nil, nil
		default:
			return nil, err
		}
	}
	l := &Leadership{store: s, key: key, fence: fence, remembered: map[string][32]byte{}, lost: make(chan struct{}), done: make(chan struct{})}
	defer func() {
		if err != nil {
			short, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_, _ = s.client.Delete(short, key) // or the lease ends it
		}
	}()
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	answer := make(chan turn, 1)
	go func() { answer <- s.turn(waiting, key, fence) }()
	select {
	case t := <-answer:
		if t.err != nil || !t.elected {
			return nil, t.err
		}
		own, stop := context.WithCancel(context.WithoutCancel(ctx))
		l.stop = stop
		go l.watch(own, m, changed, t.revision)
		return l, nil
	case <-changed:
		cancel()
		<-answer
		return nil, nil
	}
}

// stand puts a candidate's key and gives the revision at which it was created.
func (s *Store) stand(ctx context.Context, key, node string, lease clientv3.LeaseID) (int64, error) {
	response, err := s.txn(ctx, []clientv3.Cmp{absent(key)},
		[]clientv3.Op{clientv3.OpPut(key, node, clientv3.WithLease(lease))}, []clientv3.Op{clientv3.OpGet(key)})
	if err != nil {
		return 0, err
	}
	if response.Succeeded {
		return response.Header.Revision, nil
	}
	return response.Responses[0].GetResponseRange().Kvs[0].CreateRevision, nil
}

type turn struct {
	elected  bool // or the key is gone
	revision int64
	err      error
}

// turn waits until no older candidate is there.
func (s *Store) turn(ctx context.Context, key string, fence int64) turn {
	for {
		older := append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(fence-1))
		read, err := s.txn(ctx, nil, []clientv3.Op{clientv3.OpGet(key), clientv3.OpGet(s.keys.leaders(), older...)}, nil)
		if err != nil {
			return turn{err: err}
		}
		own, before := read.Responses[0].GetResponseRange().Kvs, read.Responses[1].GetResponseRange().Kvs
		if len(own) == 0 || own[0].CreateRevision != fence {
			return turn{}
		}
		if len(before) == 0 {
			return turn{elected: true, revision: read.Header.Revision}
		}
		if err := s.gone(ctx, string(before[0].Key), read.Header.Revision+1); err != nil {
			return turn{err: err}
		}
	}
}

// gone waits until a key may be deleted: whoever asks looks again.
func (s *Store) gone(ctx context.Context, key string, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for response := range s.client.Watch(clientv3.WithRequireLeader(ctx), key, clientv3.WithRev(revision), clientv3.WithFilterPut()) {
		if err := response.Err(); err != nil {
			return unavailable(err)
		}
		if len(response.Events) > 0 {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return unavailable(fmt.Errorf("the watch of %s ended", key))
}

// watch closes lost when the key is gone, or the lease may be.
func (l *Leadership) watch(ctx context.Context, m *Membership, changed <-chan struct{}, revision int64) {
	defer close(l.done)
	defer close(l.lost)
	gone := make(chan struct{})
	watching, cancel := context.WithCancel(ctx)
	go func() {
		defer close(gone)
		// An error of etcd's is no answer: the lease's end is one.
		if err := l.store.gone(watching, l.key, revision+1); err != nil {
			<-watching.Done()
		}
	}()
	defer func() { cancel(); <-gone }()
	for {
		left := time.Until(m.Valid())
		if left <= 0 {
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
		case <-gone:
		case <-changed:
		case <-m.done:
		case <-timer.C:
			continue
		}
		timer.Stop()
		return
	}
}

// Fence tells this time of being manager from all others; a later one's is greater.
func (l *Leadership) Fence() int64 { return l.fence }

// Lost is closed when the node is no longer the manager, or can't be sure to be.
func (l *Leadership) Lost() <-chan struct{} { return l.lost }

// Resign ends it: another node may be elected.
func (l *Leadership) Resign(ctx context.Context) error {
	l.stop()
	<-l.done
	if _, err := l.store.txn(ctx, []clientv3.Cmp{l.fenced()}, []clientv3.Op{clientv3.OpDelete(l.key)}, nil); err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	return nil
}

func (l *Leadership) fenced() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(l.key), "=", l.fence)
}

// txn makes a transaction of the manager. If it didn't succeed, that is not because of the fence;
// otherwise' answers, of which there may be one less than maxOps, come first.
func (l *Leadership) txn(ctx context.Context, compares []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	compares = append([]clientv3.Cmp{l.fenced()}, compares...)
	otherwise = append(otherwise[:len(otherwise):len(otherwise)], clientv3.OpGet(l.key))
	response, err := l.store.txn(ctx, compares, then, otherwise)
	if err != nil || response.Succeeded {
		return response, err
	}
	kvs := response.Responses[len(otherwise)-1].GetResponseRange().Kvs
	if len(kvs) == 0 || kvs[0].CreateRevision != l.fence {
		return nil, fmt.Errorf("this node is no longer the global manager: %w", errdefs.ErrFailedPrecondition)
	}
	return response, nil
}
