package global

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/containerd/log"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
	"github.com/peregrine-dev/peregrine/plasma/profile/assemble"
)

// decide plans, if it is time, and carries the plan out.
func (k *keeper) decide(ctx context.Context, urgent bool) error {
	now := time.Now()
	if now.Before(k.due()) && !(urgent && now.Sub(k.planned) >= breath) {
		return nil
	}
	k.calm(k.name)
	ctx, span := otel.Tracer(tracer).Start(ctx, "plan", trace.WithAttributes(attribute.String("service", k.name), attribute.Bool("urgent", urgent)))
	defer span.End()
	k.list(ctx)
	k.shot = k.look()
	step := model.Step{Snapshot: k.shot, Before: *k.memory}
	step.Plan = k.policy.planner.Plan(&k.shot, *k.memory)
	k.planned, k.took, k.plan = now, time.Since(now), step.Plan
	k.Metrics.plans.Inc()
	k.Metrics.took.Observe(k.took.Seconds())
	span.SetAttributes(attribute.Int("actors", len(k.shot.Actors)), attribute.Int("servers", len(k.shot.Servers)), attribute.Int("actions", len(step.Plan.Actions)))
	if k.records != nil {
		if err := k.records.write(&step); err != nil {
			log.G(ctx).WithError(err).WithField("service", k.name).Warn("a plan is not in the records")
		}
	}
	if k.service.Paused || step.Plan.Shadow {
		return nil
	}
	k.memory = &step.Plan.Memory
	err := k.execute(ctx, &step.Plan)
	k.trouble = ""
	return errors.Join(err, k.Store.Remember(ctx, k.Leadership, k.name, step.Plan.Memory))
}

// tracer names what makes the spans here.
const tracer = "github.com/peregrine-dev/peregrine/plasma/global"

// epoch is the moment that snapshots' times are since. It is the same for all managers.
var epoch = time.Unix(1_700_000_000, 0)

// fresh is how old a profile may be to count, in periods of measuring.
const fresh = 5

// look is what is known of the service now.
func (k *keeper) look() model.Snapshot {
	now := time.Now()
	in := assemble.Input{
		Service: k.name, At: now.Sub(epoch), Window: k.policy.period,
		Moves: map[placement.Actor]assemble.Move{},
		Owner: func(a placement.Actor) (placement.Owner, bool) { return k.Mirror.Owner(k.name, a) },
	}
	if m, err := manifest.Read(k.name, []byte(k.service.Manifest)); err == nil && k.service.Manifest != "" {
		in.Manifest = m
	}
	in.Profiles = k.heardOf(now.Add(-fresh * k.Period))
	for id, actors := range k.listed {
		in.Profiles = append(in.Profiles, complete(in.Profiles, k.name, id, actors))
	}
	for _, m := range k.Mirror.Members() {
		in.Nodes = append(in.Nodes, model.Node{ID: m.Node, Zone: m.Zone, Capacity: k.room(m)})
	}
	hosts, plain := k.instances(), k.plain()
	for _, s := range k.servers() {
		v := assemble.Server{ID: s.ID, Node: s.Node, State: s.State, Limit: k.limit(s), Max: k.spec.Most.Resources(), Plain: plain}
		if !slices.ContainsFunc(in.Nodes, func(n model.Node) bool { return n.ID == s.Node }) {
			in.Nodes = append(in.Nodes, model.Node{ID: s.Node, Down: true})
		}
		if _, there := hosts[s.ID]; !there && !plain && s.State != model.Starting {
			v.State = k.absent(s.ID, now)
		} else {
			delete(k.missing, s.ID)
		}
		in.Servers = append(in.Servers, v)
	}
	for _, m := range k.Mirror.Moves(k.name) {
		in.Moves[m.Actor] = assemble.Move{From: m.From, To: m.To}
	}
	return assemble.Snapshot(in)
}

// returns is how long a host may be away before it counts as lost: its process, or the plasmad of
// its node, may start again. Others are started in the place of lost ones.
const returns = 30 * time.Second

// absent is the state of a server whose host is not there.
func (k *keeper) absent(id string, now time.Time) model.State {
	since, known := k.missing[id]
	if !known {
		since = now
		k.missing[id] = now
	}
	if now.Sub(since) < returns {
		return model.Starting
	}
	return model.Down
}

// limit is what a server may use. Without a limit of the processor it is all that its node has;
// without one of memory or network there is nothing to have a part of.
func (k *keeper) limit(s place.Server) model.Resources {
	l := s.Limit
	for _, m := range k.Mirror.Members() {
		if m.Node == s.Node {
			l.CPU = cmp.Or(l.CPU, m.Capacity.CPU)
		}
	}
	return l
}

// unbounded is how many servers without a limit of the processor fit on a node: as many as one
// likes.
const unbounded = 1 << 10

// room is a node's capacity less what other services' servers may use there.
func (k *keeper) room(m place.Member) model.Resources {
	c := m.Capacity
	for name := range k.services {
		if name == k.name {
			continue
		}
		for _, s := range k.Mirror.Servers(name) {
			if s.Node == m.Node {
				c = c.Sub(s.Limit)
			}
		}
	}
	if k.spec.Limit.CPU == 0 {
		c.CPU = m.Capacity.CPU * unbounded
	}
	return model.Resources{CPU: max(c.CPU, 0), Mem: max(c.Mem, 0), Net: max(c.Net, 0)}
}

// heardOf are the nodes' profiles since then, in the order in which they came.
func (k *keeper) heardOf(since time.Time) (all []*api.ProfileResponse) {
	last := k.profiles.heard(since)
	order := names(last)
	slices.SortStableFunc(order, func(a, b string) int { return last[a].at.Compare(last[b].at) })
	for _, node := range order {
		all = append(all, last[node].profile)
	}
	return all
}

// list asks servers that drain for all actors that they have: hosts report those that did
// something, and stored ones have to leave too.
func (k *keeper) list(ctx context.Context) {
	k.listed = map[string][]*api.Actor{}
	hosts := k.instances()
	for _, s := range k.servers() {
		if _, there := hosts[s.ID]; !there || s.State != model.Draining {
			continue
		}
		actors, err := k.freeze(ctx, s.ID, true, 0)
		if err != nil {
			log.G(ctx).WithError(err).WithField("server", s.ID).Warn("a server that drains doesn't say what it has; asking again")
			continue
		}
		k.listed[s.ID] = actors
	}
}

// complete is the profile of one server with all actors that it has.
func complete(profiles []*api.ProfileResponse, service, server string, actors []*api.Actor) *api.ProfileResponse {
	p := &api.ServerProfile{Service: service, Server: server, Running: true, Report: &api.ReportRequest{}}
	all := &api.ProfileResponse{}
	for _, r := range profiles {
		for _, s := range r.GetServers() {
			if s.GetService() == service && s.GetServer() == server {
				p = proto.CloneOf(s)
				all.Window = r.GetWindow()
			}
		}
	}
	if p.Report == nil {
		p.Report = &api.ReportRequest{}
	}
	known := map[placement.Actor]bool{}
	for _, a := range p.Report.GetActors() {
		known[placement.Of(a.GetActor())] = true
	}
	for _, a := range actors {
		if !known[placement.Of(a)] {
			p.Report.Actors = append(p.Report.Actors, &api.ActorReport{Actor: a})
		}
	}
	all.Servers = []*api.ServerProfile{p}
	return all
}
