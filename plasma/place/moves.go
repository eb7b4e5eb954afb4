package place

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// batch is how many keys a transaction creates or deletes: with the fence, and what is read if it
// doesn't succeed, that is within maxOps.
const batch = maxOps - 2

// StartMoves begins moves, and returns how many: those of actors that are on a move already are
// left out. An error may leave a part of them begun.
func (l *Leadership) StartMoves(ctx context.Context, service string, moves []Move) (started int, err error) {
	var all []pair
	for _, v := range moves {
		v.Service = service
		if err := v.check(); err != nil {
			return 0, fmt.Errorf("start moves: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		all = append(all, pair{l.store.keys.move(service, v.Actor), encode(v)})
	}
	if started, err = l.create(ctx, all); err != nil {
		return started, fmt.Errorf("start moves of %s: %w", service, err)
	}
	return started, nil
}

// AddExceptions says of actors where they are. Of those that have an exception already, that one
// stays. An error may leave a part of them written.
func (l *Leadership) AddExceptions(ctx context.Context, service string, owners map[placement.Actor]placement.Owner) error {
	var all []pair
	for a, o := range owners {
		if o.Server == "" {
			return fmt.Errorf("actor %s without an owner: %w", a, errdefs.ErrInvalidArgument)
		}
		all = append(all, pair{l.store.keys.exception(service, a), encode(exception{Server: o.Server, Epoch: o.Epoch})})
	}
	if _, err := l.create(ctx, all); err != nil {
		return fmt.Errorf("say where actors of %s are: %w", service, err)
	}
	return nil
}

type pair struct{ key, value string }

// create puts keys that are not there, and returns how many it put.
func (l *Leadership) create(ctx context.Context, all []pair) (created int, err error) {
	slices.SortStableFunc(all, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	all = slices.CompactFunc(all, func(a, b pair) bool { return a.key == b.key })
	for part := range slices.Chunk(all, batch) {
		for range attempts {
			if len(part) == 0 {
				break
			}
			compares, then, read := make([]clientv3.Cmp, len(part)), make([]clientv3.Op, len(part)), make([]clientv3.Op, len(part))
			for i, p := range part {
				compares[i] = absent(p.key)
				then[i] = clientv3.OpPut(p.key, p.value)
				read[i] = clientv3.OpGet(p.key, clientv3.WithKeysOnly())
			}
			done, err := l.txn(ctx, compares, then, read)
			if err != nil {
				return created, err
			}
			if done.Succeeded {
				created += len(part)
				part = nil
				break
			}
			var left []pair
			for i, p := range part {
				if len(done.Responses[i].GetResponseRange().Kvs) == 0 {
					left = append(left, p)
				}
			}
			part = left
		}
		if len(part) > 0 {
			return created, fmt.Errorf("others change the same keys all the time: %w", errdefs.ErrUnavailable)
		}
	}
	return created, nil
}

// AbortMoves ends moves, as far as they have not taken place.
func (l *Leadership) AbortMoves(ctx context.Context, service string, moves []Move) error {
	return l.store.end(ctx, service, moves, l.txn)
}

// CancelMoves is what AbortMoves is, for the node whose host refuses to move an actor.
func (s *Store) CancelMoves(ctx context.Context, service string, moves []Move) error {
	return s.end(ctx, service, moves, s.txn)
}

type transact func(ctx context.Context, compares []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error)

// end deletes the keys of moves, if they are still of these.
func (s *Store) end(ctx context.Context, service string, moves []Move, txn transact) error {
	ids := map[string]string{}
	var left []string
	for _, v := range moves {
		key := s.keys.move(service, v.Actor)
		if _, twice := ids[key]; !twice {
			left = append(left, key)
		}
		ids[key] = v.ID
	}
	for part := range slices.Chunk(left, batch) {
		if err := s.endBatch(ctx, service, part, ids, txn); err != nil {
			return fmt.Errorf("end moves of %s: %w", service, err)
		}
	}
	return nil
}

func (s *Store) endBatch(ctx context.Context, service string, part []string, ids map[string]string, txn transact) error {
	reads := make([]clientv3.Op, len(part))
	for i, key := range part {
		reads[i] = clientv3.OpGet(key)
	}
	for range attempts {
		read, err := s.txn(ctx, nil, reads, nil)
		if err != nil {
			return err
		}
		var compares []clientv3.Cmp
		var then []clientv3.Op
		for i, key := range part {
			kvs := read.Responses[i].GetResponseRange().Kvs
			if len(kvs) == 0 {
				continue
			}
			if v, err := decodeMove(service, placement.Actor{}, kvs[0]); err == nil && v.ID != ids[key] {
				continue
			}
			compares = append(compares, unchanged(key, kvs[0].ModRevision))
			then = append(then, clientv3.OpDelete(key))
		}
		done, err := txn(ctx, compares, then, nil)
		if err != nil {
			return err
		}
		if done.Succeeded {
			return nil
		}
	}
	return fmt.Errorf("they change all the time: %w", errdefs.ErrUnavailable)
}

// movesOf reads the moves that are under way of which something is true.
func (s *Store) movesOf(ctx context.Context, service string, which func(Move) bool) (moves []Move, err error) {
	list, err := s.client.Get(ctx, s.keys.path("moves", service)+"/", clientv3.WithPrefix())
	if err != nil {
		return nil, unavailable(err)
	}
	for _, kv := range list.Kvs {
		a, ok := s.keys.actor(string(kv.Key))
		if !ok {
			continue
		}
		if v, err := decodeMove(service, a, kv); err == nil && which(v) {
			moves = append(moves, v)
		}
	}
	return moves, nil
}
