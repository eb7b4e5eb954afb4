package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/peregrine-dev/peregrine/internal/unixsocket"
	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// Sockets within a server's directory, and of a service's clients on the node.
const (
	agentSocket = "agent.sock"
	hostSocket  = "host.sock"
)

// clients is the directory of the socket for clients of a service that host nothing.
func (n *Node) clients(serviceName string) string {
	return filepath.Join(n.Sockets, "clients", serviceName)
}

// ClientSocket is where programs on this node find a service, to call its actors.
func (n *Node) ClientSocket(serviceName string) string {
	return filepath.Join(n.clients(serviceName), agentSocket)
}

// PeersOf is the directory of the sockets of a service's hosts on this node: the driver's.
func (n *Node) PeersOf(serviceName string) string {
	return filepath.Join(n.Sockets, "peers", serviceName)
}

// agent is a socket for one server's host, or for a service's clients.
type agent struct {
	*Node
	service, server string // server is empty of clients

	rpcs     *ttrpc.Server
	listener net.Listener

	mu       sync.Mutex
	instance place.Instance // that has registered; Instance 0 is none
	under    int64          // the node's lease when it did
	host     *ttrpc.Client  // of its control socket; nil until it is needed
	relocate bool
}

// listen has a server's host find its agent, if it doesn't already.
func (n *Node) listen(ctx context.Context, there map[string]bool, s place.Service, spec *service.Spec, server string) {
	dir := n.clients(s.Name)
	if server != "" {
		dir = n.directory(server)
	}
	there[dir] = true
	n.mu.Lock()
	a := n.agents[dir]
	n.mu.Unlock()
	if a != nil {
		a.mu.Lock()
		a.relocate = spec.Relocate
		a.mu.Unlock()
		return
	}
	a = &agent{Node: n, service: s.Name, server: server, relocate: spec.Relocate}
	if err := a.open(ctx, dir); err != nil {
		n.failed(ctx, cmp.Or(server, s.Name), err)
		return
	}
	n.mu.Lock()
	n.agents[dir] = a
	n.mu.Unlock()
}

func (a *agent) open(ctx context.Context, dir string) error {
	l, err := unixsocket.Listen(filepath.Join(dir, agentSocket))
	if err != nil {
		return err
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	a.rpcs, a.listener = srv, l
	api.RegisterAgentService(srv, a)
	if a.server == "" {
		// Whoever may open a socket of root's directory may call.
		if err := os.Chmod(dir, 0o700); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	if err := own(dir); err != nil {
		return errors.Join(err, l.Close())
	}
	a.group.Go(func() error {
		if err := srv.Serve(ctx, l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) && ctx.Err() == nil {
			log.G(ctx).WithError(err).WithField("server", a.server).Warn("no longer listening to a server")
		}
		return nil
	})
	return nil
}

// own gives the socket in a server's directory to whom the directory belongs: the user that the
// server's process has.
func own(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if s, ok := fi.Sys().(*syscall.Stat_t); ok {
		return os.Lchown(filepath.Join(dir, agentSocket), int(s.Uid), int(s.Gid))
	}
	return nil
}

func (a *agent) close() {
	_ = a.rpcs.Close()
	_ = a.listener.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.host != nil {
		_ = a.host.Close()
		a.host = nil
	}
}

// keepAgents closes those of directories that are not there any more.
func (n *Node) keepAgents(there map[string]bool) {
	n.mu.Lock()
	var gone []string
	for dir := range n.agents {
		if !there[dir] {
			gone = append(gone, dir)
		}
	}
	n.mu.Unlock()
	for _, dir := range gone {
		n.dismiss(dir)
		if filepath.Dir(dir) == filepath.Join(n.Sockets, "clients") {
			_ = os.RemoveAll(dir)
		}
	}
}

// dismiss closes an agent, if it is there.
func (n *Node) dismiss(dir string) {
	n.mu.Lock()
	a := n.agents[dir]
	delete(n.agents, dir)
	n.mu.Unlock()
	if a != nil {
		a.close()
	}
}

func (n *Node) closeAgents() {
	n.mu.Lock()
	all := n.agents
	n.agents = map[string]*agent{}
	n.mu.Unlock()
	for _, a := range all {
		a.close()
	}
}

// agentOf gives a server's.
func (n *Node) agentOf(server string) (*agent, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.agents[n.directory(server)]
	if a == nil {
		return nil, fmt.Errorf("server %s: %w", server, errGone)
	}
	return a, nil
}

// control gives the client of the host's own socket.
func (a *agent) control(ctx context.Context) (api.HostService, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.host == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", filepath.Join(a.directory(a.server), hostSocket))
		if err != nil {
			return nil, fmt.Errorf("the host in server %s: %w", a.server, err)
		}
		var client *ttrpc.Client
		client = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() { a.hangUp(client) }))
		a.host = client
	}
	return api.NewHostClient(a.host), nil
}

// hangUp forgets a connection that has ended.
func (a *agent) hangUp(c *ttrpc.Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.host == c {
		a.host = nil
	}
}
