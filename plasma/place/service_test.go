package place_test

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestServices(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	v, err := c.store.PutService(ctx, place.Service{Name: "s", Spec: "one", Key: []byte("secret")})
	c.ok(err)
	if _, err := c.store.PutService(ctx, place.Service{Name: "s"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("created twice: %v", err)
	}
	v.Spec = "two"
	w, err := c.store.PutService(ctx, v)
	c.ok(err)
	if _, err := c.store.PutService(ctx, v); !errdefs.IsAborted(err) {
		t.Errorf("an old version: %v", err)
	}
	if got, ok := c.mirror().Service("s"); !ok || !reflect.DeepEqual(got, w) || w.Version != 2 {
		t.Errorf("%+v, want %+v", got, w)
	}
	for _, bad := range []place.Service{{}, {Name: strings.Repeat("x", 300)}, {Name: "x", Spec: strings.Repeat("x", 1<<20)}} {
		if _, err := c.store.PutService(ctx, bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.9s: %v", bad.Name, err)
		}
	}
	s := c.servers(2)
	if err := c.leader.RemoveService(ctx, "s"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removed while it is wanted: %v", err)
	}
	c.ok(c.store.DeleteService(ctx, "s", true))
	if err := c.store.DeleteService(ctx, "none", true); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := c.leader.RemoveService(ctx, "s"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removed while it has servers: %v", err)
	}
	c.move("m", actor(1), s[0], s[1], 2)
	c.ok(c.leader.AddExceptions(ctx, "s", map[placement.Actor]placement.Owner{actor(2): {Server: "s-1", Epoch: 1}}))
	c.ok(c.store.Remember(ctx, c.leader, "s", model.Memory{Raised: map[string]model.Resources{"x": {}}}))
	for _, i := range s {
		c.ok(c.leader.DeleteServer(ctx, "s", i.Server))
	}
	c.ok(c.leader.RemoveService(ctx, "s"))
	c.ok(c.leader.RemoveService(ctx, "s"))
	all, err := c.client.Get(ctx, c.prefix(), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	c.ok(err)
	var left []string
	for _, kv := range all.Kvs {
		left = append(left, strings.TrimPrefix(string(kv.Key), c.prefix()))
	}
	if len(left) != 3 || left[1] != "members/n1" || left[2] != "unwatched/next/s" {
		t.Errorf("left: %q", left)
	}
	if id, err := c.leader.NextID(ctx, "s"); err != nil || id != "s-3" {
		t.Errorf("%s, %v: a number was used again", id, err)
	}
}

func TestServers(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	var group sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		group.Go(func() {
			var err error
			if ids[i], err = c.leader.NextID(ctx, "s"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	seen := map[string]bool{}
	for _, id := range ids {
		if seen[id] {
			t.Errorf("%s was given twice", id)
		}
		seen[id] = true
	}
	v, err := c.leader.PutServer(ctx, server(ids[0]))
	c.ok(err)
	if _, err := c.leader.PutServer(ctx, server(ids[0])); !errdefs.IsAlreadyExists(err) {
		t.Errorf("two servers of one identity: %v", err)
	}
	v.State, v.Limit.CPU, v.Created = model.Draining, 2, time.Unix(5, 0).UTC()
	w, err := c.leader.PutServer(ctx, v)
	c.ok(err)
	if _, err := c.leader.PutServer(ctx, v); !errdefs.IsAborted(err) {
		t.Errorf("an old version: %v", err)
	}
	if got := c.mirror().Servers("s"); len(got) != 1 || !reflect.DeepEqual(got[0], w) {
		t.Errorf("%+v, want %+v", got, w)
	}
	for _, bad := range []place.Server{{}, {Service: "s", ID: "x"}, {Service: "s", ID: "x", Node: "n", State: "odd"}, {Service: "s", ID: "x", Node: "n", State: model.Up, Limit: model.Resources{CPU: math.Inf(1)}}} {
		if _, err := c.leader.PutServer(ctx, bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestNodeRemovesServer(t *testing.T) {
	c := start(t)
	s := c.servers(1)
	if err := c.node.RemoveServer(t.Context(), "s", s[0].Server); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a server that was not to stop: %v", err)
	}
	v := c.mirror().Servers("s")[0]
	v.Stopping = true
	_, err := c.leader.PutServer(t.Context(), v)
	c.ok(err)
	if err := c.join("n2").RemoveServer(t.Context(), "s", v.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a server of another node: %v", err)
	}
	for range 2 {
		c.ok(c.node.RemoveServer(t.Context(), "s", v.ID))
	}
	if m := c.mirror(); len(m.Servers("s"))+len(m.Instances("s")) != 0 {
		t.Error("it is still there")
	}
}

func TestMemory(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	if m, err := c.store.Memory(ctx, "s"); err != nil || !reflect.DeepEqual(m, model.Memory{}) {
		t.Errorf("%+v, %v", m, err)
	}
	began := time.Minute
	want := model.Memory{Began: &began, Moves: map[string]model.Moved{}}
	for i := range 5000 {
		want.Moves[fmt.Sprint("T/", i)] = model.Moved{At: time.Duration(i), From: "s-1"}
	}
	c.ok(c.store.Remember(ctx, c.leader, "s", want))
	before, err := c.client.Get(ctx, "x")
	c.ok(err)
	c.ok(c.store.Remember(ctx, c.leader, "s", want))
	if after, _ := c.client.Get(ctx, "x"); after.Header.Revision != before.Header.Revision {
		t.Error("what has not changed was written again")
	}
	if got, err := c.store.Memory(ctx, "s"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%d moves, %v", len(got.Moves), err)
	}
	_, err = c.client.Put(ctx, c.prefix()+"unwatched/memories/s", "broken")
	c.ok(err)
	if m, err := c.store.Memory(ctx, "s"); err != nil || len(m.Moves) > 0 {
		t.Errorf("what can't be read: %d moves, %v", len(m.Moves), err)
	}
}
