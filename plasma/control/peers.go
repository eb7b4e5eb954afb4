package control

import (
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/peregrine-dev/peregrine/plasma/place"
)

// pings is how often a connection without traffic is tried.
const pings = 10 * time.Second

// Pinged has a server of nodes let them try their connections that often.
func Pinged() grpc.ServerOption {
	return grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pings / 2, PermitWithoutStream: true})
}

// Soon has a client find a server that was away soon after it is back. By default gRPC looks only
// every two minutes in the end.
func Soon() grpc.DialOption {
	return grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: time.Second},
		MinConnectTimeout: 3 * time.Second,
	})
}

// Peers are the other nodes' plasmads. It may be used by several goroutines at once.
type Peers struct {
	credentials credentials.TransportCredentials // nil: there are no other nodes

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // by address
}

// NewPeers connects with these credentials; nil if the node is by itself.
func NewPeers(c credentials.TransportCredentials) *Peers {
	return &Peers{credentials: c, conns: map[string]*grpc.ClientConn{}}
}

// To gives the connection to a node.
func (p *Peers) To(m place.Member) (*grpc.ClientConn, error) {
	if p.credentials == nil || m.Address == "" {
		return nil, fmt.Errorf("node %s can't be reached: set address and [tls] in plasmad's configuration there and here: %w", m.Node, errdefs.ErrFailedPrecondition)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[m.Address]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("passthrough:///"+m.Address, grpc.WithTransportCredentials(p.credentials),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		Soon(), grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pings, Timeout: 3 * time.Second, PermitWithoutStream: true}))
	if err != nil {
		return nil, err
	}
	p.conns[m.Address] = c
	return c, nil
}

// Close closes all connections.
func (p *Peers) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}
