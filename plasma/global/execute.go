package global

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// high is the network's class of what is reserved for its net.
const high = "high"

// execute carries a plan out: it writes what is to be. What can't be written now is planned
// again, as it is not seen to have happened.
func (k *keeper) execute(ctx context.Context, p *model.Plan) error {
	var moves []place.Move
	var errs []error
	for i := range p.Actions {
		a := &p.Actions[i]
		log.G(ctx).WithField("service", k.name).WithField("rule", a.Rule).Infof("%s %s: %s", a.Verb, about(a), a.Reason)
		k.Metrics.actions.WithLabelValues(string(a.Verb)).Inc()
		var err error
		switch a.Verb {
		case model.Move:
			m, ok := k.move(a)
			if ok {
				moves = append(moves, m)
			}
		case model.ScaleOut:
			err = k.start(ctx, place.Server{Node: a.NodeName, Limit: a.Limit})
		case model.Resize:
			err = k.change(ctx, a.ToName, func(s *place.Server) { s.Limit = a.Limit })
		case model.Drain:
			err = k.change(ctx, a.ToName, func(s *place.Server) { s.State = model.Draining })
		case model.Reserve:
			if a.Resource == "net" {
				err = k.change(ctx, a.ToName, func(s *place.Server) { s.Class = high })
			}
		case model.Release:
			err = k.change(ctx, a.ToName, func(s *place.Server) { s.Class = "" })
		case model.Stop:
			err = k.stop(ctx, a.ToName)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", a.Verb, a.ToName, err))
		}
	}
	if len(moves) > 0 {
		_, err := k.StartMoves(ctx, k.name, moves)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// about names what an action is about.
func about(a *model.Action) string {
	switch a.Verb {
	case model.Move:
		return a.ActorName + " from " + a.FromName + " to " + a.ToName
	case model.ScaleOut:
		return "on node " + a.NodeName
	}
	return a.ToName
}

// move is what is written for a planned move, unless the actor is elsewhere by now.
func (k *keeper) move(a *model.Action) (place.Move, bool) {
	actor, ok := actorOf(a.ActorName)
	if !ok {
		return place.Move{}, false
	}
	owner, ok := k.Mirror.Owner(k.name, actor)
	if !ok || owner.Server != a.FromName {
		return place.Move{}, false
	}
	k.number++
	return place.Move{
		ID: fmt.Sprintf("%d-%s-%d", k.Fence(), k.name, k.number), Service: k.name, Actor: actor,
		From: a.FromName, To: a.ToName, Epoch: owner.Epoch + 1, Rule: a.Rule, Reason: a.Reason, At: time.Now(),
	}, true
}

// change changes a server. One that was changed meanwhile is left as it is.
func (k *keeper) change(ctx context.Context, id string, by func(*place.Server)) error {
	s, err := k.server(id)
	if err != nil {
		return err
	}
	by(&s)
	if _, err = k.PutServer(ctx, s); errdefs.IsAborted(err) {
		return nil
	}
	return err
}

// stop ends a server that has nothing any more, after a look for itself: a plan is made of what
// was known some time ago.
func (k *keeper) stop(ctx context.Context, id string) error {
	s, err := k.server(id)
	if err != nil {
		return err
	}
	if why := k.holds(ctx, s); why != "" {
		k.blocked[id] = why
		return nil
	}
	delete(k.blocked, id)
	s.Stopping = true
	if _, err = k.PutServer(ctx, s); errdefs.IsAborted(err) {
		return nil
	}
	return err
}

// holds says what a server still has; "" if it has nothing.
func (k *keeper) holds(ctx context.Context, s place.Server) string {
	if _, revision := k.Mirror.Table(k.name); revision == 0 {
		return "" // the service has no actors
	}
	table, _ := k.Mirror.Table(k.name)
	if n := table.Count(s.ID); n > 0 {
		return fmt.Sprintf("it still has %d shards", n)
	}
	for a, o := range k.Mirror.Exceptions(k.name) {
		if o.Server == s.ID {
			return "it still has " + a.String()
		}
	}
	for _, m := range k.Mirror.Moves(k.name) {
		if m.To == s.ID || m.From == s.ID {
			return m.Actor.String() + " is under way"
		}
	}
	if _, there := k.instances()[s.ID]; !there {
		return "" // by the placement it has nothing, and it can't get anything
	}
	actors, err := k.freeze(ctx, s.ID, true, 0)
	if err != nil {
		return "it doesn't say whether it is empty: " + err.Error()
	}
	if len(actors) > 0 {
		return "it still has " + placement.Of(actors[0]).String()
	}
	return ""
}
