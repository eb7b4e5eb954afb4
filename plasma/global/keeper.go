package global

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/service"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// A keeper sees to one service. It is the reign's goroutine's.
type keeper struct {
	*reign
	name    string
	service place.Service
	spec    *service.Spec
	policy  *policy
	records *records

	memory  *model.Memory // nil until it was read
	planned time.Time
	took    time.Duration
	number  int // of moves that were begun
	plan    model.Plan
	shot    model.Snapshot

	// frozen: hosts may be frozen, as they may be when a reign begins; sealed is the table's
	// revision behind which nothing is under way.
	frozen bool
	sealed int64

	moves   map[string]status.Move // under way, by identity
	recent  []status.Move          // the newest first
	trouble string
	missing map[string]time.Time    // by server whose host is not there, since when
	blocked map[string]string       // by server that drains, why it doesn't go
	listed  map[string][]*api.Actor // by server that drains, all that it has
}

// due is when the service is to be planned for next: after a period, or up to half of one sooner
// or later, so that what nodes measure has just come.
func (k *keeper) due() time.Time {
	if k.policy == nil {
		return time.Now().Add(look)
	}
	due := k.planned.Add(k.policy.period)
	if fresh := k.profiles.near(due); fresh.Before(due.Add(k.policy.period / 2)) {
		return fresh
	}
	return due
}

// see brings a service forward by what can be done now.
func (k *keeper) see(ctx context.Context, s place.Service, urgent bool) error {
	if err := k.read(ctx, s); err != nil {
		return err
	}
	k.follow()
	if s.Deleting {
		return k.end(ctx)
	}
	if k.spec.Adopt != nil {
		return errors.Join(k.adopt(ctx), k.decide(ctx, urgent))
	}
	return errors.Join(k.raiseUp(ctx), k.share(ctx), k.relocate(ctx), k.renew(ctx), k.decide(ctx, urgent))
}

// read takes in what the user has applied, if that is news.
func (k *keeper) read(ctx context.Context, s place.Service) error {
	if k.memory == nil {
		m, err := k.Store.Memory(ctx, k.name)
		if err != nil {
			return err
		}
		k.memory = &m
	}
	if k.policy != nil && k.service.Version == s.Version {
		return nil
	}
	spec, err := service.Parse(s.Name, []byte(s.Spec))
	if err != nil {
		return err
	}
	p, err := compile(s.Policy, spec, k.Period)
	if err != nil {
		return err
	}
	if k.policy == nil || k.policy.text != p.text {
		k.close()
		if k.records, err = newRecords(k.Records, k.name, p.text); err != nil {
			return err
		}
	}
	was := k.spec
	k.service, k.spec, k.policy, k.trouble = s, spec, p, ""
	if was != nil && was.Limit != spec.Limit {
		return k.resize(ctx, was.Limit.Resources())
	}
	return nil
}

// resize gives servers that have what the service's file said before what it says now. Those that
// a plan has given more keep that.
func (k *keeper) resize(ctx context.Context, was model.Resources) error {
	for _, s := range k.servers() {
		if s.Limit != was {
			continue
		}
		if err := k.change(ctx, s.ID, func(s *place.Server) { s.Limit = k.spec.Limit.Resources() }); err != nil {
			return err
		}
	}
	return nil
}

// servers are the service's, without those that are being removed.
func (k *keeper) servers() []place.Server {
	return slices.DeleteFunc(k.Mirror.Servers(k.name), func(s place.Server) bool { return s.Stopping })
}

// instances are the hosts that are there, by server.
func (k *keeper) instances() map[string]place.Instance {
	all := map[string]place.Instance{}
	for _, i := range k.Mirror.Instances(k.name) {
		all[i.Server] = i
	}
	return all
}

// plain tells whether the service's containers host no actors.
func (k *keeper) plain() bool {
	_, revision := k.Mirror.Table(k.name)
	return revision == 0 && len(k.Mirror.Instances(k.name)) == 0
}

// raiseUp says of servers that serve that they are up.
func (k *keeper) raiseUp(ctx context.Context) error {
	hosts := k.instances()
	for _, s := range k.servers() {
		if s.State != model.Starting {
			continue
		}
		_, registered := hosts[s.ID]
		if !registered && !(k.runs(s) && time.Since(s.Created) > plainAfter) {
			continue
		}
		s.State = model.Up
		if _, err := k.PutServer(ctx, s); err != nil && !errdefs.IsAborted(err) {
			return err
		}
	}
	return nil
}

// plainAfter is how long a running container may take to register. One that hasn't is of an
// application that knows nothing of actors.
const plainAfter = 5 * time.Second

// runs tells whether a server's container runs, as its node says.
func (k *keeper) runs(s place.Server) bool {
	p := k.profileOf(s.Node, s.ID)
	return p.GetRunning()
}

func (k *keeper) profileOf(node, server string) *api.ServerProfile {
	h := k.profiles.heard(time.Time{})
	for _, p := range h[node].profile.GetServers() {
		if p.GetService() == k.name && p.GetServer() == server {
			return p
		}
	}
	return nil
}

// start adds a server.
func (k *keeper) start(ctx context.Context, s place.Server) error {
	id, err := k.NextID(ctx, k.name)
	if err != nil {
		return err
	}
	s.Service, s.ID, s.State, s.Created, s.Generation = k.name, id, model.Starting, time.Now(), k.service.Generation
	if s.Replaces == "" {
		s.Limit = k.spec.Limit.Resources()
	}
	_, err = k.PutServer(ctx, s)
	return err
}

// end removes a service that is being deleted: its servers first.
func (k *keeper) end(ctx context.Context) error {
	all := k.Mirror.Servers(k.name)
	for _, s := range all {
		if s.Stopping {
			continue
		}
		s.Stopping = true
		if _, err := k.PutServer(ctx, s); err != nil && !errdefs.IsAborted(err) {
			return err
		}
	}
	if len(all) > 0 {
		return nil
	}
	return k.RemoveService(ctx, k.name)
}

// close ends what is written of the service.
func (k *keeper) close() {
	if k.records != nil {
		k.records.close()
		k.records = nil
	}
}

// server gives one that is not being removed.
func (k *keeper) server(id string) (place.Server, error) {
	for _, s := range k.servers() {
		if s.ID == id {
			return s, nil
		}
	}
	return place.Server{}, fmt.Errorf("service %s has no server %s: %w", k.name, id, errdefs.ErrNotFound)
}
