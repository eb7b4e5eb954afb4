package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// start of the time that tests give.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// attachment is a record of a container that is attached, with low for its class.
func attachment(container, ifname string) *endpoint.Record {
	return &endpoint.Record{ContainerID: container, IfName: ifname, Complete: true, Priority: priority.Policy{Default: priority.Low}}
}

// classesOf is the part of an agent that has reservations, over records, as after a
// start.
func classesOf(root string, records ...*endpoint.Record) *Agent {
	a := &Agent{root: root, endpoints: map[key]*endpoint.Record{}}
	a.reservations.rearm = make(chan struct{}, 1)
	for _, r := range records {
		a.endpoints[keyOf(r)] = r
	}
	return a
}

// detached forgets an attachment as forget does, without its file.
func detached(a *Agent, k key) {
	a.mu.Lock()
	delete(a.endpoints, k)
	a.mu.Unlock()
	a.endReservations(k)
}

func (r Reservation) in(a *Agent, t *testing.T, ttl time.Duration, now time.Time) {
	t.Helper()
	if _, err := a.reserve(t.Context(), r, ttl, now); err != nil {
		t.Fatal(err)
	}
}

func TestWhichReservationHolds(t *testing.T) {
	eth0, eth1 := attachment("c", "eth0"), attachment("c", "eth1")
	a := classesOf(t.TempDir(), eth0, eth1, attachment("d", "eth0"))
	changes := 0
	a.reservations.changed = func() { changes++ }
	wants := func(step string, changed bool, want0, want1 priority.Policy) {
		t.Helper()
		if got0, got1 := a.policyOf(eth0), a.policyOf(eth1); !got0.Equal(want0) || !got1.Equal(want1) {
			t.Errorf("%s: %+v and %+v, want %+v and %+v", step, got0, got1, want0, want1)
		}
		if changed != (changes > 0) {
			t.Errorf("%s: brought in force %d times", step, changes)
		}
		changes = 0
	}
	fixed := func(c priority.Class) priority.Policy { return priority.Policy{Default: c, Fixed: true} }
	low := eth0.Priority

	wants("nobody's", false, low, low)
	Reservation{ContainerID: "c", Class: priority.High, Owner: "plasma"}.in(a, t, 0, start)
	wants("all of a container", true, fixed(priority.High), fixed(priority.High))
	Reservation{ContainerID: "c", IfName: "eth1", Class: priority.Normal, Owner: "operator"}.in(a, t, 10*time.Second, start)
	wants("the last of two owners", true, fixed(priority.High), fixed(priority.Normal))
	Reservation{ContainerID: "c", Class: priority.High, Owner: "plasma"}.in(a, t, time.Minute, start)
	wants("a renewal is no stronger", false, fixed(priority.High), fixed(priority.Normal))
	Reservation{ContainerID: "c", Class: priority.Low, Owner: "plasma"}.in(a, t, time.Minute, start)
	wants("another class is", true, fixed(priority.Low), fixed(priority.Low))
	Reservation{ContainerID: "d", Class: priority.Low, Owner: "plasma"}.in(a, t, 0, start)
	wants("another container", true, fixed(priority.Low), fixed(priority.Low))
	if ended, err := a.release(t.Context(), "c", "plasma", start); err != nil || len(ended) != 1 || ended[0].Class != priority.Low {
		t.Errorf("%+v, %v", ended, err)
	}
	wants("released", true, low, fixed(priority.Normal))
	if ended, err := a.release(t.Context(), "c", "plasma", start); err != nil || ended == nil || len(ended) != 0 {
		t.Errorf("%+v, %v", ended, err)
	}
	wants("released twice", false, low, fixed(priority.Normal))
	if next := a.expireReservations(t.Context(), start.Add(9*time.Second)); !next.Equal(start.Add(10 * time.Second)) {
		t.Errorf("the next expires at %s", next)
	}
	wants("a second before its end", false, low, fixed(priority.Normal))
	if list := a.reserved(start.Add(10 * time.Second)); len(list) != 1 || list[0].ContainerID != "d" {
		t.Errorf("%+v", list)
	}
	if next := a.expireReservations(t.Context(), start.Add(10*time.Second)); !next.IsZero() {
		t.Errorf("the next expires at %s", next)
	}
	wants("expired", true, low, low)

	Reservation{ContainerID: "c", Class: priority.High, Owner: "x"}.in(a, t, 0, start)
	Reservation{ContainerID: "c", IfName: "eth0", Class: priority.High, Owner: "x"}.in(a, t, 0, start)
	detached(a, keyOf(eth0))
	if list := a.reserved(start); len(list) != 2 || list[1].IfName != "" {
		t.Errorf("with one of two interfaces gone: %+v", list)
	}
	detached(a, keyOf(eth1))
	if list := a.reserved(start); len(list) != 1 || list[0].ContainerID != "d" {
		t.Errorf("with both gone: %+v", list)
	}
}

func TestReserveRefused(t *testing.T) {
	begun, offered := attachment("begun", "eth0"), attachment("offer", "eth0")
	begun.Complete, offered.Offer = false, "offer"
	a := classesOf(t.TempDir(), attachment("c", "eth0"), begun, offered)
	a.reservations.changed = func() { t.Error("brought in force") }
	refuses := func(r Reservation, code uint) {
		t.Helper()
		before := a.reserved(start)
		_, err := a.reserve(t.Context(), r, 0, start)
		var coded *types.Error
		if err == nil || errors.As(err, &coded) != (code != 0) || code != 0 && coded.Code != code {
			t.Errorf("%+v: %v, want code %d", r, err, code)
		}
		if after := a.reserved(start); !slices.Equal(before, after) {
			t.Errorf("%+v, before %+v", after, before)
		}
	}
	for _, container := range []string{"d", "begun", "offer"} {
		refuses(Reservation{ContainerID: container, Owner: "o"}, types.ErrUnknownContainer)
	}
	refuses(Reservation{ContainerID: "c", IfName: "eth1", Owner: "o"}, types.ErrUnknownContainer)
	a.reservations.changed = nil
	for i := range mostReservations {
		Reservation{ContainerID: "c", Owner: fmt.Sprint(i)}.in(a, t, 0, start)
	}
	a.reservations.changed = func() { t.Error("brought in force") }
	refuses(Reservation{ContainerID: "c", Owner: "one more"}, types.ErrInvalidNetworkConfig)

	// What can't be kept over a restart isn't promised.
	a.root = filepath.Join(a.root, "gone")
	refuses(Reservation{ContainerID: "c", Class: priority.High, Owner: "1"}, 0)
	if ended, err := a.release(t.Context(), "c", "1", start); err == nil || len(a.reserved(start)) != mostReservations {
		t.Errorf("%+v, %v", ended, err)
	}
	// An attachment that is gone has none, whatever the disk says.
	a.reservations.changed = nil
	detached(a, key{"c", "eth0"})
	if list := a.reserved(start); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

// A reservation ends when its time is over, also one that another's change brings forward.
func TestExpiry(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c, d := attachment("c", "eth0"), attachment("d", "eth0")
		a := classesOf(root, c, d)
		began, changed := time.Now(), []time.Duration{}
		a.reservations.changed = func() { changed = append(changed, time.Since(began)) }
		go func() {
			if err := a.watchReservations(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		Reservation{ContainerID: "c", Class: priority.High, Owner: "o"}.in(a, t, time.Hour, time.Now())
		Reservation{ContainerID: "d", Class: priority.High, Owner: "o"}.in(a, t, time.Minute, time.Now())
		time.Sleep(30 * time.Second)
		Reservation{ContainerID: "d", Class: priority.High, Owner: "o"}.in(a, t, time.Minute, time.Now())
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		if !a.policyOf(d).Fixed {
			t.Error("ended too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if a.policyOf(d).Fixed || !a.policyOf(c).Fixed {
			t.Errorf("%+v", a.reserved(time.Now()))
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if want := []time.Duration{0, 0, 90 * time.Second, time.Hour}; !slices.Equal(changed, want) || len(a.reserved(began)) != 0 {
			t.Errorf("changed after %v, want %v", changed, want)
		}
	})
}

func TestReservationsOfTheLastRun(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []Reservation
		bad  bool
	}{
		"none":    {text: `[]`},
		"nothing": {text: `null`},
		"one": {
			text: `[{"containerID":"c","class":"high","owner":"o","expires":"2026-01-02T03:04:06Z"}]`,
			want: []Reservation{{ContainerID: "c", Class: priority.High, Owner: "o", Expires: start.Add(time.Second)}},
		},
		"expired":          {text: `[{"containerID":"c","class":"high","owner":"o","expires":"2026-01-02T03:04:05Z"}]`},
		"of who is gone":   {text: `[{"containerID":"x","class":"high","owner":"o"}]`},
		"of one interface": {text: `[{"containerID":"c","ifname":"eth1","class":"high","owner":"o"}]`},
		"cut short":        {text: `[{"containerID"`, bad: true},
		"unknown class":    {text: `[{"containerID":"c","class":"urgent","owner":"o"}]`, bad: true},
		"nobody's":         {text: `[{"containerID":"c","class":"low"}]`, bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			a := classesOf(t.TempDir(), attachment("c", "eth0"))
			if err := os.WriteFile(filepath.Join(a.root, reservationsFile), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			err := a.loadReservations(start)
			if got := a.reserved(start); (err != nil) != c.bad || !slices.Equal(got, c.want) {
				t.Errorf("%+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

// model is the reservations as they are meant to be, told in another way: by when the class
// of each was chosen.
type model struct {
	chosen  map[string]int // by container, interface and owner
	made    map[string]Reservation
	counter int
}

func (m *model) policyOf(r *endpoint.Record, now time.Time) priority.Policy {
	policy, newest := r.Priority, 0
	for name, s := range m.made {
		if s.ContainerID == r.ContainerID && (s.IfName == "" || s.IfName == r.IfName) &&
			(s.Expires.IsZero() || now.Before(s.Expires)) && m.chosen[name] > newest {
			policy, newest = priority.Policy{Default: s.Class, Fixed: true}, m.chosen[name]
		}
	}
	return policy
}

// Any sequence of calls, with restarts in between, leaves the classes as the model has them;
// and whenever one changes it is brought in force before the call returns.
func TestReservationsAgainstModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 7))
		root := t.TempDir()
		var records []*endpoint.Record
		for _, c := range []string{"a", "b"} {
			for _, i := range []string{"eth0", "eth1"} {
				records = append(records, attachment(c, i))
			}
		}
		a, now := classesOf(root, records...), start
		m := model{map[string]int{}, map[string]Reservation{}, 0}
		var inForce []priority.Policy
		bring := func() {
			inForce = nil
			for _, e := range records {
				inForce = append(inForce, a.policyOf(e))
			}
		}
		bring()
		a.reservations.changed = bring
		for step := range 60 {
			now = now.Add(time.Duration(r.IntN(3)) * time.Second)
			a.expireReservations(t.Context(), now)
			for name, s := range m.made {
				if s.expired(now) {
					delete(m.made, name)
				}
			}
			container, owner := []string{"a", "b"}[r.IntN(2)], fmt.Sprint("owner", r.IntN(3))
			switch r.IntN(6) {
			case 0, 1, 2:
				s := Reservation{ContainerID: container, IfName: []string{"", "eth0", "eth1"}[r.IntN(3)], Class: priority.Class(r.IntN(3)), Owner: owner}
				ttl := time.Duration(r.IntN(10)) * time.Second
				name := strings.Join([]string{s.ContainerID, s.IfName, s.Owner}, "/")
				made, err := a.reserve(t.Context(), s, ttl, now)
				there := slices.ContainsFunc(records, func(e *endpoint.Record) bool { return a.record(keyOf(e)) != nil && s.covers(keyOf(e)) })
				if (err == nil) != there {
					t.Fatalf("seed %d, step %d: %+v: %v", seed, step, s, err)
				}
				if err != nil {
					break
				}
				if old, renewed := m.made[name]; !renewed || old.Class != s.Class {
					m.counter++
					m.chosen[name] = m.counter
				}
				m.made[name] = made
			case 3:
				if _, err := a.release(t.Context(), container, owner, now); err != nil {
					t.Fatal(err)
				}
				for name, s := range m.made {
					if s.ContainerID == container && s.Owner == owner {
						delete(m.made, name)
					}
				}
			case 4: // an interface goes, and comes back later or never
				e := records[r.IntN(len(records))]
				if a.record(keyOf(e)) == nil {
					a.mu.Lock()
					a.endpoints[keyOf(e)] = e
					a.mu.Unlock()
					break
				}
				detached(a, keyOf(e))
				for name, s := range m.made {
					left := slices.ContainsFunc(records, func(e *endpoint.Record) bool { return a.record(keyOf(e)) != nil && s.covers(keyOf(e)) })
					if !left {
						delete(m.made, name)
					}
				}
			case 5: // the agent is killed and starts again
				old := a
				a = classesOf(root)
				a.endpoints = old.endpoints
				if err := a.loadReservations(now); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(a.reserved(now), old.reserved(now)) {
					t.Fatalf("seed %d, step %d: %+v, before the restart %+v", seed, step, a.reserved(now), old.reserved(now))
				}
				a.reservations.changed = bring
				bring()
			}
			for i, e := range records {
				if want := m.policyOf(e, now); !a.policyOf(e).Equal(want) || !inForce[i].Equal(want) {
					t.Fatalf("seed %d, step %d: %s %s is %+v, in force is %+v, want %+v", seed, step, e.ContainerID, e.IfName, a.policyOf(e), inForce[i], want)
				}
			}
		}
	}
}
