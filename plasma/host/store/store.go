// Package store keeps the actors of a host in a file: their states, what they know of lanes, what
// they have sent and that is not answered, their timers, and those that are coming by a move.
//
// What is written meanwhile goes into one transaction (group commit). A write belongs to a
// Chain: when one fails, all that were begun on top of it fail too.
package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/peregrine-dev/peregrine/plasma/host/failpoint"
)

// File is the name of the file in the directory of a server's state.
const File = "state.db"

// What a transaction takes at most; the next one takes the rest.
const (
	maxWrites = 4096
	maxBytes  = 32 << 20
)

var (
	bucketActors  = []byte("actors")
	bucketLanes   = []byte("lanes")
	bucketOutbox  = []byte("outbox")
	bucketTimers  = []byte("timers")
	bucketPending = []byte("pending")
	buckets       = [][]byte{bucketActors, bucketLanes, bucketOutbox, bucketTimers, bucketPending}
)

// Chain orders the writes of an actor: when one fails, so do all that follow in the same chain.
type Chain struct{ failed atomic.Bool }

// Failed tells whether a write has failed.
func (c *Chain) Failed() bool { return c.failed.Load() }

// Write is a change that is stored whole or not at all.
type Write struct {
	// Chain may be nil.
	Chain *Chain
	// Bytes is about how much it stores.
	Bytes int
	// Apply makes the change. It is called by the store's goroutine.
	Apply func(*Tx) error
	// Done, if any, is called once, by the store's goroutine: when the change is synced, or has
	// failed. It may not wait for the store.
	Done func(error)
}

// Store is an open file. All methods may be called by several goroutines at once.
type Store struct {
	db *bbolt.DB

	mu     sync.Mutex
	queue  []*Write
	closed bool
	wake   chan struct{}
	ended  chan struct{}

	actors atomic.Int64 // that exist
	fail   atomic.Pointer[error]
}

// Open opens or makes the file in a directory. It is ErrFailedPrecondition while another process
// has it open.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the state: %w", err)
	}
	path := filepath.Join(dir, File)
	// bbolt locks the file; the kernel lets go of it when the process dies.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: 2 * time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("another process has %s open: %w", path, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s := &Store{db: db, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = s.count()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	go s.run()
	return s, nil
}

// Close stores what was submitted and closes the file. Writes after it fail.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.signal()
	}
	s.mu.Unlock()
	<-s.ended
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close the state: %w", err)
	}
	return nil
}

// Fail makes all transactions fail with an error from now on, as a full disk would, until it is
// called with nil. It is for tests.
func (s *Store) Fail(err error) {
	if err == nil {
		s.fail.Store(nil)
		return
	}
	s.fail.Store(&err)
}

// Submit has a write stored. Writes take place in the order of the calls.
func (s *Store) Submit(w *Write) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		w.end(fmt.Errorf("the state is closed: %w", errdefs.ErrUnavailable))
		return
	}
	s.queue = append(s.queue, w)
	s.signal()
	s.mu.Unlock()
}

// Do stores a change and waits for it.
func (s *Store) Do(apply func(*Tx) error) error {
	done := make(chan error, 1)
	s.Submit(&Write{Apply: apply, Done: func(err error) { done <- err }})
	return <-done
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (w *Write) end(err error) {
	if err != nil && w.Chain != nil {
		w.Chain.failed.Store(true)
	}
	if w.Done != nil {
		w.Done(err)
	}
}

func (s *Store) run() {
	defer close(s.ended)
	for range s.wake {
		for {
			batch, closed := s.take()
			if len(batch) == 0 {
				if closed {
					return
				}
				break
			}
			s.commit(batch)
		}
	}
}

// take gives the next writes, and whether there will be no more.
func (s *Store) take() ([]*Write, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for n < len(s.queue) && n < maxWrites && size < maxBytes {
		size += s.queue[n].Bytes
		n++
	}
	batch := s.queue[:n:n]
	s.queue = s.queue[n:]
	if len(s.queue) == 0 {
		s.queue = nil
	}
	return batch, s.closed
}

func (s *Store) commit(batch []*Write) {
	good := batch[:0:0]
	for _, w := range batch {
		if w.Chain != nil && w.Chain.Failed() {
			w.end(fmt.Errorf("a turn before it could not be stored: %w", errdefs.ErrAborted))
			continue
		}
		good = append(good, w)
	}
	if len(good) == 0 {
		return
	}
	failpoint.Hit(failpoint.CommitBefore)
	err := s.update(good)
	failpoint.Hit(failpoint.CommitAfter)
	if err != nil {
		err = fmt.Errorf("store: %w: %w", err, errdefs.ErrAborted)
		// All chains break before the first answer, so that nothing new is begun on top.
		for _, w := range good {
			if w.Chain != nil {
				w.Chain.failed.Store(true)
			}
		}
	}
	for _, w := range good {
		w.end(err)
	}
}

func (s *Store) update(batch []*Write) error {
	if err := s.fail.Load(); err != nil {
		return *err
	}
	var made int64
	err := s.db.Update(func(btx *bbolt.Tx) error {
		tx := &Tx{tx: btx}
		for _, w := range batch {
			if err := w.Apply(tx); err != nil {
				return err
			}
		}
		made = tx.made
		return nil
	})
	if err == nil {
		s.actors.Add(made)
	}
	return err
}
