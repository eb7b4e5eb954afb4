package host_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/host/hosttest"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// ledger is the state of the actors of these tests: what each sender has said, in order.
type ledger struct {
	Seen   map[string][]int `json:"seen"`
	Count  int              `json:"count"`
	Filler string           `json:"filler,omitempty"`
}

type entry struct {
	Sender string
	N      int
}

type forward struct {
	To       placement.Actor
	Function string
	Body     []byte
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// lingering has the next turn of that function linger.
var lingering atomic.Bool

// turn is what those actors do.
func turn(c *host.Turn, s *ledger, function string, body []byte) ([]byte, error) {
	switch function {
	case "add": // an entry; the answer is how many there are
		var e entry
		if err := json.Unmarshal(body, &e); err != nil {
			return nil, err
		}
		if s.Seen == nil {
			s.Seen = map[string][]int{}
		}
		s.Seen[e.Sender] = append(s.Seen[e.Sender], e.N)
		s.Count++
		return []byte(strconv.Itoa(s.Count)), nil
	case "inc", "tick":
		s.Count++
		return []byte(strconv.Itoa(s.Count)), nil
	case "get":
		return encode(s), nil
	case "fill":
		n, err := strconv.Atoi(string(body))
		s.Filler = string(make([]byte, n))
		return nil, err
	case "fail":
		s.Count++
		return nil, errors.New("as asked")
	case "panic":
		s.Count += 1000
		panic("as asked")
	case "call", "send":
		var f forward
		if err := json.Unmarshal(body, &f); err != nil {
			return nil, err
		}
		if function == "call" {
			return c.Call(c, f.To, f.Function, f.Body)
		}
		s.Count++
		return nil, c.Send(f.To, f.Function, f.Body)
	case "relay": // sends an entry with its own name and count to another
		var to placement.Actor
		if err := json.Unmarshal(body, &to); err != nil {
			return nil, err
		}
		s.Count++
		return nil, c.Send(to, "add", encode(entry{c.Self().Key, s.Count}))
	case "wait":
		<-c.Done()
		return nil, c.Err()
	case "linger": // until the host ends, the first time
		if lingering.CompareAndSwap(true, false) {
			<-c.Done()
			return nil, c.Err()
		}
		s.Count++
	case "timer":
		return nil, c.SetTimer("tick", 5*time.Millisecond, 0, nil)
	case "every":
		return nil, c.SetTimer("tick", 5*time.Millisecond, 5*time.Millisecond, nil)
	case "clear":
		c.ClearTimer("tick")
	case "delete":
		c.Delete()
	}
	return nil, nil
}

// types is a type of each durability.
func types() []host.Type {
	return []host.Type{
		{Name: "turn", New: host.JSON(turn)},
		{Name: "periodic", Durable: host.Periodic, New: host.JSON(turn)},
		{Name: "none", Durable: host.None, New: host.JSON(turn)},
		{Name: "short", Durable: host.None, New: host.JSON(turn), Functions: []string{"wait", "inc"}, Timeout: 20 * time.Millisecond},
	}
}

// cluster is hosts in this process, and the authority that they ask.
type cluster struct {
	t         testing.TB
	root      string
	authority *hosttest.Authority
	agents    map[string]*hosttest.Agent
	hosts     map[string]*host.Host
	nodes     map[string]string
	change    func(*host.Options)
	cert, key []byte
}

// newCluster starts hosts that share the shards. A server called a.b is on node a.
func newCluster(t testing.TB, servers ...string) *cluster {
	return newClusterWith(t, func(*host.Options) {}, servers...)
}

func newClusterWith(t testing.TB, change func(*host.Options), servers ...string) *cluster {
	t.Helper()
	c := prepare(t, change, servers...)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, s := range servers {
		wg.Go(func() {
			h, err := host.Start(context.Background(), c.options(s))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			c.hosts[s] = h
			mu.Unlock()
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return c
}

// prepare makes a cluster whose hosts are not started.
func prepare(t testing.TB, change func(*host.Options), servers ...string) *cluster {
	t.Helper()
	root, err := os.MkdirTemp("", "host") // the paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{
		t: t, root: root, authority: hosttest.New(servers...), agents: map[string]*hosttest.Agent{},
		hosts: map[string]*host.Host{}, nodes: map[string]string{}, change: change,
	}
	if c.cert, c.key, err = hosttest.Certificate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	for _, s := range servers {
		c.nodes[s] = s[:1]
		g, err := c.authority.Serve(s, c.nodes[s], c.dirs(s).Agent, c.cert, c.key)
		if err != nil {
			t.Fatal(err)
		}
		c.agents[s] = g
	}
	return c
}

func (c *cluster) stop() {
	for _, g := range c.agents {
		g.Resume()
		g.Slow.Store(0)
	}
	for s, h := range c.hosts {
		if err := h.Close(); err != nil {
			c.t.Errorf("%s: %v", s, err)
		}
	}
	for _, g := range c.agents {
		g.Close()
	}
	os.RemoveAll(c.root)
}

func (c *cluster) dirs(server string) hosttest.Dirs {
	return hosttest.DirsOf(c.root, "node-"+server[:1], server)
}

func (c *cluster) options(server string) host.Options {
	d := c.dirs(server)
	o := host.Options{
		Types: types(), Agent: d.Agent, Control: d.Control, Peers: d.Peers, State: d.State,
		Address: "127.0.0.1", Listen: "127.0.0.1:0",
	}
	c.change(&o)
	return o
}

// restart closes a host and starts it again.
func (c *cluster) restart(server string) {
	c.t.Helper()
	if err := c.hosts[server].Close(); err != nil {
		c.t.Fatal(err)
	}
	delete(c.hosts, server)
	h, err := host.Start(c.t.Context(), c.options(server))
	if err != nil {
		c.t.Fatal(err)
	}
	c.hosts[server] = h
}

// on gives an actor that a server has.
func (c *cluster) on(server, kind string, n int) placement.Actor {
	for i := 0; ; i++ {
		a := placement.Actor{Type: kind, Key: fmt.Sprintf("%d", i)}
		if c.authority.Owner(a).Server == server {
			if n--; n < 0 {
				return a
			}
		}
	}
}

// call calls through a server's host.
func (c *cluster) call(server string, to placement.Actor, function string, body []byte) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b, err := c.hosts[server].Call(ctx, to, function, body)
	return string(b), err
}

func (c *cluster) must(server string, to placement.Actor, function string, body []byte) string {
	c.t.Helper()
	s, err := c.call(server, to, function, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cluster) ledger(server string, of placement.Actor) (l ledger) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.must(server, of, "get", nil)), &l); err != nil {
		c.t.Fatal(err)
	}
	return l
}

var moveID struct {
	sync.Mutex
	n int
}

func newMove() string {
	moveID.Lock()
	defer moveID.Unlock()
	moveID.n++
	return fmt.Sprintf("move-%d", moveID.n)
}

// move moves an actor from its owner.
func (c *cluster) move(a placement.Actor, to string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return c.authority.Move(ctx, c.dirs(c.authority.Owner(a).Server).Control, a, to, newMove())
}

// eventually waits until ok; nothing announces what it waits for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
