package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/place"
)

// tracer names what makes the spans here.
const tracer = "github.com/peregrine-dev/peregrine/plasma/node"

// patience is how long a move waits for its target's host.
const patience = 10 * time.Second

// carry has hosts of this node carry out the service's moves away from them, those of one server
// to one other together.
func (n *Node) carry(ctx context.Context, serviceName string) {
	type way struct{ from, to string }
	ways := map[way][]place.Move{}
	for _, m := range n.Mirror.Moves(serviceName) {
		if _, err := n.here(serviceName, m.From); err == nil && n.take(m.ID) {
			ways[way{m.From, m.To}] = append(ways[way{m.From, m.To}], m)
		}
	}
	if len(ways) == 0 {
		return
	}
	hosts := map[string]place.Instance{}
	for _, i := range n.Mirror.Instances(serviceName) {
		hosts[i.Server] = i
	}
	for w, moves := range ways {
		n.group.Go(func() error {
			defer n.leave(moves)
			if err := n.transfer(ctx, serviceName, w.from, hosts[w.to], moves); err != nil && ctx.Err() == nil {
				log.G(ctx).WithError(err).WithField("server", w.from).Warn("moves are not under way; trying again")
				pause(ctx, 200*time.Millisecond)
			}
			return nil
		})
	}
}

// take begins with a move, unless it was begun.
func (n *Node) take(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.moving[id] {
		return false
	}
	n.moving[id] = true
	return true
}

// leave ends what take began.
func (n *Node) leave(moves []place.Move) {
	n.mu.Lock()
	for _, m := range moves {
		delete(n.moving, m.ID)
	}
	n.mu.Unlock()
	n.poke()
}

// transfer has a host move actors, and ends the moves of those that stay.
func (n *Node) transfer(ctx context.Context, serviceName, from string, to place.Instance, moves []place.Move) error {
	if to.Instance == 0 {
		if time.Since(moves[0].At) > patience {
			n.Metrics.moves.WithLabelValues("no target").Add(float64(len(moves)))
			return n.Store.CancelMoves(ctx, serviceName, moves)
		}
		return fmt.Errorf("the host of server %s is not there: %w", moves[0].To, errdefs.ErrUnavailable)
	}
	ctx, span := otel.Tracer(tracer).Start(ctx, "move", trace.WithAttributes(
		attribute.String("service", serviceName), attribute.String("from", from), attribute.String("to", to.Server), attribute.Int("actors", len(moves))))
	defer span.End()
	a, err := n.agentOf(from)
	if err != nil {
		return err
	}
	host, err := a.control(ctx)
	if err != nil {
		return err
	}
	r := &api.MoveRequest{To: &api.Server{Id: to.Server, Node: to.Node, Instance: to.Instance, Address: to.Address}}
	for _, m := range moves {
		r.Moves = append(r.Moves, &api.Move{Id: m.ID, Actor: m.Actor.API(), To: m.To, Epoch: m.Epoch, Target: to.Instance})
	}
	answer, err := host.Move(ctx, r)
	if err != nil {
		return errgrpc.ToNative(err)
	}
	var stay []place.Move
	for i, m := range moves {
		why := ""
		if i < len(answer.GetRefused()) {
			why = answer.GetRefused()[i]
		}
		if why == "" {
			n.Metrics.moves.WithLabelValues("moved").Inc()
			if i < len(answer.GetPauses()) {
				n.Metrics.pauses.Observe(float64(answer.GetPauses()[i]) / 1e9)
			}
			continue
		}
		n.Metrics.moves.WithLabelValues("refused").Inc()
		log.G(ctx).WithField("actor", m.Actor.String()).Infof("an actor stays on %s: %s", from, why)
		stay = append(stay, m)
	}
	if len(stay) > 0 {
		if err := n.Store.CancelMoves(ctx, serviceName, stay); err != nil {
			return err
		}
	}
	return n.seen(ctx, serviceName, moves)
}

// seen waits a little until the mirror shows that moves have ended, so that they don't begin
// again.
func (n *Node) seen(ctx context.Context, serviceName string, moves []place.Move) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		changed := n.Mirror.Changed()
		if !slices.ContainsFunc(n.Mirror.Moves(serviceName), func(m place.Move) bool {
			return slices.ContainsFunc(moves, func(o place.Move) bool { return o.ID == m.ID })
		}) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// rpc gives an error its class on the wire.
func rpc(err error) error {
	if err == nil {
		return nil
	}
	return errgrpc.ToGRPC(err)
}
