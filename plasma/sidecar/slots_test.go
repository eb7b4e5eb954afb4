package sidecar

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestSlotsGoInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		if err := s.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []int
		for i := range 3 {
			go func() {
				if err := s.acquire(t.Context()); err != nil {
					t.Error(err)
				}
				got = append(got, i) // one at a time has the slot
				s.release()
			}()
			synctest.Wait()
		}
		if len(got) > 0 {
			t.Errorf("%v had the slot that is held", got)
		}
		s.release()
		synctest.Wait()
		if !slices.Equal(got, []int{0, 1, 2}) {
			t.Errorf("they had it in the order %v", got)
		}
	})
}

// A turn that comes back from its call doesn't wait: others wait for it.
func TestSlotIsRetaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		for range 3 { // each begins a call
			if err := s.acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.release()
		}
		for range 3 {
			s.retake()
		}
		got := false
		go func() { got = s.acquire(t.Context()) == nil }()
		s.release()
		s.release()
		synctest.Wait()
		if got {
			t.Error("a slot was given while one turn still had it")
		}
		s.release()
		synctest.Wait()
		if !got {
			t.Error("no slot, though all were given back")
		}
	})
}

func TestSlotIsWaitedForNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		if err := s.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		s.release()
		if err := s.acquire(t.Context()); err != nil || s.free != 0 || len(s.waiting) != 0 {
			t.Errorf("%v: %d are free, %d wait", err, s.free, len(s.waiting))
		}
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backoff
		begin := time.Now()
		for range 10 {
			b.pause(t.Context())
		}
		// 10, 20, ..., 640 ms, and then a second each.
		if took := time.Since(begin); took != 1270*time.Millisecond+3*time.Second {
			t.Errorf("%s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if b.pause(ctx) {
			t.Error("it waited for what had ended")
		}
	})
}
