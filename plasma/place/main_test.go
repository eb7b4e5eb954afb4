package place_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/place/embed"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if member != nil {
		member.Close()
		_ = os.RemoveAll(dir)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

// member is what tests share: each has a cluster of its own.
var (
	member   *embed.Member
	dir      string
	clusters int
)

// etcd gives the shared member's client, and starts it for the first.
func etcd(t testing.TB) *clientv3.Client {
	t.Helper()
	if member == nil {
		var err error
		if dir, err = os.MkdirTemp("", "place"); err != nil {
			t.Fatal(err)
		}
		if member, err = embed.Start(t.Context(), embed.Config{Name: "test", Dir: dir}); err != nil {
			t.Fatal(err)
		}
	}
	return member.Client()
}

// cluster is a store with a node n1 that is the manager.
type cluster struct {
	testing.TB
	name   string
	client *clientv3.Client
	store  *place.Store
	node   *place.Membership
	leader *place.Leadership
}

const ttl = 30 * time.Second // nothing waits for it

// begin gives a cluster with nothing.
func begin(t testing.TB) *cluster {
	t.Helper()
	clusters++
	c := &cluster{TB: t, client: etcd(t), name: fmt.Sprint("c", clusters)}
	c.store = place.New(c.client, c.name)
	return c
}

func start(t testing.TB) *cluster {
	t.Helper()
	c := begin(t)
	c.node = c.join("n1")
	var err error
	if c.leader, err = c.store.Campaign(t.Context(), c.node); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.leader.Resign(context.Background()) })
	return c
}

func (c *cluster) join(node string) *place.Membership {
	c.Helper()
	m, err := c.store.Join(c.Context(), place.Member{Node: node, Address: node + ":1"}, ttl)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { _ = m.Close(context.Background()) })
	return m
}

// prefix of the test's keys.
func (c *cluster) prefix() string { return "/peregrine/plasma/" + c.name + "/" }

func (c *cluster) ok(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// servers makes servers of the service s on n1, registers their hosts, and gives the first all
// shards.
func (c *cluster) servers(n int) []place.Instance {
	c.Helper()
	var all []place.Instance
	for range n {
		id, err := c.leader.NextID(c.Context(), "s")
		c.ok(err)
		_, err = c.leader.PutServer(c.Context(), place.Server{Service: "s", ID: id, Node: "n1", State: model.Up})
		c.ok(err)
		i, err := c.node.Register(c.Context(), place.Instance{Service: "s", Server: id})
		c.ok(err)
		all = append(all, i)
	}
	c.ok(c.leader.SetTable(c.Context(), "s", placement.Table{}.Assign([]string{all[0].Server}), 0))
	return all
}

func actor(n int) placement.Actor { return placement.Actor{Type: "T", Key: fmt.Sprint(n)} }

// move starts a move of an actor and gives it as the host would ask for it.
func (c *cluster) move(id string, a placement.Actor, from, to place.Instance, epoch uint64) *api.Move {
	c.Helper()
	n, err := c.leader.StartMoves(c.Context(), "s", []place.Move{{ID: id, Actor: a, From: from.Server, To: to.Server, Epoch: epoch}})
	c.ok(err)
	if n != 1 {
		c.Fatalf("%d moves of 1 started", n)
	}
	return asked(id, a, to, epoch)
}

func asked(id string, a placement.Actor, to place.Instance, epoch uint64) *api.Move {
	return &api.Move{Id: id, Actor: a.API(), To: to.Server, Epoch: epoch, Target: to.Instance}
}

func (c *cluster) commit(from place.Instance, moves ...*api.Move) []string {
	c.Helper()
	refused, err := c.store.CommitMoves(c.Context(), "s", from.Server, from.Instance, moves)
	c.ok(err)
	return refused
}

// mirror reads all that there is.
func (c *cluster) mirror() *place.Mirror {
	c.Helper()
	m, err := c.store.Mirror(c.Context())
	c.ok(err)
	c.Cleanup(m.Close)
	return m
}

func (c *cluster) owner(a placement.Actor) placement.Owner {
	c.Helper()
	m, err := c.store.Mirror(c.Context())
	c.ok(err)
	defer m.Close()
	o, _ := m.Owner("s", a)
	return o
}
