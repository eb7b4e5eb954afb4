package hosttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

// Agent is an authority's socket for one server. Its faults are for all calls that follow.
type Agent struct {
	authority *Authority
	server    string
	node      string
	socket    string
	cert, key []byte

	// Unavailable has Commit and Report answered with that, without effect.
	Unavailable atomic.Bool
	// LoseAnswer has Commit take effect and be answered with Unavailable.
	LoseAnswer atomic.Bool
	// Slow is for how long all answers wait, in nanoseconds.
	Slow atomic.Int64
	// Reports is how many there were, Commits how many calls of Commit.
	Reports, Commits atomic.Int64

	mu     sync.Mutex
	told   []*api.ReportRequest
	paused chan struct{} // closed when calls go on
	cancel context.CancelFunc
	srv    *ttrpc.Server
	ended  chan struct{}
	calls  sync.WaitGroup
}

// Serve serves the Agent protocol to a server, or, if it is empty, to clients. The certificate,
// in PEM, may be empty. The caller closes the agent.
func (a *Authority) Serve(server, node, socket string, certificate, key []byte) (*Agent, error) {
	open := make(chan struct{})
	close(open)
	g := &Agent{authority: a, server: server, node: node, socket: socket, cert: certificate, key: key, paused: open}
	return g, g.Start()
}

// Start begins to listen, after Kill.
func (g *Agent) Start() error {
	if err := os.MkdirAll(filepath.Dir(g.socket), 0o700); err != nil {
		return err
	}
	if err := os.Remove(g.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", g.socket)
	if err != nil {
		return err
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		l.Close()
		return err
	}
	api.RegisterAgentService(srv, g)
	ctx, cancel := context.WithCancel(context.Background())
	conns := &closer{Listener: l, conns: map[net.Conn]bool{}}
	g.mu.Lock()
	g.srv, g.ended = srv, make(chan struct{})
	g.cancel = func() { cancel(); conns.closeAll() }
	ended := g.ended
	g.mu.Unlock()
	go func() {
		defer close(ended)
		_ = srv.Serve(ctx, conns)
	}()
	return nil
}

// Kill ends the socket and all connections at once, as when plasmad is killed. What the authority
// knows stays.
func (g *Agent) Kill() {
	g.mu.Lock()
	srv, cancel, ended := g.srv, g.cancel, g.ended
	g.srv = nil
	g.mu.Unlock()
	if srv == nil {
		return
	}
	cancel()
	_ = srv.Close()
	<-ended
	g.calls.Wait()
}

// Close ends the agent.
func (g *Agent) Close() { g.Resume(); g.Kill() }

// Pause has all calls wait until Resume.
func (g *Agent) Pause() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.paused = make(chan struct{})
}

// Resume ends Pause.
func (g *Agent) Resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.paused:
	default:
		close(g.paused)
	}
}

// hold is how each call begins.
func (g *Agent) hold(ctx context.Context) error {
	g.mu.Lock()
	paused := g.paused
	g.mu.Unlock()
	select {
	case <-paused:
	case <-ctx.Done():
		return ctx.Err()
	}
	if d := time.Duration(g.Slow.Load()); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// maxReports is how many are kept for Take.
const maxReports = 64

// Take gives the oldest report that was not taken yet; nil if there is none.
func (g *Agent) Take() *api.ReportRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.told) == 0 {
		return nil
	}
	r := g.told[0]
	g.told = g.told[1:]
	return r
}

var errDown = errgrpc.ToGRPC(fmt.Errorf("the authority can't be reached: %w", errdefs.ErrUnavailable))

// Register implements api.AgentService.
func (g *Agent) Register(ctx context.Context, req *api.RegisterRequest) (*api.RegisterResponse, error) {
	if err := g.hold(ctx); err != nil {
		return nil, err
	}
	return g.authority.register(g.server, g.node, g.cert, g.key, req), nil
}

// Watch implements api.AgentService.
func (g *Agent) Watch(ctx context.Context, _ *api.WatchRequest, s api.Agent_WatchServer) error {
	g.calls.Add(1)
	defer g.calls.Done()
	if err := g.hold(ctx); err != nil {
		return err
	}
	p, n := g.authority.whole()
	if err := s.Send(p); err != nil {
		return err
	}
	for {
		if err := g.hold(ctx); err != nil {
			return err
		}
		changes, changed := g.authority.since(n)
		for _, p := range changes {
			if err := s.Send(p); err != nil {
				return err
			}
			n++
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Commit implements api.AgentService.
func (g *Agent) Commit(ctx context.Context, req *api.CommitRequest) (*api.CommitResponse, error) {
	if err := g.hold(ctx); err != nil {
		return nil, err
	}
	g.Commits.Add(1)
	if g.Unavailable.Load() {
		return nil, errDown
	}
	resp := &api.CommitResponse{}
	for _, m := range req.GetMoves() {
		resp.Refused = append(resp.Refused, g.authority.commit(g.server, req.GetInstance(), m))
	}
	if g.LoseAnswer.Load() {
		return nil, errDown
	}
	return resp, nil
}

// Report implements api.AgentService.
func (g *Agent) Report(ctx context.Context, req *api.ReportRequest) (*api.ReportResponse, error) {
	if err := g.hold(ctx); err != nil {
		return nil, err
	}
	if g.Unavailable.Load() {
		return nil, errDown
	}
	known, present := g.authority.present(g.server, req.GetInstance())
	switch {
	case !known:
		return nil, errgrpc.ToGRPC(fmt.Errorf("%s is not known: %w", g.server, errdefs.ErrNotFound))
	case !present:
		return nil, errgrpc.ToGRPC(fmt.Errorf("%s has another instance: %w", g.server, errdefs.ErrFailedPrecondition))
	}
	g.mu.Lock()
	if len(g.told) == maxReports {
		g.told = g.told[1:]
	}
	g.told = append(g.told, req)
	g.mu.Unlock()
	g.Reports.Add(1)
	g.authority.mu.Lock()
	defer g.authority.mu.Unlock()
	return &api.ReportResponse{Lease: g.authority.lease}, nil
}

// closer is a listener whose connections can be closed.
type closer struct {
	net.Listener
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func (c *closer) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
	}
	c.conns[conn] = true
	return conn, nil
}

func (c *closer) closeAll() {
	c.Listener.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.conns {
		conn.Close()
	}
}
