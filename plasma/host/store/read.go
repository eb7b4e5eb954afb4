package store

import (
	"bytes"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Load gives an actor as it is stored, false if nothing is. The actor, its state, lanes, outbox
// and timers are set.
func (s *Store) Load(a placement.Actor) (*api.TransferRequest, bool, error) {
	r := &api.TransferRequest{Actor: a.API()}
	found := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		key := prefix(a)
		value := tx.Bucket(bucketActors).Get(key)
		if value == nil {
			return nil
		}
		found = true
		state, exists, _, err := decodeState(value)
		if err != nil {
			return err
		}
		r.State, r.Exists = bytes.Clone(state), exists
		if r.Lanes, err = list[api.Lane](tx.Bucket(bucketLanes), key); err != nil {
			return err
		}
		if r.Outbox, err = list[api.Send](tx.Bucket(bucketOutbox), key); err != nil {
			return err
		}
		r.Timers, err = list[api.Timer](tx.Bucket(bucketTimers), key)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", a, err)
	}
	return r, found, nil
}

func list[T any, M interface {
	*T
	proto.Message
}](b *bbolt.Bucket, prefix []byte) ([]*T, error) {
	var all []*T
	c := b.Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		m := new(T)
		if err := proto.Unmarshal(v, M(m)); err != nil {
			return nil, fmt.Errorf("decode a %T: %w: %w", m, err, errdefs.ErrDataLoss)
		}
		all = append(all, m)
	}
	return all, nil
}

// Exists tells whether an actor is stored and has not ended.
func (s *Store) Exists(a placement.Actor) (exists bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if value := tx.Bucket(bucketActors).Get(prefix(a)); value != nil {
			_, exists, _, err = decodeState(value)
		}
		return err
	})
	return exists, err
}

// Count gives how many actors exist.
func (s *Store) Count() int { return int(s.actors.Load()) }

func (s *Store) count() error {
	var n int64
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketActors).ForEach(func(_, v []byte) error {
			if len(v) >= header && v[1] == 1 {
				n++
			}
			return nil
		})
	})
	s.actors.Store(n)
	return err
}

// Stored is an actor that is stored.
type Stored struct {
	Actor placement.Actor
	// Ended, unless it is zero, is when the actor ended; only its lanes and what it has sent are
	// left.
	Ended time.Time
	// Sends tells that it has sent something that is not answered, Timers that it has timers.
	Sends, Timers bool
}

// All gives the actors that are stored, in the order of their keys.
func (s *Store) All() ([]Stored, error) {
	var all []Stored
	err := s.db.View(func(tx *bbolt.Tx) error {
		outbox, timers := tx.Bucket(bucketOutbox).Cursor(), tx.Bucket(bucketTimers).Cursor()
		return tx.Bucket(bucketActors).ForEach(func(k, v []byte) error {
			a, _, err := parse(k)
			if err != nil {
				return err
			}
			one, err := storedOf(a, k, v, outbox, timers)
			all = append(all, one)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the stored actors: %w", err)
	}
	return all, nil
}

// storedOf tells of an actor with this key and value.
func storedOf(a placement.Actor, key, value []byte, outbox, timers *bbolt.Cursor) (Stored, error) {
	_, exists, since, err := decodeState(value)
	if err != nil {
		return Stored{}, fmt.Errorf("%s: %w", a, err)
	}
	one := Stored{Actor: a, Sends: begins(outbox, key), Timers: begins(timers, key)}
	if !exists {
		one.Ended = since
	}
	return one, nil
}

func begins(c *bbolt.Cursor, prefix []byte) bool {
	k, _ := c.Seek(prefix)
	return k != nil && bytes.HasPrefix(k, prefix)
}

// Pending gives the actors that are coming by a move.
func (s *Store) Pending() (all []*api.TransferRequest, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		all, err = list[api.TransferRequest](tx.Bucket(bucketPending), nil)
		return err
	})
	return all, err
}

// Coming gives an actor that is coming by a move; nil if it isn't.
func (s *Store) Coming(a placement.Actor) (r *api.TransferRequest, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(bucketPending).Get(prefix(a))
		if value == nil {
			return nil
		}
		r = new(api.TransferRequest)
		return proto.Unmarshal(value, r)
	})
	if err != nil {
		return nil, fmt.Errorf("decode %s, which is coming: %w: %w", a, err, errdefs.ErrDataLoss)
	}
	return r, nil
}
