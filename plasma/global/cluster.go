package global

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// actorOf reads TYPE/KEY. Keys may have slashes, types may not.
func actorOf(name string) (placement.Actor, bool) {
	kind, key, ok := strings.Cut(name, "/")
	return placement.Actor{Type: kind, Key: key}, ok && kind != "" && key != ""
}

// keeper gives a service's, for a request.
func (r *reign) keeper(service string) (*keeper, error) {
	k := r.services[service]
	if k == nil || k.policy == nil {
		return nil, fmt.Errorf("there is no service %s: %w", service, errdefs.ErrNotFound)
	}
	return k, nil
}

// Move moves an actor because a user says so. It returns when the move has begun.
func (m *Manager) Move(ctx context.Context, service string, a placement.Actor, to string) error {
	r, err := m.leading()
	if err != nil {
		return err
	}
	return r.ask(ctx, func(ctx context.Context) error {
		k, err := r.keeper(service)
		if err != nil {
			return err
		}
		target, err := k.server(to)
		if err != nil {
			return err
		}
		if target.State != model.Up {
			return fmt.Errorf("server %s is %s: actors move to servers that are up: %w", to, target.State, errdefs.ErrUnavailable)
		}
		owner, ok := m.Mirror.Owner(service, a)
		if !ok {
			return fmt.Errorf("nobody has actor %s: %w", a, errdefs.ErrNotFound)
		}
		if owner.Server == to {
			return nil
		}
		k.number++
		started, err := k.StartMoves(ctx, service, []place.Move{{
			ID: fmt.Sprintf("%d-%s-%d", k.Fence(), service, k.number), Service: service, Actor: a, From: owner.Server, To: to,
			Epoch: owner.Epoch + 1, Rule: "user", Reason: "a user has asked for it", At: time.Now(),
		}})
		if err == nil && started == 0 {
			err = fmt.Errorf("actor %s is on a move already: %w", a, errdefs.ErrAlreadyExists)
		}
		return err
	})
}

// Drain takes a server out of service because a user says so: its actors move, and it ends.
func (m *Manager) Drain(ctx context.Context, service, server string) error {
	r, err := m.leading()
	if err != nil {
		return err
	}
	return r.ask(ctx, func(ctx context.Context) error {
		k, err := r.keeper(service)
		if err != nil {
			return err
		}
		if _, err := k.server(server); err != nil {
			return err
		}
		return k.change(ctx, server, func(s *place.Server) { s.State = model.Draining })
	})
}

// Record gives a plan that is made now by a policy, the service's own if it is empty, as a record
// of package model. Nothing of it is carried out.
func (m *Manager) Record(ctx context.Context, service, text string) (record []byte, err error) {
	r, err := m.leading()
	if err != nil {
		return nil, err
	}
	err = r.ask(ctx, func(context.Context) error {
		k, err := r.keeper(service)
		if err != nil {
			return err
		}
		p := k.policy
		if text != "" {
			if p, err = compile(text, k.spec, k.Period); err != nil {
				return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
			}
		}
		step := model.Step{Snapshot: k.look(), Before: *k.memory}
		step.Plan = p.planner.Plan(&step.Snapshot, step.Before)
		var b strings.Builder
		to, err := model.NewRecorder(&b, p.text, false)
		if err != nil {
			return err
		}
		if err := to.Write(&step); err != nil {
			return err
		}
		err = to.Close()
		record = []byte(b.String())
		return err
	})
	return record, err
}

// Describe gives the status as JSON, of one service if it is named.
func Describe(s *status.Cluster, service string) ([]byte, error) {
	if service == "" {
		return json.Marshal(s)
	}
	one := *s
	one.Services = nil
	for _, v := range s.Services {
		if v.Name == service {
			one.Services = append(one.Services, v)
		}
	}
	if one.Services == nil {
		return nil, fmt.Errorf("there is no service %s: %w", service, errdefs.ErrNotFound)
	}
	return json.Marshal(&one)
}
