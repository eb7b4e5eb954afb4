package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Tx is what a Write changes.
type Tx struct {
	tx   *bbolt.Tx
	made int64 // actors that exist now and did not, less those the other way round
}

func (t *Tx) exists(key []byte) bool {
	value := t.tx.Bucket(bucketActors).Get(key)
	return len(value) >= header && value[1] == 1
}

// PutState stores an actor's state.
func (t *Tx) PutState(a placement.Actor, state []byte) error {
	key := prefix(a)
	if !t.exists(key) {
		t.made++
	}
	return t.tx.Bucket(bucketActors).Put(key, encodeState(state, true, time.Time{}))
}

// End removes an actor's state and timers. What is known of its lanes stays, and so does what it
// has sent.
func (t *Tx) End(a placement.Actor, now time.Time) error {
	key := prefix(a)
	if t.exists(key) {
		t.made--
	}
	if err := t.tx.Bucket(bucketActors).Put(key, encodeState(nil, false, now)); err != nil {
		return err
	}
	return clearPrefix(t.tx.Bucket(bucketTimers), key)
}

// Stored tells what is stored of an actor, false if nothing is.
func (t *Tx) Stored(a placement.Actor) (Stored, bool, error) {
	key := prefix(a)
	value := t.tx.Bucket(bucketActors).Get(key)
	if value == nil {
		return Stored{}, false, nil
	}
	s, err := storedOf(a, key, value, t.tx.Bucket(bucketOutbox).Cursor(), t.tx.Bucket(bucketTimers).Cursor())
	return s, true, err
}

// Drop removes all of an actor but its pending move.
func (t *Tx) Drop(a placement.Actor) error {
	key := prefix(a)
	if t.exists(key) {
		t.made--
	}
	if err := t.tx.Bucket(bucketActors).Delete(key); err != nil {
		return err
	}
	for _, name := range [][]byte{bucketLanes, bucketOutbox, bucketTimers} {
		if err := clearPrefix(t.tx.Bucket(name), key); err != nil {
			return err
		}
	}
	return nil
}

func clearPrefix(b *bbolt.Bucket, prefix []byte) error {
	c := b.Cursor()
	for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Seek(prefix) {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// PutLane stores what an actor knows of a lane.
func (t *Tx) PutLane(a placement.Actor, lane *api.Lane) error {
	return put(t.tx.Bucket(bucketLanes), append(prefix(a), lane.GetId()...), lane)
}

// DropLane forgets a lane.
func (t *Tx) DropLane(a placement.Actor, id []byte) error {
	return t.tx.Bucket(bucketLanes).Delete(append(prefix(a), id...))
}

// PutSend stores a message that an actor has sent.
func (t *Tx) PutSend(a placement.Actor, s *api.Send) error {
	return put(t.tx.Bucket(bucketOutbox), sendKey(a, s.GetLane(), s.GetNumber()), s)
}

// DropSends forgets the messages of a lane up to one that was answered: also those before it
// that an earlier transaction failed to forget.
func (t *Tx) DropSends(a placement.Actor, lane []byte, upTo uint64) error {
	b := t.tx.Bucket(bucketOutbox)
	begin, end := append(prefix(a), lane...), sendKey(a, lane, upTo)
	c := b.Cursor()
	for k, _ := c.Seek(begin); k != nil && bytes.HasPrefix(k, begin) && bytes.Compare(k, end) <= 0; k, _ = c.Seek(begin) {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

func sendKey(a placement.Actor, lane []byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64(append(prefix(a), lane...), number)
}

// PutTimer stores a timer.
func (t *Tx) PutTimer(a placement.Actor, timer *api.Timer) error {
	return put(t.tx.Bucket(bucketTimers), append(prefix(a), timer.GetName()...), timer)
}

// DropTimer forgets a timer.
func (t *Tx) DropTimer(a placement.Actor, name string) error {
	return t.tx.Bucket(bucketTimers).Delete(append(prefix(a), name...))
}

// PutPending stores an actor that is coming by a move, in place of an earlier one.
func (t *Tx) PutPending(r *api.TransferRequest) error {
	return put(t.tx.Bucket(bucketPending), prefix(placement.Of(r.GetActor())), r)
}

// DropPending forgets an actor that was coming.
func (t *Tx) DropPending(a placement.Actor) error {
	return t.tx.Bucket(bucketPending).Delete(prefix(a))
}

// Adopt stores an actor whole, in place of whatever was stored of it and was pending.
func (t *Tx) Adopt(r *api.TransferRequest, now time.Time) error {
	a := placement.Of(r.GetActor())
	err := t.DropPending(a)
	if err == nil {
		err = t.Drop(a)
	}
	if err != nil {
		return err
	}
	if r.GetExists() {
		err = t.PutState(a, r.GetState())
	} else {
		err = t.End(a, now)
	}
	for i := 0; err == nil && i < len(r.GetLanes()); i++ {
		err = t.PutLane(a, r.GetLanes()[i])
	}
	for i := 0; err == nil && i < len(r.GetOutbox()); i++ {
		err = t.PutSend(a, r.GetOutbox()[i])
	}
	for i := 0; err == nil && i < len(r.GetTimers()); i++ {
		err = t.PutTimer(a, r.GetTimers()[i])
	}
	return err
}

func put(b *bbolt.Bucket, key []byte, m proto.Message) error {
	value, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode a %T: %w", m, err)
	}
	return b.Put(key, value)
}
