// Package control answers plasmactl and other plasmads over gRPC. What is the global manager's is
// handed on to the node that is it.
package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/place"
)

// MaxMessage bounds what is said at once, in bytes.
const MaxMessage = 64 << 20

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

// certificate makes what the hosts of a service know each other by.
func certificate(service string) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: service}, DNSNames: []string{service},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &k.PublicKey, k)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}

// LocalNode is what this node's package node does.
type LocalNode interface {
	Profile(ctx context.Context, period time.Duration, got func(*api.ProfileResponse) error) error
	Freeze(ctx context.Context, r *api.NodeFreezeRequest) (*api.FreezeResponse, error)
	// ClientSocket and PeersOf are where programs on this node find a service's hosts.
	ClientSocket(service string) string
	PeersOf(service string) string
}

// Nodes asks this node and others. It is global.Nodes.
type Nodes struct {
	Node  string // this one
	Local LocalNode
	Peers *Peers
}

// Profile gives what a node measures, until ctx is done or the node is lost.
func (n Nodes) Profile(ctx context.Context, m place.Member, period time.Duration, got func(*api.ProfileResponse)) error {
	if m.Node == n.Node {
		return n.Local.Profile(ctx, period, func(p *api.ProfileResponse) error { got(p); return nil })
	}
	c, err := n.Peers.To(m)
	if err != nil {
		return err
	}
	stream, err := api.NewNodeClient(c).Profile(ctx, &api.ProfileRequest{Period: int64(period)})
	if err != nil {
		return errgrpc.ToNative(err)
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			return errgrpc.ToNative(err)
		}
		got(p)
	}
}

// Freeze is package node's Freeze, of any node.
func (n Nodes) Freeze(ctx context.Context, m place.Member, r *api.NodeFreezeRequest) (*api.FreezeResponse, error) {
	if m.Node == n.Node {
		return n.Local.Freeze(ctx, r)
	}
	c, err := n.Peers.To(m)
	if err != nil {
		return nil, err
	}
	answer, err := api.NewNodeClient(c).Freeze(ctx, r)
	return answer, errgrpc.ToNative(err)
}

// NodeServer answers other nodes.
type NodeServer struct {
	api.UnimplementedNodeServer
	Local LocalNode
}

// Profile is api.NodeServer's.
func (s NodeServer) Profile(r *api.ProfileRequest, to grpc.ServerStreamingServer[api.ProfileResponse]) error {
	period := time.Duration(r.GetPeriod())
	if period < 100*time.Millisecond {
		return errgrpc.ToGRPC(fmt.Errorf("a period of %s is too short: %w", period, errdefs.ErrInvalidArgument))
	}
	return errgrpc.ToGRPC(s.Local.Profile(to.Context(), period, to.Send))
}

// Freeze is api.NodeServer's.
func (s NodeServer) Freeze(ctx context.Context, r *api.NodeFreezeRequest) (*api.FreezeResponse, error) {
	answer, err := s.Local.Freeze(ctx, r)
	return answer, errgrpc.ToGRPC(err)
}
