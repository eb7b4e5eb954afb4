package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/plasma/driver"
	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/place/embed"
	"github.com/peregrine-dev/peregrine/plasma/placement"
	"github.com/peregrine-dev/peregrine/plasma/profile"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a node with a real etcd, whose containers are hosts in this process.
type lab struct {
	*testing.T
	*containers
	store  *place.Store
	mirror *place.Mirror
	leader *place.Leadership
	node   *Node
}

// containers stands for containerd: what it starts are hosts in this process.
type containers struct {
	t      *testing.T
	run    string
	root   string
	events chan driver.Event

	mu      sync.Mutex
	hosts   map[string]*host.Host
	stopped map[string]bool // a process has ended; its container is there
	limits  map[string]model.Resources
	classes map[string]string
	starts  map[string]int
	fail    error // of Start
}

func newLab(t *testing.T) *lab {
	t.Helper()
	// Sockets have short names.
	dir, err := os.MkdirTemp("/tmp", "node")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m, err := embed.Start(t.Context(), embed.Config{Name: "test", Dir: filepath.Join(dir, "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	l := &lab{T: t, store: place.New(m.Client(), "test"), containers: &containers{
		t: t, run: filepath.Join(dir, "run"), root: filepath.Join(dir, "root"), events: make(chan driver.Event, 16),
		hosts: map[string]*host.Host{}, stopped: map[string]bool{}, limits: map[string]model.Resources{},
		classes: map[string]string{}, starts: map[string]int{},
	}}
	if l.mirror, err = l.store.Mirror(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.mirror.Close)
	membership, err := l.store.Join(t.Context(), place.Member{Node: "n1", Capacity: model.Resources{CPU: 4}}, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = membership.Close(context.Background()) })
	if l.leader, err = l.store.Campaign(t.Context(), membership); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.leader.Resign(context.Background()) })
	l.node = New(Options{
		Node: "n1", Sockets: l.run, Store: l.store, Mirror: l.mirror, Membership: membership, Containers: l,
		Sampler: profile.New("n1", 100*time.Millisecond, nil), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	t.Cleanup(l.end)
	return l
}

// begin runs the node until stop is called, or the test ends.
func (l *lab) begin() (stop func()) {
	ctx, cancel := context.WithCancel(l.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.node.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			l.Error(err)
		}
	})
	l.Cleanup(stop)
	return stop
}

// end stops all hosts.
func (c *containers) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hosts {
		_ = h.Close()
	}
	clear(c.hosts)
}

// Start is Containers'.
func (c *containers) Start(ctx context.Context, s driver.Server) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	if c.hosts[s.ID] != nil {
		return nil
	}
	dir, state, peers := filepath.Join(c.run, "servers", s.ID), filepath.Join(c.root, s.ID), filepath.Join(c.run, "peers", s.Service.Name)
	for _, d := range []string{dir, state, peers} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	h, err := host.Start(context.WithoutCancel(ctx), host.Options{
		Types: []host.Type{{Name: "Counter", New: host.JSON(count)}},
		Agent: filepath.Join(dir, agentSocket), Control: filepath.Join(dir, hostSocket), Peers: peers, State: state,
	})
	if err != nil {
		return err
	}
	c.hosts[s.ID], c.stopped[s.ID], c.limits[s.ID] = h, false, s.Limit
	c.starts[s.ID]++
	return nil
}

// count adds to a number.
func count(_ *host.Turn, n *int64, _ string, body []byte) ([]byte, error) {
	var by int64
	if _, err := fmt.Sscan(string(body), &by); err != nil {
		return nil, err
	}
	*n += by
	return fmt.Append(nil, *n), nil
}

// crash has a server's process end.
func (c *containers) crash(id string) {
	c.mu.Lock()
	h := c.hosts[id]
	delete(c.hosts, id)
	c.stopped[id] = true
	c.mu.Unlock()
	_ = h.Close()
	c.events <- driver.Event{Kind: driver.Exited, ID: id}
}

// List is Containers'.
func (c *containers) List(context.Context) (all []driver.Running, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.hosts {
		all = append(all, driver.Running{ID: id, Service: "s", State: driver.StateRunning, Pid: uint32(os.Getpid())})
	}
	for id, stopped := range c.stopped {
		if stopped {
			all = append(all, driver.Running{ID: id, Service: "s", State: driver.StateStopped})
		}
	}
	return all, nil
}

// Adopted is Containers'.
func (c *containers) Adopted(context.Context, *service.Adopt) ([]driver.Running, error) {
	return nil, nil
}

// Update is Containers'.
func (c *containers) Update(_ context.Context, id string, limit model.Resources) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits[id] = limit
	return nil
}

// Stop is Containers'.
func (c *containers) Stop(_ context.Context, id string, _ time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.hosts[id]; h != nil {
		_ = h.Close()
		delete(c.hosts, id)
	}
	return nil
}

// Delete is Containers'.
func (c *containers) Delete(_ context.Context, id string, state bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.stopped, id)
	if state {
		return os.RemoveAll(filepath.Join(c.root, id))
	}
	return nil
}

// Events is Containers'.
func (c *containers) Events(ctx context.Context) (<-chan driver.Event, error) {
	out := make(chan driver.Event)
	go func() {
		defer close(out)
		for {
			select {
			case e := <-c.events:
				out <- e
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// Probe is Containers'.
func (c *containers) Probe(context.Context) (driver.Found, error) { return driver.Found{}, nil }

// ReserveNet is Containers'.
func (c *containers) ReserveNet(_ context.Context, id, class string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.classes[id] = class
	return nil
}

// ReleaseNet is Containers'.
func (c *containers) ReleaseNet(_ context.Context, id string) error {
	return fmt.Errorf("no falcond: %w", errdefs.ErrUnavailable)
}

// apply stores the service s.
func (l *lab) apply() {
	l.Helper()
	if _, err := l.store.PutService(l.Context(), place.Service{Name: "s", Spec: "name = \"s\"\nimage = \"docker.io/library/s:1\"\n"}); err != nil {
		l.Fatal(err)
	}
}

// server says that a server is to be here.
func (l *lab) server(id string) {
	l.Helper()
	if _, err := l.leader.PutServer(l.Context(), place.Server{Service: "s", ID: id, Node: "n1", State: model.Up, Created: time.Now()}); err != nil {
		l.Fatal(err)
	}
}

// change changes what is to be of a server.
func (l *lab) change(id string, by func(*place.Server)) {
	l.Helper()
	l.until("the server is known", func() bool {
		for _, s := range l.mirror.Servers("s") {
			if s.ID == id {
				by(&s)
				_, err := l.leader.PutServer(l.Context(), s)
				return err == nil
			}
		}
		return false
	})
}

// until waits for something that the node does.
func (l *lab) until(what string, is func() bool) {
	l.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			l.Fatalf("in vain: %s", what)
		}
	}
}

// registered waits for the host of a server, of that instance or a later one.
func (l *lab) registered(id string, instance uint64) place.Instance {
	l.Helper()
	var found place.Instance
	l.until(id+" registers", func() bool {
		for _, i := range l.mirror.Instances("s") {
			if i.Server == id && i.Instance >= instance {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

// own gives servers the shards.
func (l *lab) own(ids ...string) {
	l.Helper()
	if err := l.leader.SetTable(l.Context(), "s", placement.Table{}.Assign(ids), 0); err != nil {
		l.Fatal(err)
	}
}

// client is one of the service's.
func (l *lab) client() *host.Client {
	l.Helper()
	l.until("clients have a socket", func() bool {
		_, err := os.Stat(l.node.ClientSocket("s"))
		return err == nil
	})
	c, err := host.Dial(l.Context(), l.node.ClientSocket("s"), l.node.PeersOf("s"))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = c.Close() })
	return c
}

// add adds to a counter.
func (l *lab) add(c *host.Client, key, by, want string) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 20*time.Second)
	defer cancel()
	got, err := c.Call(ctx, placement.Actor{Type: "Counter", Key: key}, "add", []byte(by))
	if err != nil || string(got) != want {
		l.Fatalf("%s: %q, %v, want %s", key, got, err, want)
	}
}
