// Package examples tests the examples as they are: real programs, with real hosts.
package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/vet"
	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/host/hosttest"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
	"github.com/peregrine-dev/peregrine/plasma/placement"
	"github.com/peregrine-dev/peregrine/plasma/service"
	"github.com/peregrine-dev/peregrine/plasma/sidecar"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is two servers of a service on one node, and a client.
type cluster struct {
	t         *testing.T
	root      string
	authority *hosttest.Authority
	client    *host.Client
	servers   []*running
}

// running is a server with an application.
type running struct {
	name   string
	config sidecar.Config
	stop   context.CancelFunc
	ended  chan struct{}
	status int
	err    error
}

func newCluster(t *testing.T) *cluster {
	root, err := os.MkdirTemp("", "p") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, root: root, authority: hosttest.New("s-1", "s-2")}
	t.Cleanup(func() { os.RemoveAll(root) })
	return c
}

// options are those of a server's host, whose plasmad is there until the test ends.
func (c *cluster) options(server string) host.Options {
	d := hosttest.DirsOf(c.root, "node", server)
	g, err := c.authority.Serve(server, "node", d.Agent, nil, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(g.Close)
	return host.Options{Agent: d.Agent, Control: d.Control, Peers: d.Peers, State: d.State}
}

// dial makes the client, when there are servers.
func (c *cluster) dial() {
	socket := filepath.Join(c.root, "client.agent")
	g, err := c.authority.Serve("", "node", socket, nil, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(g.Close)
	if c.client, err = host.Dial(c.t.Context(), socket, filepath.Join(c.root, "node")); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { c.client.Close() })
}

// runApplication runs a program in both servers.
func runApplication(t *testing.T, program, file string) *cluster {
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%v: install Debian's %s", err, map[string]string{"python3": "python3", "node": "nodejs"}[program])
	}
	c := newCluster(t)
	for _, name := range []string{"s-1", "s-2"} {
		r := &running{name: name, config: sidecar.Config{
			Port: freePort(t), Command: []string{program, file}, Listen: "127.0.0.1:0", Host: c.options(name),
		}}
		c.start(r)
		c.servers = append(c.servers, r)
	}
	c.dial()
	return c
}

func (c *cluster) start(r *running) {
	ctx, stop := context.WithCancel(c.t.Context())
	r.stop, r.ended = stop, make(chan struct{})
	ended := r.ended
	go func() {
		defer close(ended)
		r.status, r.err = sidecar.Run(ctx, r.config)
	}()
	c.t.Cleanup(func() {
		stop()
		<-ended
	})
}

func freePort(t *testing.T) uint16 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// call calls an actor, and takes the answer into what is pointed to.
func (c *cluster) call(kind, key, function string, body, answer any) error {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	text, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	if text, err = c.client.Call(ctx, placement.Actor{Type: kind, Key: key}, function, text); err != nil {
		return err
	}
	if answer != nil {
		if err := json.Unmarshal(text, answer); err != nil {
			c.t.Fatalf("%s: %v", text, err)
		}
	}
	return nil
}

func (c *cluster) must(kind, key, function string, body, answer any) {
	c.t.Helper()
	if err := c.call(kind, key, function, body, answer); err != nil {
		c.t.Fatal(err)
	}
}

// eventually waits for what a send brings about: nobody tells when it has arrived.
func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			c.t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// moveAway moves an actor to the server that it isn't at.
func (c *cluster) moveAway(kind, key string) {
	c.t.Helper()
	a := placement.Actor{Type: kind, Key: key}
	from, to := "s-1", "s-2"
	if c.authority.Owner(a).Server == "s-2" {
		from, to = to, from
	}
	if _, err := c.authority.Move(c.t.Context(), hosttest.DirsOf(c.root, "node", from).Control, a, to, "move-"+key); err != nil {
		c.t.Fatal(err)
	}
}

// ask asks an application as a client of it does.
func (r *running) ask(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d%s", r.config.Port, path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Close = true
	response, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(bytes.TrimSpace(text))
}

func TestPython(t *testing.T) {
	c := runApplication(t, "python3", "python/app.py")
	for i, user := range []string{"ann", "bob", "ann"} {
		c.must("Room", "lobby", "say", map[string]any{"user": user, "text": fmt.Sprint(i)}, nil)
	}
	type line struct{ Room, User, Text string }
	var inbox []line
	heard := func() bool { c.must("User", "bob", "read", nil, &inbox); return len(inbox) > 0 }
	c.eventually("bob hears ann", heard)
	if inbox[0] != (line{"lobby", "ann", "2"}) {
		t.Errorf("bob has heard %v", inbox)
	}
	// The room moves, and nothing is lost.
	c.moveAway("Room", "lobby")
	var lines []line
	if c.must("Room", "lobby", "say", map[string]any{"user": "bob", "text": "3"}, &lines); len(lines) != 4 {
		t.Errorf("the room has %v", lines)
	}
	// What is wrong changes nothing.
	for _, body := range []any{map[string]any{"user": "bob", "text": ""}, map[string]any{}, 1} {
		if err := c.call("Room", "lobby", "say", body, nil); err == nil {
			t.Errorf("%v was said", body)
		}
	}
	if err := c.call("Room", "lobby", "shout", nil, nil); !errdefs.IsNotFound(err) {
		t.Errorf("a function that isn't there: %v", err)
	}
	// As clients of the application have it.
	if status, text := c.servers[0].ask(t, "POST", "/rooms/r%2F1/zoe", "hello"); status != 200 || !strings.Contains(text, "hello") {
		t.Errorf("%d %s", status, text)
	}
	if status, text := c.servers[1].ask(t, "GET", "/users/bob", ""); status != 200 || !strings.Contains(text, "ann") {
		t.Errorf("%d %s", status, text)
	}
	if status, _ := c.servers[1].ask(t, "GET", "/other", ""); status != 404 {
		t.Errorf("%d", status)
	}
	c.refusesStrangers()
	c.restarts(func() {
		if c.must("Room", "lobby", "read", nil, &lines); len(lines) != 4 || lines[3].Text != "3" {
			t.Errorf("after the restart the room has %v", lines)
		}
	})
}

func TestNode(t *testing.T) {
	c := runApplication(t, "node", "node/app.js")
	var total struct{ Total, Paid int }
	c.must("Cart", "ann", "add", map[string]any{"sku": "tea", "count": 2}, nil)
	if c.must("Cart", "ann", "add", map[string]any{"sku": "milk", "count": 1}, &total); total.Total != 2*4+5 {
		t.Errorf("the cart is %v", total)
	}
	c.moveAway("Cart", "ann")
	if c.must("Cart", "ann", "checkout", nil, &total); total.Paid != 13 {
		t.Errorf("paid %v", total)
	}
	var item struct{ Sold int }
	c.eventually("tea is sold", func() bool { c.must("Item", "tea", "read", nil, &item); return item.Sold > 0 })
	if item.Sold != 2 {
		t.Errorf("tea was sold %d times", item.Sold)
	}
	// The cart has ended.
	err := c.call("Cart", "ann", "checkout", nil, nil)
	if err == nil || err.Error() != "the cart is empty" {
		t.Errorf("%v", err)
	}
	if status, text := c.servers[0].ask(t, "POST", "/carts/ann/checkout", "{}"); status != 422 || !strings.Contains(text, "empty") {
		t.Errorf("%d %s", status, text)
	}
	if status, text := c.servers[1].ask(t, "POST", "/carts/bob/add", `{"sku": "tea", "count": 1}`); status != 200 || text != `{"total":4}` {
		t.Errorf("%d %s", status, text)
	}
	c.refusesStrangers()
	c.restarts(func() {
		if c.must("Item", "tea", "read", nil, &item); item.Sold != 2 {
			t.Errorf("after the restart tea was sold %d times", item.Sold)
		}
	})
}

// refusesStrangers checks that only the sidecar may ask for turns.
func (c *cluster) refusesStrangers() {
	c.t.Helper()
	for _, path := range []string{"/plasma/types", "/plasma/turn"} {
		method := map[bool]string{true: "POST", false: "GET"}[path == "/plasma/turn"]
		if status, text := c.servers[0].ask(c.t, method, path, "{}"); status != 401 {
			c.t.Errorf("%s of somebody else: %d %s", path, status, text)
		}
	}
}

// restarts ends both servers and starts them again; check is called then.
func (c *cluster) restarts(check func()) {
	c.t.Helper()
	for _, r := range c.servers {
		r.stop()
		<-r.ended
		if r.err != nil || r.status != 143 {
			c.t.Errorf("%s has ended with %d, %v", r.name, r.status, r.err)
		}
		c.start(r)
	}
	check()
}

// What the examples say of themselves is right: service, manifest and policy.
func TestFiles(t *testing.T) {
	for _, dir := range []string{"counter", "python", "node"} {
		b, err := service.Read(filepath.Join(dir, "service.toml"))
		if err != nil {
			t.Error(err)
			continue
		}
		m, err := manifest.Read(b.Spec.Manifest, []byte(b.Manifest))
		if err != nil {
			t.Error(err)
			continue
		}
		p, err := epl.Parse(b.Spec.Policy, []byte(b.Policy), epl.Full)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, f := range vet.Check(p, m) {
			if f.Severity != vet.Note {
				t.Errorf("%s: %s: %s", b.Spec.Policy, f.Code, f.Message)
			}
		}
	}
}
