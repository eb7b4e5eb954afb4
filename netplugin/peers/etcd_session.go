package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/log"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdRun is one Run.
type etcdRun struct {
	*etcdSource
	list      list
	published bool // self was, in this Run

	revision int64  // the highest that was seen
	held     []Node // that etcd lost and that should be back soon

	// Of the present session:

	client  *clientv3.Client
	keys    map[string]*mvccpb.KeyValue // by the node's name
	decoded map[string]decoded
}

// decoded is what was made of a key, to be used until the key changes.
type decoded struct {
	revision int64 // of the key
	node     Node
	err      error
}

// session lists the nodes, publishes self and follows changes until something goes wrong,
// or ctx is done. It always returns an error.
func (r *etcdRun) session(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.client, err = r.connect(ctx, r.timeout); err != nil {
		return fmt.Errorf("connect to etcd: %w", err)
	}
	defer r.client.Close()
	if err := r.read(ctx); err != nil {
		return fmt.Errorf("list the nodes in etcd: %w", err)
	}
	r.connected(true, nil)
	r.tell(ctx)
	watch, err := r.watch(ctx)
	if err != nil {
		return err
	}
	if err := r.publish(ctx); err != nil {
		return err
	}
	check := time.NewTicker(r.check)
	defer check.Stop()
	release := time.NewTimer(r.grace)
	defer release.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case response, ok := <-watch:
			if !ok {
				return errors.New("watch the nodes in etcd: the watch ended")
			}
			if err := response.Err(); err != nil { // compacted, no leader
				return fmt.Errorf("watch the nodes in etcd: %w", err)
			}
			own := r.apply(response.Events)
			r.revision = max(r.revision, response.Header.Revision)
			r.tell(ctx)
			if own {
				if err := r.publish(ctx); err != nil {
					return err
				}
			}
		case <-release.C:
			r.held = nil
			r.tell(ctx)
		case <-check.C:
			if err := r.lookAfter(ctx); err != nil {
				return err
			}
		}
	}
}

// watch follows all changes since read, until ctx is done.
func (r *etcdRun) watch(ctx context.Context) (clientv3.WatchChan, error) {
	// Watch waits until etcd has the watch.
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(r.timeout, cancel)
	// Without the demand for a leader, a member that is cut off would be silent for ever.
	changes := r.client.Watch(clientv3.WithRequireLeader(ctx), r.nodes(),
		clientv3.WithPrefix(), clientv3.WithRev(r.revision+1))
	if !late.Stop() {
		return nil, fmt.Errorf("watch the nodes in etcd: no answer in %s: %w", r.timeout, context.DeadlineExceeded)
	}
	return changes, nil
}

// read lists all nodes.
func (r *etcdRun) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	response, err := r.client.Get(ctx, r.nodes(), clientv3.WithPrefix())
	if err != nil {
		return err
	}
	before := r.revision
	r.revision = response.Header.Revision
	r.keys = make(map[string]*mvccpb.KeyValue, len(response.Kvs))
	r.decoded = make(map[string]decoded, len(response.Kvs))
	for _, kv := range response.Kvs {
		r.keys[r.name(kv)] = kv
	}
	// An etcd that was wiped, or restored from a backup, knows nodes again only when they
	// have published themselves again. Until then they are no less there than this one.
	if r.published && (r.revision < before || r.keys[r.list.self.Name] == nil) {
		r.held = slices.Clone(r.list.nodes)
		log.G(ctx).WithField("for", r.grace.String()).Warn("etcd lost this node's record, so maybe others': nodes that it doesn't have are kept for a while")
	}
	return nil
}

func (r *etcdRun) name(kv *mvccpb.KeyValue) string {
	return strings.TrimPrefix(string(kv.Key), r.nodes())
}

// apply returns whether self's key is among the events.
func (r *etcdRun) apply(events []*clientv3.Event) (own bool) {
	for _, e := range events {
		name := r.name(e.Kv)
		own = own || name == r.list.self.Name
		// Of one's own key, more may be known than was watched.
		if known := r.keys[name]; known != nil && known.ModRevision > e.Kv.ModRevision {
			continue
		}
		if e.Type == clientv3.EventTypeDelete {
			delete(r.keys, name)
			delete(r.decoded, name)
			r.held = slices.DeleteFunc(r.held, func(n Node) bool { return n.Name == name })
		} else {
			r.keys[name] = e.Kv
		}
	}
	return own
}

// tell brings the list up to keys, the oldest first.
func (r *etcdRun) tell(ctx context.Context) {
	order := make([]*mvccpb.KeyValue, 0, len(r.keys))
	for _, kv := range r.keys {
		order = append(order, kv)
	}
	slices.SortFunc(order, func(a, b *mvccpb.KeyValue) int {
		return cmp.Or(cmp.Compare(a.CreateRevision, b.CreateRevision), cmp.Compare(string(a.Key), string(b.Key)))
	})
	nodes := make([]Node, 0, len(order))
	var unreadable []Rejected
	for _, kv := range order {
		name := r.name(kv)
		d, ok := r.decoded[name]
		if !ok || d.revision != kv.ModRevision {
			d = decoded{revision: kv.ModRevision}
			d.node, _, d.err = decodeRecord(name, kv.Value)
			r.decoded[name] = d
		}
		switch {
		case d.err == nil:
			nodes = append(nodes, d.node)
		case name != r.list.self.Name: // of self's own, publish says it
			unreadable = append(unreadable, Rejected{name, d.err})
		}
	}
	for _, n := range r.held {
		if r.keys[n.Name] == nil { // last, so that what etcd has takes precedence
			nodes = append(nodes, n)
		}
	}
	r.list.set(ctx, nodes, unreadable)
}
