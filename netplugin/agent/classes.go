package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// reservationsFile has the reservations, so that they outlive the agent. They go with a
// reboot, as the attachments do.
const reservationsFile = "reservations.json"

// mostReservations is how many a container may have: a sound owner needs one, or one for each
// interface.
const mostReservations = 16

// Reservation is a class that somebody gave a container while it runs. It is stronger than
// all that the container was attached with; of several, the one whose class was chosen last
// is. It ends when its owner releases it, when it expires, or with the attachment.
type Reservation struct {
	ContainerID string         `json:"containerID"`
	IfName      string         `json:"ifname,omitempty"` // "": all of the container's
	Class       priority.Class `json:"class"`
	Owner       string         `json:"owner"`            // who made it, and may end it
	Expires     time.Time      `json:"expires,omitzero"` // zero: never
}

func (r *Reservation) covers(k key) bool {
	return r.ContainerID == k.container && (r.IfName == "" || r.IfName == k.ifname)
}

func (r *Reservation) expired(now time.Time) bool {
	return !r.Expires.IsZero() && !r.Expires.After(now)
}

// reservations are an agent's.
type reservations struct {
	// change is held while the list is changed, written down and brought in force.
	change sync.Mutex

	mu   sync.Mutex
	list []Reservation // the weakest first; it is replaced, never changed

	// changed brings the classes in force, as policyOf has them now; nil if there is nobody
	// to. It is set before the agent is used.
	changed func()
	rearm   chan struct{} // the next one to expire may be another
}

func (s *reservations) current() []Reservation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list
}

// policyOf is how the packets of an attachment are classed now: as its record says, unless
// somebody reserved a class.
func (a *Agent) policyOf(r *endpoint.Record) priority.Policy {
	for _, s := range slices.Backward(a.reservations.current()) {
		if s.covers(keyOf(r)) {
			return priority.Policy{Default: s.Class, Fixed: true}
		}
	}
	return r.Priority
}

// classesChanged brings the classes in force. Reservations promise that they hold when they
// are answered: it returns when they do. It is not called twice at a time.
func (a *Agent) classesChanged() {
	if a.reservations.changed != nil {
		a.reservations.changed()
	}
}

// reserve makes or renews a reservation, which r has the rest of. A renewal with the same
// class stays as strong as it was: who renews says nothing new.
func (a *Agent) reserve(ctx context.Context, r Reservation, ttl time.Duration, now time.Time) (Reservation, error) {
	if ttl > 0 {
		r.Expires = now.Add(ttl)
	}
	a.reservations.change.Lock()
	defer a.reservations.change.Unlock()
	if !a.attached(func(k key) bool { return r.covers(k) }) {
		return r, types.NewError(types.ErrUnknownContainer, fmt.Sprintf("no container %s is attached here%s", r.ContainerID, byInterface(r.IfName)), "see falcond endpoints")
	}
	list := without(a.reservations.current(), func(s *Reservation) bool { return s.expired(now) })
	i := slices.IndexFunc(list, func(s Reservation) bool {
		return s.ContainerID == r.ContainerID && s.IfName == r.IfName && s.Owner == r.Owner
	})
	switch {
	case i >= 0 && list[i].Class == r.Class:
		list[i] = r
	case i >= 0:
		list = append(slices.Delete(list, i, i+1), r)
	default:
		list = append(list, r)
	}
	if of := len(list) - len(without(list, func(s *Reservation) bool { return s.ContainerID == r.ContainerID })); of > mostReservations {
		return r, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("container %s has %d reservations already", r.ContainerID, mostReservations), "release one; see falcond reservations")
	}
	return r, a.setReservations(ctx, list)
}

func byInterface(name string) string {
	if name == "" {
		return ""
	}
	return " by the interface " + name
}

// release ends what an owner has reserved for a container.
func (a *Agent) release(ctx context.Context, container, owner string, now time.Time) ([]Reservation, error) {
	a.reservations.change.Lock()
	defer a.reservations.change.Unlock()
	ended := []Reservation{}
	list := without(a.reservations.current(), func(s *Reservation) bool {
		if s.expired(now) {
			return true
		}
		if s.ContainerID != container || s.Owner != owner {
			return false
		}
		ended = append(ended, *s)
		return true
	})
	if err := a.setReservations(ctx, list); err != nil {
		return nil, err
	}
	return ended, nil
}

// reserved are the reservations that hold.
func (a *Agent) reserved(now time.Time) []Reservation {
	return without(a.reservations.current(), func(s *Reservation) bool { return s.expired(now) })
}

// attached tells whether a container has an attachment that of is true for.
func (a *Agent) attached(of func(key) bool) bool {
	return slices.ContainsFunc(a.records(), func(r *endpoint.Record) bool {
		return r.Complete && r.Offer != r.ContainerID && of(keyOf(r))
	})
}

// setReservations writes a list down and brings it in force. If it can't be written nothing
// has changed. The caller holds change.
func (a *Agent) setReservations(ctx context.Context, list []Reservation) error {
	before := a.reservations.current()
	if slices.Equal(before, list) {
		return nil
	}
	if err := saveJSON(a.root, reservationsFile, list); err != nil {
		return fmt.Errorf("write the reservations down, for the agent's next start: %w", err)
	}
	a.replaceReservations(ctx, before, list)
	return nil
}

// replaceReservations brings a list in force. The caller holds change.
func (a *Agent) replaceReservations(ctx context.Context, before, list []Reservation) {
	a.reservations.mu.Lock()
	a.reservations.list = list
	a.reservations.mu.Unlock()
	select {
	case a.reservations.rearm <- struct{}{}:
	default: // it is to look already
	}
	logChange(ctx, list, before, "reserved a class")
	logChange(ctx, before, list, "a class is reserved no more")
	if !slices.EqualFunc(before, list, func(x, y Reservation) bool {
		return x.ContainerID == y.ContainerID && x.IfName == y.IfName && x.Class == y.Class
	}) {
		a.classesChanged()
	}
}

// logChange tells of the reservations that others don't have; a renewal is no news.
func logChange(ctx context.Context, list, others []Reservation, what string) {
	there := make(map[Reservation]bool, len(others))
	for _, r := range others {
		r.Expires = time.Time{}
		there[r] = true
	}
	for _, r := range list {
		if r.Expires = (time.Time{}); !there[r] {
			log.G(ctx).WithFields(log.Fields{
				"container": r.ContainerID, "interface": r.IfName, "class": r.Class, "owner": r.Owner,
			}).Info(what)
		}
	}
}

// drop ends reservations, whether or not that can be written down: the next start drops them
// as well.
func (a *Agent) drop(ctx context.Context, ended func(*Reservation) bool) {
	a.reservations.change.Lock()
	defer a.reservations.change.Unlock()
	before := a.reservations.current()
	list := without(before, ended)
	if len(list) == len(before) {
		return
	}
	if err := saveJSON(a.root, reservationsFile, list); err != nil {
		log.G(ctx).WithError(err).Warn("write down that reservations have ended")
	}
	a.replaceReservations(ctx, before, list)
}

// endReservations ends those of an attachment that is no more.
func (a *Agent) endReservations(gone key) {
	a.drop(context.Background(), func(s *Reservation) bool {
		return s.covers(gone) && !a.known(s)
	})
}

// known tells whether a reservation has an attachment, be it one that is just coming or going.
func (a *Agent) known(s *Reservation) bool {
	return slices.ContainsFunc(a.records(), func(r *endpoint.Record) bool { return s.covers(keyOf(r)) })
}

// expireReservations ends those whose time is over, and returns when the next one's is; the
// zero time if none will be.
func (a *Agent) expireReservations(ctx context.Context, now time.Time) (next time.Time) {
	a.drop(ctx, func(s *Reservation) bool { return s.expired(now) })
	for _, s := range a.reservations.current() {
		if !s.Expires.IsZero() && (next.IsZero() || s.Expires.Before(next)) {
			next = s.Expires
		}
	}
	return next
}

// watchReservations ends each when its time is over, until ctx is done.
func (a *Agent) watchReservations(ctx context.Context) error {
	for {
		var over <-chan time.Time // never
		if next := a.expireReservations(ctx, time.Now()); !next.IsZero() {
			over = time.After(time.Until(next))
		}
		select {
		case <-over:
		case <-a.reservations.rearm:
		case <-ctx.Done():
			return nil
		}
	}
}

// loadReservations finds those of the last run that still hold: that have time left, and an
// attachment.
func (a *Agent) loadReservations(now time.Time) error {
	text, err := os.ReadFile(filepath.Join(a.root, reservationsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var list []Reservation
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	for _, r := range list {
		if err := r.validate(); err != nil {
			return err
		}
	}
	a.reservations.list = without(list, func(s *Reservation) bool { return s.expired(now) || !a.known(s) })
	return nil
}

// without is a new list of those that out is false for.
func without(list []Reservation, out func(*Reservation) bool) []Reservation {
	kept := make([]Reservation, 0, len(list)+1)
	for i := range list {
		if !out(&list[i]) {
			kept = append(kept, list[i])
		}
	}
	return kept
}
