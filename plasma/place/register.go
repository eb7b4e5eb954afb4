package place

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Register records a host that has started, with the next number of its server (Instance and
// Revision of what is given are ignored), and ends all moves from the server. When it returns,
// nothing that an earlier instance asked for can take place any more. ErrNotFound: there is no
// such server on this node. ErrAborted: another registration came after it.
func (m *Membership) Register(ctx context.Context, i Instance) (Instance, error) {
	if err := named("register", i.Service, i.Server); err != nil {
		return Instance{}, err
	}
	i.Node = m.member.Node
	m.registering.Lock()
	defer m.registering.Unlock()
	i, err := m.number(ctx, i)
	if err != nil {
		return Instance{}, fmt.Errorf("register %s: %w", i.Server, err)
	}
	// From here on, commits of earlier instances fail.
	m.mu.Lock()
	m.instances[[2]string{i.Service, i.Server}] = i
	m.mu.Unlock()
	if err := m.store.endMoves(ctx, i); err != nil {
		return Instance{}, fmt.Errorf("register %s: %w", i.Server, err)
	}
	return i, nil
}

// number gives an instance its number and puts it there.
func (m *Membership) number(ctx context.Context, i Instance) (Instance, error) {
	k, s := m.store.keys, m.store
	registered, instance, server := k.registered(i.Service, i.Server), k.instance(i.Service, i.Server), k.server(i.Service, i.Server)
	for range attempts {
		lease := m.Lease()
		if lease == 0 {
			return i, fmt.Errorf("node %s has no lease: %w", m.member.Node, errdefs.ErrUnavailable)
		}
		read, err := s.txn(ctx, nil, []clientv3.Op{clientv3.OpGet(registered), clientv3.OpGet(server)}, nil)
		if err != nil {
			return i, err
		}
		last, revision, err := decodeNumber(read.Responses[0].GetResponseRange().Kvs)
		if err != nil {
			return i, err
		}
		kvs := read.Responses[1].GetResponseRange().Kvs
		if len(kvs) == 0 {
			return i, fmt.Errorf("there is no server %s of %s: %w", i.Server, i.Service, errdefs.ErrNotFound)
		}
		if v, err := decodeServer(i.Service, i.Server, kvs[0]); err != nil || v.Node != m.member.Node {
			return i, fmt.Errorf("server %s is on node %q: %w", i.Server, v.Node, errdefs.ErrNotFound)
		}
		i.Instance = last + 1
		done, err := s.txn(ctx, []clientv3.Cmp{unchanged(registered, revision), unchanged(server, kvs[0].ModRevision)}, []clientv3.Op{
			clientv3.OpPut(registered, strconv.FormatUint(i.Instance, 10)),
			clientv3.OpPut(instance, encode(i), clientv3.WithLease(lease)),
		}, nil)
		if err != nil {
			return i, err
		}
		if done.Succeeded {
			i.Revision = done.Header.Revision
			return i, nil
		}
	}
	return i, fmt.Errorf("others register it all the time: %w", errdefs.ErrUnavailable)
}

// endMoves ends all moves from a server, as long as its instance is the one given.
func (s *Store) endMoves(ctx context.Context, i Instance) error {
	registered := s.keys.registered(i.Service, i.Server)
	last := clientv3.Compare(clientv3.Value(registered), "=", strconv.FormatUint(i.Instance, 10))
	for range attempts {
		moves, err := s.movesOf(ctx, i.Service, func(v Move) bool { return v.From == i.Server })
		if err != nil || len(moves) == 0 {
			return err
		}
		err = s.end(ctx, i.Service, moves, func(ctx context.Context, compares []clientv3.Cmp, then, _ []clientv3.Op) (*clientv3.TxnResponse, error) {
			done, err := s.txn(ctx, append(compares, last), then, []clientv3.Op{clientv3.OpGet(registered)})
			if err != nil || done.Succeeded {
				return done, err
			}
			if n, _, err := decodeNumber(done.Responses[0].GetResponseRange().Kvs); err != nil || n != i.Instance {
				return nil, fmt.Errorf("instance %d came after %d: %w", n, i.Instance, errdefs.ErrAborted)
			}
			return done, nil
		})
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("its moves change all the time: %w", errdefs.ErrUnavailable)
}

// Unregister says that a host has ended. Of an instance that is not the last it does nothing.
func (m *Membership) Unregister(ctx context.Context, i Instance) error {
	m.registering.Lock()
	defer m.registering.Unlock()
	id := [2]string{i.Service, i.Server}
	m.mu.Lock()
	if m.instances[id].Instance == i.Instance {
		delete(m.instances, id)
	}
	m.mu.Unlock()
	k := m.store.keys
	last := clientv3.Compare(clientv3.Value(k.registered(i.Service, i.Server)), "=", strconv.FormatUint(i.Instance, 10))
	_, err := m.store.txn(ctx, []clientv3.Cmp{last}, []clientv3.Op{clientv3.OpDelete(k.instance(i.Service, i.Server))}, nil)
	if err != nil {
		return fmt.Errorf("unregister %s: %w", i.Server, err)
	}
	return nil
}

// bring puts instances of the node on a lease: those that etcd still has, and those that it has
// lost with the lease before.
func (m *Membership) bring(ctx context.Context, lease clientv3.LeaseID) error {
	s := m.store
	list, err := s.client.Get(ctx, s.keys.path("instances")+"/", clientv3.WithPrefix())
	if err != nil {
		return unavailable(err)
	}
	m.mu.Lock()
	instances := maps.Clone(m.instances)
	m.mu.Unlock()
	for _, kv := range list.Kvs {
		_, texts, ok := s.keys.split(string(kv.Key))
		if !ok || len(texts) != 2 {
			continue
		}
		i, err := decodeInstance(texts[0], texts[1], kv)
		if err != nil {
			log.G(ctx).WithError(err).WithField("key", string(kv.Key)).Warn("left out of the placement")
			continue
		}
		if id := [2]string{i.Service, i.Server}; i.Node == m.member.Node && i.Instance > instances[id].Instance {
			instances[id] = i
		}
	}
	for id, i := range instances {
		last := clientv3.Compare(clientv3.Value(s.keys.registered(i.Service, i.Server)), "=", strconv.FormatUint(i.Instance, 10))
		put := clientv3.OpPut(s.keys.instance(i.Service, i.Server), encode(i), clientv3.WithLease(lease))
		done, err := s.txn(ctx, []clientv3.Cmp{last}, []clientv3.Op{put}, nil)
		if err != nil {
			return err
		}
		if !done.Succeeded { // the server was removed meanwhile
			delete(instances, id)
		}
	}
	m.mu.Lock()
	m.instances = instances
	m.mu.Unlock()
	return nil
}
