package plasma

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"
)

// answered is a call of an actor that says in which of its lives it is.
type answered struct {
	life, server string
	count        int64
	call, answer time.Duration
}

// lives are what the actors of a service that may lose their states have answered. Each begins
// anew when its state is lost; but once somebody was answered by a later life, nobody may be by
// an earlier one: then two would have the actor.
type lives struct {
	t     *testing.T
	began time.Time
	stop  context.CancelFunc
	load  sync.WaitGroup

	mu  sync.Mutex
	all map[string][]answered // by actor
}

// follow has clients ask so many actors all the time.
func follow(t *testing.T, actors int, clients ...*client) *lives {
	ctx, stop := context.WithCancel(context.Background())
	l := &lives{t: t, began: time.Now(), stop: stop, all: map[string][]answered{}}
	t.Cleanup(func() { stop(); l.load.Wait() })
	for _, c := range clients {
		for i := range actors {
			l.load.Go(func() {
				for pace(ctx) {
					l.ask(c, fmt.Sprint("a", i))
				}
			})
		}
	}
	return l
}

func (l *lives) ask(c *client, key string) {
	call := time.Since(l.began)
	got, err := c.call("Life", key, "count", "", brief)
	fields := strings.Fields(got)
	if err != nil || len(fields) != 3 {
		return // there may be nobody to answer
	}
	a := answered{life: fields[0], server: fields[2], call: call, answer: time.Since(l.began)}
	if _, err := fmt.Sscan(fields[1], &a.count); err != nil {
		l.t.Errorf("%s answers %q", key, got)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[key] = append(l.all[key], a)
}

// served tells whether all actors were answered by a client's call that has begun since.
func (l *lives) served(c *client, actors int) error {
	for i := range actors {
		if _, err := c.call("Life", fmt.Sprint("a", i), "count", "", brief); err != nil {
			return err
		}
	}
	return nil
}

// check ends the load and tells whether an actor was in two places at once. It gives how many
// lives there were.
func (l *lives) check() (calls, count int) {
	l.t.Helper()
	l.stop()
	l.load.Wait()
	for key, all := range l.all {
		if err := once(all); err != nil {
			l.t.Errorf("%s: %v", key, err)
		}
		calls += len(all)
		seen := map[string]bool{}
		for _, a := range all {
			seen[a.life] = true
		}
		count += len(seen)
	}
	return calls, count
}

// once tells whether an actor can have been in one place at a time.
func once(all []answered) error {
	first, last := map[string]time.Duration{}, map[string]time.Duration{} // of a life: answer, call
	seen := map[string]answered{}
	for _, a := range all {
		id := fmt.Sprint(a.life, " ", a.count)
		if b, twice := seen[id]; twice {
			return fmt.Errorf("%s has answered %d on %s and on %s", a.life, a.count, b.server, a.server)
		}
		seen[id] = a
		if _, known := first[a.life]; !known {
			first[a.life] = math.MaxInt64
		}
		first[a.life], last[a.life] = min(first[a.life], a.answer), max(last[a.life], a.call)
	}
	var errs error
	for _, a := range all {
		for life := range first {
			if life != a.life && first[life] < a.call && a.answer < last[life] {
				errs = fmt.Errorf("%s has answered on %s while %s was there before and after: %s to %s within %s to %s",
					a.life, a.server, life, a.call, a.answer, first[life], last[life])
			}
		}
	}
	return errs
}

// TestOracleOfLives checks the check.
func TestOracleOfLives(t *testing.T) {
	at := func(life string, count int64, call, answer time.Duration) answered {
		return answered{life: life, server: "s", count: count, call: call, answer: answer}
	}
	for _, c := range []struct {
		name string
		all  []answered
		bad  bool
	}{
		{"one life", []answered{at("a", 1, 0, 1), at("a", 2, 2, 3)}, false},
		{"a second life", []answered{at("a", 1, 0, 1), at("b", 1, 2, 3), at("b", 2, 4, 5)}, false},
		{"an answer that is late", []answered{at("a", 1, 0, 1), at("b", 1, 3, 4), at("a", 2, 2, 9)}, false},
		{"the first is back", []answered{at("a", 1, 0, 1), at("b", 1, 2, 3), at("a", 2, 4, 5)}, true},
		{"a number twice", []answered{at("a", 1, 0, 1), at("a", 1, 2, 3)}, true},
	} {
		if err := once(c.all); (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

var errNotYet = errors.New("not yet")
