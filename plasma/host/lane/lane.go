// Package lane is what an actor knows of its lanes: which message of each it has answered last,
// and with what. It is how a message that comes twice has one effect.
package lane

import (
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

// IDSize is the length of a lane's name in bytes.
const IDSize = 16

// ID names a lane.
type ID [IDSize]byte

// What an actor remembers at most. A lane that was seen within Keep is never forgotten: a new one
// is refused instead.
const (
	Max      = 4096
	MaxBytes = 1 << 20 // of answers
	Keep     = time.Hour
)

// Verdict is what is to be done with a message.
type Verdict int

const (
	// Process it.
	Process Verdict = iota
	// Repeat the last answer.
	Repeat
)

// Table is the lanes of one actor. It is for one goroutine at a time.
type Table struct {
	lanes map[ID]*api.Lane
	bytes int
}

// Of gives a lane's name; ErrInvalidArgument if it is none.
func Of(id []byte) (ID, error) {
	if len(id) != IDSize {
		return ID{}, fmt.Errorf("a lane of %d bytes: want %d: %w", len(id), IDSize, errdefs.ErrInvalidArgument)
	}
	return ID(id), nil
}

// Load begins with what was stored.
func Load(stored []*api.Lane) (Table, error) {
	t := Table{lanes: make(map[ID]*api.Lane, len(stored))}
	for _, l := range stored {
		id, err := Of(l.GetId())
		if err != nil {
			return Table{}, err
		}
		t.lanes[id] = l
		t.bytes += size(l)
	}
	return t, nil
}

// Check says what to do with message n of a lane. ErrFailedPrecondition with LANE is a lane that
// is not known or a number too high, ErrAlreadyExists one that had its effect long ago: a sender
// that has died may not know, and needs no answer. ErrResourceExhausted is a new lane when there
// are too many.
func (t *Table) Check(id ID, n uint64, now time.Time) (Verdict, *api.Lane, error) {
	l := t.lanes[id]
	switch {
	case l == nil && n == 1:
		if len(t.lanes) >= Max && t.oldest(now) == nil {
			return 0, nil, fmt.Errorf("%d lanes are in use: %w", len(t.lanes), errdefs.ErrResourceExhausted)
		}
		return Process, nil, nil
	case l == nil:
		return 0, nil, fmt.Errorf("LANE: message %d of a lane that is not known: %w", n, errdefs.ErrFailedPrecondition)
	case n == l.GetLast()+1:
		return Process, nil, nil
	case n < l.GetLast(), n == l.GetLast() && l.GetError() == dropped:
		return 0, nil, fmt.Errorf("message %d had its effect, and its answer is not kept any more: %w", n, errdefs.ErrAlreadyExists)
	case n == l.GetLast():
		return Repeat, l, nil
	}
	return 0, nil, fmt.Errorf("LANE: message %d after %d: %w", n, l.GetLast(), errdefs.ErrFailedPrecondition)
}

// dropped is in place of an answer that was too much to keep.
const dropped = "\x00dropped"

// Answer notes the answer to message n, and gives what is to be stored, and which lanes are to be
// forgotten.
func (t *Table) Answer(id ID, n uint64, body []byte, errText string, now time.Time) (changed []*api.Lane, forget [][]byte) {
	if t.lanes == nil {
		t.lanes = map[ID]*api.Lane{}
	}
	if old := t.lanes[id]; old != nil {
		t.bytes -= size(old)
	} else if len(t.lanes) >= Max {
		if o := t.oldest(now); o != nil {
			forget = append(forget, o.GetId())
			t.bytes -= size(o)
			delete(t.lanes, ID(o.GetId()))
		}
	}
	// A lane is never changed in place: it may be on its way to the store.
	l := &api.Lane{Id: id[:], Last: n, Body: body, Error: errText, Seen: now.Unix()}
	t.lanes[id] = l
	t.bytes += size(l)
	changed = append(changed, l)
	if t.bytes > MaxBytes {
		changed = append(changed, t.shrink(id)...)
	}
	return changed, forget
}

// shrink drops the answers that were given longest ago until half of what is allowed is left.
func (t *Table) shrink(but ID) (changed []*api.Lane) {
	all := t.All()
	slices.SortFunc(all, func(a, b *api.Lane) int { return int(a.GetSeen() - b.GetSeen()) })
	for _, l := range all {
		if t.bytes <= MaxBytes/2 {
			break
		}
		if ID(l.GetId()) == but || size(l) == 0 || l.GetError() == dropped {
			continue
		}
		short := &api.Lane{Id: l.GetId(), Last: l.GetLast(), Error: dropped, Seen: l.GetSeen()}
		t.bytes += size(short) - size(l)
		t.lanes[ID(l.GetId())] = short
		changed = append(changed, short)
	}
	return changed
}

func (t *Table) oldest(now time.Time) *api.Lane {
	var old *api.Lane
	for _, l := range t.lanes {
		if old == nil || l.GetSeen() < old.GetSeen() {
			old = l
		}
	}
	if old == nil || now.Unix()-old.GetSeen() < int64(Keep/time.Second) {
		return nil
	}
	return old
}

// All gives the lanes, to be stored or moved.
func (t *Table) All() []*api.Lane {
	all := make([]*api.Lane, 0, len(t.lanes))
	for _, l := range t.lanes {
		all = append(all, l)
	}
	return all
}

// Len gives how many there are.
func (t *Table) Len() int { return len(t.lanes) }

func size(l *api.Lane) int { return len(l.GetBody()) + len(l.GetError()) }
