package sidecar

import (
	"context"
	"slices"
	"sync"
)

// slots bounds how many turns the application works on. A turn that waits for a call gives its
// slot back meanwhile, or turns that wait for each other's could have all of them.
type slots struct {
	mu      sync.Mutex
	free    int // below zero after turns came back from their calls
	waiting []chan struct{}
}

func newSlots(n int) *slots { return &slots{free: n} }

// acquire waits for a slot, those who came first getting theirs first.
func (s *slots) acquire(ctx context.Context) error {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	s.waiting = append(s.waiting, mine)
	s.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.waiting, mine)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 { // it was given at the same time
		s.release()
	}
	return context.Cause(ctx)
}

// release gives a slot back.
func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free++; s.free > 0 && len(s.waiting) > 0 {
		s.free--
		close(s.waiting[0])
		s.waiting = slices.Delete(s.waiting, 0, 1)
	}
}

// retake takes a slot that was given back, at once: those that have none yet wait the longer.
func (s *slots) retake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free--
}
