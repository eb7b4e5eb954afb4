package place_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/place/embed"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// facts is all that a mirror says.
type facts struct {
	Members  []place.Member
	Leader   string
	Services []place.Service
	Of       map[string]serviceFacts
}

type serviceFacts struct {
	Servers    []place.Server
	Instances  []place.Instance
	Moves      []place.Move
	Table      placement.Table
	TableAt    int64
	Exceptions map[placement.Actor]placement.Owner
}

func factsOf(m *place.Mirror) facts {
	f := facts{Members: m.Members(), Services: m.Services(), Of: map[string]serviceFacts{}}
	leader, _ := m.Leader()
	f.Leader = leader.Node
	for _, s := range []string{"s", "other"} {
		table, at := m.Table(s)
		f.Of[s] = serviceFacts{m.Servers(s), m.Instances(s), m.Moves(s), table, at, maps.Collect(m.Exceptions(s))}
	}
	return f
}

// writer makes writes of all kinds.
type writer struct {
	*cluster
	r       *rand.Rand
	servers map[string]place.Instance
	moves   map[string]place.Move
	n       int
}

func (w *writer) write() {
	ctx := w.Context()
	w.n++
	id := fmt.Sprint("s-", w.r.IntN(6))
	a := actor(w.r.IntN(40))
	switch w.r.IntN(10) {
	case 0:
		v := server(id)
		for _, known := range w.mirrored().Servers("s") {
			if known.ID == id {
				v.Version = known.Version
			}
		}
		_, err := w.leader.PutServer(ctx, v)
		w.ok(err)
	case 1:
		if i, err := w.node.Register(ctx, place.Instance{Service: "s", Server: id}); err == nil {
			w.servers[id] = i
		} else if !errdefs.IsNotFound(err) {
			w.Fatal(err)
		}
	case 2:
		if w.r.IntN(3) == 0 {
			w.ok(w.leader.DeleteServer(ctx, "s", id))
			delete(w.servers, id)
		} else {
			w.ok(w.node.Unregister(ctx, w.servers[id]))
		}
	case 3:
		table, at := w.mirrored().Table("s")
		w.ok(w.leader.SetTable(ctx, "s", table.Assign([]string{id, "s-0"}), at))
	case 4:
		w.ok(w.leader.AddExceptions(ctx, "s", map[placement.Actor]placement.Owner{a: {Server: id, Epoch: uint64(w.n)}}))
	case 5, 6:
		o, ok := w.mirrored().Owner("s", a)
		to := fmt.Sprint("s-", w.r.IntN(6))
		if !ok || to == o.Server {
			return
		}
		v := place.Move{ID: fmt.Sprint("m", w.n), Actor: a, From: o.Server, To: to, Epoch: o.Epoch + 1}
		n, err := w.leader.StartMoves(ctx, "s", []place.Move{v})
		w.ok(err)
		if n == 1 {
			w.moves[v.ID] = v
		}
	case 7, 8:
		for id, v := range w.moves {
			_, err := w.store.CommitMoves(ctx, "s", v.From, w.servers[v.From].Instance, []*api.Move{asked(id, v.Actor, place.Instance{Server: v.To, Instance: w.servers[v.To].Instance}, v.Epoch)})
			if err != nil && !errdefs.IsUnavailable(err) {
				w.Fatal(err)
			}
			delete(w.moves, id)
			break
		}
	case 9: // what nobody can read, of a service of its own
		keys := []string{"services/other", "servers/other/1", "moves/other/T/1", "actors/other/T/1", "tables/other", "odd", "odd/x/y/z/v", "members/%zz", "instances/other/1"}
		_, err := w.client.Put(ctx, w.prefix()+keys[w.r.IntN(len(keys))], []string{"{", "", `{"s":"x","e":3}`, `{"state":"up","node":"n"}`}[w.r.IntN(4)])
		w.ok(err)
	}
}

// mirrored is a fresh view.
func (w *writer) mirrored() *place.Mirror {
	m, err := w.store.Mirror(w.Context())
	w.ok(err)
	m.Close()
	return m
}

// Whatever is written, who has followed knows what who reads now does, and so do hosts.
func TestMirror(t *testing.T) {
	c := start(t)
	w := &writer{c, rand.New(rand.NewPCG(1, 2)), map[string]place.Instance{}, map[string]place.Move{}, 0}
	m := c.mirror()
	view := placement.NewView()
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	wholes := 0
	go func() {
		watched <- m.WatchPlacement(ctx, "s", func(p *api.Placement) error {
			if p.GetWhole() {
				wholes++
			}
			return view.Apply(p)
		})
	}()
	for range 8 {
		for range 20 {
			w.write()
		}
		// The last write is one that hosts are told of.
		_, err := c.client.Put(t.Context(), c.prefix()+"instances/s/s-9", `{"node":"n1","instance":1}`)
		c.ok(err)
		fresh := w.mirrored()
		c.ok(m.Await(t.Context(), fresh.Revision()))
		if got, want := factsOf(m), factsOf(fresh); !reflect.DeepEqual(got, want) {
			t.Fatalf("followed: %+v\nread: %+v", got, want)
		}
		c.ok(view.Await(t.Context(), fresh.Revision()))
		for i := range 40 {
			got, _ := view.Owner(actor(i))
			if want, _ := fresh.Owner("s", actor(i)); got != want {
				t.Fatalf("a host takes %s for %v's; it is %v's", actor(i), got, want)
			}
		}
		for _, s := range fresh.Servers("s") {
			if got, ok := view.Server(s.ID); !ok || got.Node != s.Node {
				t.Fatalf("a host takes %s to be %+v", s.ID, got)
			}
		}
	}
	cancel()
	if err := <-watched; err == nil || wholes != 1 {
		t.Errorf("%v, %d times whole", err, wholes)
	}
	m.Close()
	if err := m.WatchPlacement(t.Context(), "s", func(*api.Placement) error { return nil }); !errdefs.IsUnavailable(err) {
		t.Errorf("a watch after the end: %v", err)
	}
	if err := m.Await(t.Context(), 1<<60); !errdefs.IsUnavailable(err) {
		t.Errorf("waiting after the end: %v", err)
	}
}

func TestMirrorGivesCopies(t *testing.T) {
	c := start(t)
	c.servers(2)
	_, err := c.store.PutService(t.Context(), place.Service{Name: "s", Key: []byte("key")})
	c.ok(err)
	m := c.mirror()
	v, _ := m.Service("s")
	v.Key[0] = 'x'
	table, _ := m.Table("s")
	table.Servers[0] = "x"
	p := m.Placement("s")
	p.Shards.Servers[0] = "y"
	if v, _ := m.Service("s"); string(v.Key) != "key" {
		t.Error("a service's key is shared")
	}
	if table, _ := m.Table("s"); table.Servers[0] != "s-1" {
		t.Error("a table is shared")
	}
	if _, ok := m.Service("none"); ok || len(m.Servers("none")) > 0 || m.Placement("none").GetShards() != nil {
		t.Error("there is a service that isn't there")
	}
}

// remote starts members, one after the other, that a client finds at the same address.
type remote struct {
	t      *testing.T
	config embed.Config
	member *embed.Member
}

func (r *remote) start(reachable bool) {
	r.t.Helper()
	config := r.config
	if !reachable {
		config.ListenClient = ""
	}
	var err error
	if r.member, err = embed.Start(r.t.Context(), config); err != nil {
		r.t.Fatal(err)
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// soon makes clients find a server again quickly.
var soon = grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}})

// A mirror goes on when etcd was away, and when etcd has dropped what the mirror has not seen.
func TestMirrorGoesOn(t *testing.T) {
	r := &remote{t: t, config: embed.Config{Name: "test", Dir: t.TempDir(), ListenClient: free(t)}}
	r.start(true)
	defer func() { r.member.Close() }()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{r.config.ListenClient}, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{soon}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	m, err := place.New(client, "test").Mirror(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	view := placement.NewView()
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- m.WatchPlacement(ctx, "s", view.Apply) }()
	defer func() { cancel(); <-watched }()

	for round, compact := range []bool{false, true, false} {
		r.member.Close()
		r.start(false)
		c := &cluster{TB: t, client: r.member.Client(), store: place.New(r.member.Client(), "test")}
		c.node, err = c.store.Join(t.Context(), place.Member{Node: "n1", Identity: "n1"}, ttl)
		c.ok(err)
		c.leader, err = c.store.Campaign(t.Context(), c.node)
		c.ok(err)
		id, err := c.leader.NextID(t.Context(), "s")
		c.ok(err)
		_, err = c.leader.PutServer(t.Context(), place.Server{Service: "s", ID: id, Node: "n1", State: model.Up})
		c.ok(err)
		if round == 2 {
			c.ok(c.leader.DeleteServer(t.Context(), "s", "s-1"))
		}
		c.ok(c.leader.Resign(t.Context()))
		c.ok(c.node.Close(t.Context()))
		if compact {
			now, err := c.client.Get(t.Context(), "x")
			c.ok(err)
			_, err = c.client.Compact(t.Context(), now.Header.Revision)
			c.ok(err)
		}
		want, err := c.store.Mirror(t.Context())
		c.ok(err)
		want.Close()
		r.member.Close()
		r.start(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		c.ok(m.Await(ctx, want.Revision()))
		cancel()
		if got, want := factsOf(m), factsOf(want); !reflect.DeepEqual(got, want) {
			t.Errorf("round %d: %+v, want %+v", round, got, want)
		}
		for {
			changed := view.Changed()
			if _, ok := view.Server(id); ok {
				break
			}
			<-changed
		}
	}
	if _, ok := view.Server("s-1"); ok {
		t.Error("a host still knows a server that was removed")
	}
	// Without etcd, all is as it was last known, and writes are unavailable.
	r.member.Close()
	if n := len(m.Servers("s")); n != 2 {
		t.Errorf("%d servers", n)
	}
	short, cancelShort := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelShort()
	if _, err := place.New(client, "test").CommitMoves(short, "s", "s-1", 1, []*api.Move{{Id: "m", Actor: actor(1).API(), Epoch: 1}}); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "etcd") {
		t.Errorf("a commit without etcd: %v", err)
	}
	r.start(true)
}

func BenchmarkMirror(b *testing.B) {
	c := start(b)
	s := c.servers(1)
	c.ok(c.leader.AddExceptions(b.Context(), "s", many(10_000, s[0].Server, 1)))
	for b.Loop() {
		m, err := c.store.Mirror(b.Context())
		c.ok(err)
		m.Placement("s")
		m.Close()
	}
}
