package global

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/place"
)

// A reign is the time from an election to the next. One goroutine runs it; asked hands others'
// requests to it.
type reign struct {
	*Manager
	*place.Leadership
	profiles *profiles
	services map[string]*keeper
	began    time.Time
	asked    chan request

	mu     sync.Mutex
	urgent map[string]bool // services with an overloaded server
	hurry  chan struct{}
}

// request is something that the reign does between two looks.
type request struct {
	do   func(context.Context) error
	done chan error
}

const (
	// look is how often everything is looked at, if nothing happens.
	look = time.Second
	// breath is between two plans of a service at least, however urgent.
	breath = 200 * time.Millisecond
)

func newReign(m *Manager, l *place.Leadership) *reign {
	r := &reign{
		Manager: m, Leadership: l, services: map[string]*keeper{}, began: time.Now(),
		asked: make(chan request), urgent: map[string]bool{}, hurry: make(chan struct{}, 1),
	}
	r.profiles = &profiles{
		nodes: m.Nodes, urgent: r.hasten,
		last: map[string]heard{}, follows: map[string]*following{},
	}
	return r
}

// hasten has services planned for at once.
func (r *reign) hasten(services map[string]bool) {
	r.mu.Lock()
	maps.Copy(r.urgent, services)
	r.mu.Unlock()
	select {
	case r.hurry <- struct{}{}:
	default:
	}
}

// run manages until ctx is done or another was elected.
func (r *reign) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := r.Mirror.Changed()
		if err := r.look(ctx); err != nil {
			return err
		}
		timer.Reset(r.next())
		select {
		case <-ctx.Done():
			return nil
		case <-r.Lost():
			return nil
		case <-changed:
		case <-r.hurry:
		case <-timer.C:
		case q := <-r.asked:
			q.done <- q.do(ctx)
		}
	}
}

// next is how long nothing has to be looked at, if nothing happens.
func (r *reign) next() time.Duration {
	wait := look
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, k := range r.services {
		if r.urgent[name] {
			wait = min(wait, k.planned.Add(breath).Sub(now))
		}
		wait = min(wait, k.due().Sub(now))
	}
	return max(wait, 10*time.Millisecond)
}

// look sees to each service. Only being deposed is an error: what fails is tried again.
func (r *reign) look(ctx context.Context) error {
	members := r.Mirror.Members()
	r.profiles.follow(ctx, members, r.often())
	there := map[string]bool{}
	for _, s := range r.Mirror.Services() {
		there[s.Name] = true
		k := r.services[s.Name]
		if k == nil {
			k = &keeper{reign: r, name: s.Name, frozen: true, blocked: map[string]string{}, missing: map[string]time.Time{}}
			r.services[s.Name] = k
		}
		if err := k.see(ctx, s, r.isUrgent(s.Name)); err != nil {
			if deposed(err) || ctx.Err() != nil {
				return err
			}
			k.fails(ctx, err)
		}
	}
	for name := range r.services {
		if !there[name] {
			r.services[name].close()
			delete(r.services, name)
		}
	}
	r.report(members)
	return nil
}

// often is how often nodes are to send what they measure: as often as what is planned most often.
func (r *reign) often() time.Duration {
	period := r.Period
	for _, k := range r.services {
		if k.policy != nil {
			period = min(period, k.policy.period)
		}
	}
	return max(period, r.Period/2) // they don't measure more often
}

func (r *reign) isUrgent(service string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.urgent[service]
}

// calm ends a service's urgency: it was planned for.
func (r *reign) calm(service string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.urgent, service)
}

// ask has the reign do something, and waits until it has.
func (r *reign) ask(ctx context.Context, do func(context.Context) error) error {
	q := request{do, make(chan error, 1)}
	select {
	case r.asked <- q:
	case <-ctx.Done():
		return ctx.Err()
	case <-r.Lost():
		return fmt.Errorf("another node was elected meanwhile: %w", errdefs.ErrUnavailable)
	}
	select {
	case err := <-q.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// names sorts the keys of a map.
func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// fails takes down that a service could not be seen to, once for each reason.
func (k *keeper) fails(ctx context.Context, err error) {
	if text := err.Error(); k.trouble != text {
		k.trouble = text
		log.G(ctx).WithError(err).WithField("service", k.name).Warn("a service can't be seen to; trying again")
	}
}
