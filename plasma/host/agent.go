package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

// agent is the connection to the node's plasmad, which is made again when that comes back.
type agent struct {
	socket string

	mu     sync.Mutex
	client *ttrpc.Client
	closed bool
}

// get gives the connection; ErrUnavailable while nobody listens.
func (g *agent) get(ctx context.Context) (api.AgentClient, *ttrpc.Client, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, nil, errClosed
	}
	if g.client == nil {
		d := net.Dialer{Timeout: time.Second}
		conn, err := d.DialContext(ctx, "unix", g.socket)
		if err != nil {
			return nil, nil, fmt.Errorf("reach plasmad: %w: %w", err, errdefs.ErrUnavailable)
		}
		g.client = ttrpc.NewClient(conn)
	}
	return api.NewAgentClient(g.client), g.client, nil
}

// lost closes a connection on which a call has failed for want of an answer.
func (g *agent) lost(c *ttrpc.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client == c && c != nil {
		g.client = nil
		closeClient(c)
	}
}

// closeClient closes a connection and waits for its goroutine.
func closeClient(c *ttrpc.Client) {
	c.Close()
	_ = c.UserOnCloseWait(context.Background())
}

func (g *agent) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.client != nil {
		closeClient(g.client)
		g.client = nil
	}
}

// ask makes one call. The connection is given up when it gave no answer.
func ask[T any](ctx context.Context, g *agent, timeout time.Duration, call func(context.Context, api.AgentClient) (T, error)) (T, error) {
	var none T
	a, client, err := g.get(ctx)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := call(ctx, a)
	if err == nil {
		return resp, nil
	}
	if errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, context.DeadlineExceeded) {
		g.lost(client)
		return none, fmt.Errorf("plasmad does not answer: %w: %w", err, errdefs.ErrUnavailable)
	}
	return none, native(err)
}

// agentTimeout is for answers of plasmad; what is in doubt is asked again.
const agentTimeout = 5 * time.Second

// register asks until it is answered, or refused.
func (g *agent) register(ctx context.Context, req *api.RegisterRequest) (*api.RegisterResponse, time.Duration, error) {
	for delay := retryFirst; ; delay = min(2*delay, retryLast) {
		asked := boottime()
		resp, err := ask(ctx, g, 30*time.Second, func(ctx context.Context, a api.AgentClient) (*api.RegisterResponse, error) {
			return a.Register(ctx, req)
		})
		switch {
		case err == nil:
			return resp, asked, nil
		case !errdefs.IsUnavailable(err) && !errdefs.IsUnknown(err):
			return nil, 0, fmt.Errorf("register with plasmad: %w", err)
		}
		if e := sleep(ctx, delay); e != nil {
			return nil, 0, fmt.Errorf("register with plasmad: %w: %w", e, err)
		}
	}
}

// watch takes in the placement until ctx ends, with a new connection whenever the old one ends.
// first is closed after the first one.
func (g *agent) watch(ctx context.Context, o *owners, first chan<- struct{}, applied func(*api.Placement)) {
	for delay := retryFirst; ctx.Err() == nil; delay = min(2*delay, retryLast) {
		n, err := g.watchOnce(ctx, o, func(p *api.Placement) {
			applied(p)
			if first != nil {
				close(first)
				first = nil
			}
		})
		if n > 0 {
			delay = retryFirst
		}
		if ctx.Err() == nil {
			log.G(ctx).WithError(err).Debug("plasmad's placement ends; asking again")
		}
		_ = sleep(ctx, delay)
	}
}

func (g *agent) watchOnce(ctx context.Context, o *owners, applied func(*api.Placement)) (n int, err error) {
	// A stream can't be ended by the one who watches: it gets a connection of its own.
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "unix", g.socket)
	if err != nil {
		return 0, err
	}
	client := ttrpc.NewClient(conn)
	defer closeClient(client)
	stream, err := api.NewAgentClient(client).Watch(ctx, &api.WatchRequest{})
	if err != nil {
		return 0, err
	}
	for ; ; n++ {
		p, err := stream.Recv()
		if err != nil {
			return n, err
		}
		if p.GetWhole() && p.GetRevision() < o.view.Revision() {
			return n, fmt.Errorf("a placement of revision %d, older than %d: %w", p.GetRevision(), o.view.Revision(), errdefs.ErrUnavailable)
		}
		if err := o.apply(p); err != nil {
			return n, err
		}
		applied(p)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
