package store

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// version is the first byte of a stored state.
const version = 1

// header is what is before a state: the version, whether the actor exists, and since when it
// doesn't (Unix seconds).
const header = 1 + 1 + 8

// prefix is how the keys of an actor begin. No actor's is the beginning of another's.
func prefix(a placement.Actor) []byte {
	key := make([]byte, 0, len(a.Type)+len(a.Key)+4+40)
	key = binary.AppendUvarint(key, uint64(len(a.Type)))
	key = append(key, a.Type...)
	key = binary.AppendUvarint(key, uint64(len(a.Key)))
	return append(key, a.Key...)
}

// parse gives the actor that a key begins with, and the rest.
func parse(key []byte) (placement.Actor, []byte, error) {
	kind, rest, err := field(key)
	if err != nil {
		return placement.Actor{}, nil, err
	}
	name, rest, err := field(rest)
	if err != nil {
		return placement.Actor{}, nil, err
	}
	return placement.Actor{Type: kind, Key: name}, rest, nil
}

func field(b []byte) (string, []byte, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return "", nil, fmt.Errorf("a stored key %x is cut off: %w", b, errdefs.ErrDataLoss)
	}
	b = b[size:]
	return string(b[:n]), b[n:], nil
}

func encodeState(state []byte, exists bool, now time.Time) []byte {
	value := make([]byte, header, header+len(state))
	value[0] = version
	if exists {
		value[1] = 1
	} else {
		binary.BigEndian.PutUint64(value[2:], uint64(now.Unix()))
	}
	return append(value, state...)
}

// decodeState gives a stored state, whether the actor exists, and if not, since when.
func decodeState(value []byte) (state []byte, exists bool, since time.Time, err error) {
	if len(value) < header {
		return nil, false, since, fmt.Errorf("a stored state of %d bytes: %w", len(value), errdefs.ErrDataLoss)
	}
	if value[0] != version {
		return nil, false, since, fmt.Errorf("a stored state of version %d: want %d: %w", value[0], version, errdefs.ErrDataLoss)
	}
	return value[header:], value[1] == 1, time.Unix(int64(binary.BigEndian.Uint64(value[2:header])), 0), nil
}
