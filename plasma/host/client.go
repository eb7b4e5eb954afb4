package host

import (
	"context"
	"fmt"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/peer"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Client calls the actors of a service and has none. Its methods may be called by several
// goroutines at once.
type Client struct {
	cancel context.CancelFunc
	agent  *agent
	router *router
	done   chan struct{}
}

// Dial connects to plasmad's socket for clients of a service, and returns when it knows where the
// actors are. peers is the directory in which the hosts of the node listen. Empty ones are taken
// from PLASMA_AGENT and PLASMA_PEERS. ctx ends the dialing only; the caller closes the client.
func Dial(ctx context.Context, socket, peers string) (*Client, error) {
	o := Options{Agent: socket, Peers: peers}.withDefaults()
	g := &agent{socket: o.Agent}
	resp, _, err := g.register(ctx, &api.RegisterRequest{Version: protocol})
	if err != nil {
		g.close()
		return nil, err
	}
	certificate, err := certificateOf(resp)
	if err != nil {
		g.close()
		return nil, err
	}
	owners := newOwners()
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &Client{
		cancel: cancel, agent: g, done: make(chan struct{}),
		router: &router{owners: owners, pool: peer.NewPool(resp.GetNode(), o.Peers, certificate), closed: run.Done()},
	}
	first := make(chan struct{})
	go func() {
		defer close(c.done)
		g.watch(run, owners, first, func(*api.Placement) {})
	}()
	select {
	case <-first:
		return c, nil
	case <-ctx.Done():
		c.Close()
		return nil, fmt.Errorf("wait for the placement: %w", ctx.Err())
	}
}

// Call is as Host.Call.
func (c *Client) Call(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error) {
	if err := checkMessage(to, function, body); err != nil {
		return nil, err
	}
	return c.router.call(ctx, &outgoing{to: to, function: function, body: body})
}

// Send is as Host.Send.
func (c *Client) Send(ctx context.Context, to placement.Actor, function string, body []byte) error {
	return dropAnswer(c.Call(ctx, to, function, body))
}

// Close closes the connections. Calls under way fail.
func (c *Client) Close() error {
	c.cancel()
	<-c.done
	c.router.pool.Close()
	c.agent.close()
	return nil
}
