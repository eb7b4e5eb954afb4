package place_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// A manager that was deposed and hasn't noticed changes nothing, whatever it tries.
func TestDeposed(t *testing.T) {
	c := start(t)
	s := c.servers(2)
	ctx := t.Context()
	v, err := c.store.PutService(ctx, place.Service{Name: "s", Deleting: true})
	c.ok(err)
	_, revision := c.mirror().Table("s")
	// As if the lease had ended: another is elected, and the first doesn't know.
	all, err := c.client.Get(ctx, c.prefix()+"leader/", clientv3.WithPrefix())
	c.ok(err)
	_, err = c.client.Delete(ctx, string(all.Kvs[0].Key))
	c.ok(err)
	<-c.leader.Lost()
	before, err := c.client.Get(ctx, "/", clientv3.WithPrefix())
	c.ok(err)

	moves := []place.Move{{ID: "m", Actor: actor(1), From: s[0].Server, To: s[1].Server, Epoch: 2}}
	owners := map[placement.Actor]placement.Owner{actor(1): {Server: s[1].Server, Epoch: 2}}
	for name, write := range map[string]func() error{
		"PutServer":     func() error { _, err := c.leader.PutServer(ctx, server("s-9")); return err },
		"DeleteServer":  func() error { return c.leader.DeleteServer(ctx, "s", s[0].Server) },
		"NextID":        func() error { _, err := c.leader.NextID(ctx, "s"); return err },
		"SetTable":      func() error { return c.leader.SetTable(ctx, "s", placement.Table{}, revision) },
		"AddExceptions": func() error { return c.leader.AddExceptions(ctx, "s", owners) },
		"StartMoves":    func() error { _, err := c.leader.StartMoves(ctx, "s", moves); return err },
		"AbortMoves":    func() error { return c.leader.AbortMoves(ctx, "s", moves) },
		"Relocate":      func() error { return c.leader.Relocate(ctx, "s", "s-9", placement.Table{}, revision, owners) },
		"Remember":      func() error { return c.store.Remember(ctx, c.leader, "s", model.Memory{}) },
	} {
		if err := write(); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v, want a failed precondition", name, err)
		}
	}
	c.ok(c.leader.Resign(ctx)) // which is nothing to do
	after, err := c.client.Get(ctx, "/", clientv3.WithPrefix())
	c.ok(err)
	if before.Header.Revision != after.Header.Revision {
		t.Errorf("something was written: revision %d, then %d", before.Header.Revision, after.Header.Revision)
	}
	if v.Version != 1 {
		t.Errorf("version %d", v.Version)
	}
}

func TestCampaign(t *testing.T) {
	c := start(t)
	other := c.join("n2")
	ctx, cancel := context.WithCancel(t.Context())
	type elected struct {
		l   *place.Leadership
		err error
	}
	campaign := func(ctx context.Context, m *place.Membership) <-chan elected {
		answer := make(chan elected, 1)
		go func() {
			l, err := c.store.Campaign(ctx, m)
			answer <- elected{l, err}
		}()
		return answer
	}
	candidates := func(n int) {
		for {
			all, err := c.client.Get(t.Context(), c.prefix()+"leader/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			c.ok(err)
			if int(all.Count) == n {
				return
			}
			time.Sleep(time.Millisecond) // nothing else says so
		}
	}
	m := c.mirror()
	waits := campaign(ctx, other)
	candidates(2)
	if v, ok := m.Leader(); !ok || v.Node != "n1" {
		t.Errorf("the leader is %v", v)
	}
	cancel()
	if e := <-waits; !errors.Is(e.err, context.Canceled) {
		t.Fatalf("a campaign that was ended: %v", e.err)
	}
	candidates(1)
	waits = campaign(t.Context(), other)
	candidates(2)
	select {
	case <-waits:
		t.Fatal("two managers")
	default:
	}
	c.ok(c.leader.Resign(t.Context()))
	<-c.leader.Lost()
	second := <-waits
	c.ok(second.err)
	defer second.l.Resign(context.Background())
	if second.l.Fence() <= c.leader.Fence() {
		t.Errorf("fence %d after %d", second.l.Fence(), c.leader.Fence())
	}
	if _, err := c.leader.NextID(t.Context(), "s"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the first manager's write: %v", err)
	}
	if id, err := second.l.NextID(t.Context(), "s"); err != nil || id != "s-1" {
		t.Errorf("%s, %v", id, err)
	}
	for {
		changed := m.Changed()
		if v, _ := m.Leader(); v.Node == "n2" {
			break
		}
		<-changed
	}
	// The end of a membership ends what is made of it.
	third := campaign(t.Context(), c.node)
	candidates(2)
	c.ok(c.node.Close(t.Context()))
	if e := <-third; !errdefs.IsFailedPrecondition(e.err) {
		t.Errorf("a campaign without a membership: %v", e.err)
	}
	c.ok(other.Close(t.Context()))
	<-second.l.Lost()
}

// A lease that is lost is made again, with all that was on it; a manager is not one any more.
func TestLeaseIsLost(t *testing.T) {
	c := begin(t)
	var err error
	c.node, err = c.store.Join(t.Context(), place.Member{Node: "n1"}, 2*time.Second)
	c.ok(err)
	t.Cleanup(func() { _ = c.node.Close(context.Background()) })
	if left := time.Until(c.node.Valid()); left <= 0 || left > 2*time.Second {
		t.Errorf("valid for %s", left)
	}
	c.leader, err = c.store.Campaign(t.Context(), c.node)
	c.ok(err)
	s := c.servers(2)
	m := c.move("m", actor(1), s[0], s[1], 2)
	lease, changed := c.node.Lease(), c.node.Changed()
	_, err = c.client.Revoke(t.Context(), lease)
	c.ok(err)
	<-c.leader.Lost()
	<-changed
	for c.node.Lease() == 0 {
		<-c.node.Changed()
	}
	if c.node.Lease() == lease {
		t.Error("the lease is the old one")
	}
	view := c.mirror()
	if all := view.Instances("s"); len(all) != 2 || all[0].Instance != s[0].Instance || len(view.Members()) != 1 {
		t.Errorf("%v, %v", all, view.Members())
	}
	if refused := c.commit(s[0], m); refused[0] != "" {
		t.Errorf("a move that was under way: %q", refused)
	}
	if _, err := c.leader.NextID(t.Context(), "s"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the manager's write: %v", err)
	}
	c.ok(c.leader.Resign(t.Context()))
}

func TestJoinTwice(t *testing.T) {
	c := start(t)
	c.servers(1)
	if _, err := c.store.Join(t.Context(), place.Member{Node: "n1"}, ttl); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another plasmad with the node's name: %v", err)
	}
	first, err := c.store.Join(t.Context(), place.Member{Node: "n2", Identity: "x"}, ttl)
	c.ok(err)
	defer first.Close(context.Background())
	leader, err := c.store.Campaign(t.Context(), c.node) // again, by the same lease
	c.ok(err)
	if leader.Fence() != c.leader.Fence() {
		t.Errorf("fence %d, then %d", c.leader.Fence(), leader.Fence())
	}
	defer leader.Resign(context.Background())
	_, err = c.leader.PutServer(t.Context(), place.Server{Service: "s", ID: "s-2", Node: "n2", State: model.Up})
	c.ok(err)
	i, err := first.Register(t.Context(), place.Instance{Service: "s", Server: "s-2", Address: "a:1"})
	c.ok(err)
	if _, err := first.Register(t.Context(), place.Instance{Service: "s", Server: "s-1"}); !errdefs.IsNotFound(err) {
		t.Errorf("a server of another node: %v", err)
	}
	// As after kill -9 and a new start: the hosts are there all the time.
	view := c.mirror()
	second, err := c.store.Join(t.Context(), place.Member{Node: "n2", Identity: "x", Address: "new:1"}, ttl)
	c.ok(err)
	defer second.Close(context.Background())
	if now := c.mirror().Instances("s"); len(now) != 2 || now[1].Instance != i.Instance || now[1].Address != "a:1" {
		t.Errorf("instances %v", now)
	}
	for {
		changed := view.Changed()
		if all := view.Members(); len(all) == 2 && all[1].Address == "new:1" {
			break
		}
		<-changed
	}
	for _, bad := range []time.Duration{0, time.Second, 2500 * time.Millisecond} {
		if _, err := c.store.Join(t.Context(), place.Member{Node: "n3"}, bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("a time to live of %s: %v", bad, err)
		}
	}
}

func server(id string) place.Server {
	return place.Server{Service: "s", ID: id, Node: "n1", State: model.Up}
}
