package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/peregrine-dev/peregrine/plasma/driver"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// look begins what has to be done for each server of the node.
func (n *Node) look(ctx context.Context) {
	there := map[string]bool{}   // directories of agents
	servers := map[string]bool{} // by identity
	for _, s := range n.Mirror.Services() {
		spec, err := n.spec(s)
		if err != nil {
			n.failed(ctx, s.Name, err)
			continue
		}
		n.listen(ctx, there, s, spec, "")
		for _, v := range n.Mirror.Servers(s.Name) {
			if v.Node != n.Node {
				continue
			}
			servers[v.ID] = true
			if spec.Adopt == nil {
				n.listen(ctx, there, s, spec, v.ID)
			}
			if do := n.todo(s, spec, v); do != nil {
				n.begin(ctx, v.ID, do)
			}
		}
		n.carry(ctx, s.Name)
	}
	n.keepAgents(there)
	n.forget(servers)
}

// todo is what has to be done for a server; nil is nothing.
func (n *Node) todo(s place.Service, spec *service.Spec, v place.Server) func(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy[v.ID] || time.Now().Before(n.retry[v.ID].at) {
		return nil
	}
	r, known := n.running[v.ID]
	done, seen := n.applied[v.ID]
	switch {
	case v.Stopping:
		return func(ctx context.Context) error { return n.end(ctx, s, v, spec.Adopt != nil) }
	case spec.Adopt != nil && !known:
		return nil
	case spec.Adopt == nil && (!known || r.State != driver.StateRunning):
		return func(ctx context.Context) error { return n.start(ctx, s, spec, v) }
	case !seen && spec.Adopt != nil:
		// What somebody else has set stays, until a plan changes it.
		n.applied[v.ID] = applied{v.Limit, v.Class}
		return nil
	case !seen || done != applied{v.Limit, v.Class}:
		return func(ctx context.Context) error { return n.adjust(ctx, v, done) }
	}
	return nil
}

// begin does something for a server, unless something is being done already.
func (n *Node) begin(ctx context.Context, id string, do func(context.Context) error) {
	n.mu.Lock()
	n.busy[id] = true
	n.mu.Unlock()
	n.group.Go(func() error {
		err := do(ctx)
		n.mu.Lock()
		delete(n.busy, id)
		if err == nil {
			delete(n.retry, id)
		}
		n.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			n.failed(ctx, id, err)
		}
		n.changed()
		return nil
	})
}

// failed has something tried again, later each time.
func (n *Node) failed(ctx context.Context, id string, err error) {
	n.mu.Lock()
	r := n.retry[id]
	news := r.why != err.Error()
	r.wait = min(max(2*r.wait, 200*time.Millisecond), mostWait)
	r.at, r.why = time.Now().Add(r.wait), err.Error()
	n.retry[id] = r
	n.mu.Unlock()
	n.Metrics.failures.Inc()
	if news {
		log.G(ctx).WithError(err).WithField("server", id).Warn("a server is not as it should be; trying again")
	}
}

// start starts a server, for the first time or again.
func (n *Node) start(ctx context.Context, s place.Service, spec *service.Spec, v place.Server) error {
	if err := n.unregister(ctx, v.ID); err != nil {
		return err
	}
	ctx, span := otel.Tracer(tracer).Start(ctx, "start", trace.WithAttributes(attribute.String("server", v.ID)))
	defer span.End()
	began := time.Now()
	err := n.Containers.Start(ctx, driver.Server{Service: spec, ID: v.ID, Node: n.Node, Version: v.Generation, Limit: v.Limit})
	if err != nil {
		return err
	}
	if err := own(n.directory(v.ID)); err != nil {
		return err
	}
	n.mu.Lock()
	n.applied[v.ID] = applied{limit: v.Limit}
	n.began[v.ID] = time.Now()
	n.mu.Unlock()
	n.Metrics.starts.Observe(time.Since(began).Seconds())
	log.G(ctx).WithField("server", v.ID).Infof("started a server of %s in %s", s.Name, time.Since(began).Round(time.Millisecond))
	return nil
}

// unregister says that a server's host has ended with its process.
func (n *Node) unregister(ctx context.Context, id string) error {
	a, err := n.agentOf(id)
	if err != nil {
		return err
	}
	a.mu.Lock()
	i := a.instance
	a.instance = place.Instance{}
	a.mu.Unlock()
	if i.Instance == 0 {
		return nil
	}
	return n.Membership.Unregister(ctx, i)
}

// adjust gives a server that runs what it may use now.
func (n *Node) adjust(ctx context.Context, v place.Server, was applied) error {
	if was.limit != v.Limit {
		if err := n.Containers.Update(ctx, v.ID, v.Limit); err != nil {
			return fmt.Errorf("give %s its limit: %w", v.ID, err)
		}
	}
	if was.class != v.Class {
		var err error
		if v.Class == "" {
			err = n.Containers.ReleaseNet(ctx, v.ID)
		} else {
			err = n.Containers.ReserveNet(ctx, v.ID, v.Class)
		}
		// Without falcond, or in another network, there are no classes.
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsUnavailable(err) {
			return fmt.Errorf("give %s its class in the network: %w", v.ID, err)
		}
		if err != nil {
			log.G(ctx).WithError(err).WithField("server", v.ID).Warn("the network has no classes for this server")
		}
	}
	n.mu.Lock()
	n.applied[v.ID] = applied{v.Limit, v.Class}
	n.mu.Unlock()
	return nil
}

// end ends a server that has nothing any more, or whose service is being deleted.
func (n *Node) end(ctx context.Context, s place.Service, v place.Server, adopted bool) error {
	if !adopted {
		err := n.Containers.Stop(ctx, v.ID, grace)
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("stop %s: %w", v.ID, err)
		}
		n.dismiss(n.directory(v.ID))
		state := !s.Deleting || s.DeleteState
		if err := n.Containers.Delete(ctx, v.ID, state); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete %s: %w", v.ID, err)
		}
	}
	err := n.Membership.RemoveServer(ctx, s.Name, v.ID)
	if err == nil {
		log.G(ctx).WithField("server", v.ID).Info("ended a server")
	}
	return err
}

// forget drops what is known of servers that are no longer here.
func (n *Node) forget(there map[string]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range n.applied {
		if !there[id] {
			delete(n.applied, id)
		}
	}
	for id := range n.retry {
		if !there[id] && !n.busy[id] {
			delete(n.retry, id)
		}
	}
	for id := range n.began {
		if !there[id] {
			delete(n.began, id)
		}
	}
	for id := range n.short {
		if !there[id] {
			delete(n.short, id)
		}
	}
}

// Trouble is what fails, by server.
func (n *Node) Trouble() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[string]string{}
	for id, r := range n.retry {
		all[id] = r.why
	}
	return all
}

// here gives a server of this node.
func (n *Node) here(serviceName, id string) (place.Server, error) {
	for _, v := range n.Mirror.Servers(serviceName) {
		if v.ID == id && v.Node == n.Node {
			return v, nil
		}
	}
	return place.Server{}, fmt.Errorf("service %s has no server %s on this node: %w", serviceName, id, errdefs.ErrNotFound)
}

var errGone = errors.New("the server is no longer to be here")
