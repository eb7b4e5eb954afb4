// Package peer is a host's connections to the others of its service: a unix socket on the same
// node, TCP with mutual TLS to other nodes.
package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

const (
	dialTimeout = 2 * time.Second
	// deafTimeout is how long a node may not acknowledge what it is sent. Without it the kernel
	// tries for a quarter of an hour, later each time, when a node was cut off.
	deafTimeout = 5 * time.Second
)

// notDeaf has the kernel end a connection to a node that acknowledges nothing.
func notDeaf(_, _ string, c syscall.RawConn) (err error) {
	set := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deafTimeout/time.Millisecond))
	})
	return errors.Join(set, err)
}

// Socket is where a server's host listens in the directory that a node's containers share.
func Socket(dir, server string) string { return filepath.Join(dir, server+".sock") }

// Pool keeps a connection to each host. It may be used by several goroutines at once.
type Pool struct {
	node string
	dir  string
	tls  *tls.Config // nil: none to other nodes

	mu     sync.Mutex
	conns  map[string]*conn
	closed bool
}

// conn is a connection that is made, or being made. Those who want it meanwhile wait for ready.
type conn struct {
	server placement.Server
	ready  chan struct{}
	client *ttrpc.Client
	err    error
}

// NewPool makes a pool for a host on a node. The certificate is used for both ends; it may be
// nil.
func NewPool(node, dir string, certificate *tls.Certificate) *Pool {
	p := &Pool{node: node, dir: dir, conns: map[string]*conn{}}
	if certificate != nil {
		p.tls = TLS(certificate)
	}
	return p
}

// TLS gives the configuration of both ends: each shows the service's certificate and wants to be
// shown one that it vouches for. Hosts have no names to check: servers move between nodes.
func TLS(certificate *tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	for _, der := range certificate.Certificate {
		if c, err := x509.ParseCertificate(der); err == nil {
			roots.AddCert(c)
		}
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{*certificate},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, // VerifyConnection does it, without a name
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return fmt.Errorf("a peer without a certificate: %w", errdefs.ErrPermissionDenied)
			}
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
			})
			return err
		},
	}
}

// Get gives the connection to a server's host, which it makes if there is none. ErrUnavailable is
// to be tried again.
func (p *Pool) Get(ctx context.Context, s placement.Server) (api.PeerService, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, fmt.Errorf("the connections are closed: %w", errdefs.ErrUnavailable)
	}
	c := p.conns[s.ID]
	if c != nil && (c.server.Instance != s.Instance || c.server.Address != s.Address || c.server.Node != s.Node) {
		p.drop(c)
		c = nil
	}
	if c == nil {
		c = &conn{server: s, ready: make(chan struct{})}
		p.conns[s.ID] = c
		p.mu.Unlock()
		p.dial(ctx, c)
	} else {
		p.mu.Unlock()
	}
	select {
	case <-c.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.err != nil {
		return nil, fmt.Errorf("reach %s: %w: %w", s.ID, c.err, errdefs.ErrUnavailable)
	}
	return api.NewPeerClient(c.client), nil
}

func (p *Pool) dial(ctx context.Context, c *conn) {
	raw, err := p.connect(ctx, c.server)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(c.ready)
	if err == nil && (p.closed || p.conns[c.server.ID] != c) {
		raw.Close()
		err = net.ErrClosed
	}
	if err != nil {
		c.err = err
		if p.conns[c.server.ID] == c {
			delete(p.conns, c.server.ID)
		}
		return
	}
	c.client = ttrpc.NewClient(raw, ttrpc.WithOnClose(func() { p.lost(c) }))
}

func (p *Pool) connect(ctx context.Context, s placement.Server) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	if s.Node == p.node {
		return d.DialContext(ctx, "unix", Socket(p.dir, s.ID))
	}
	if p.tls == nil || s.Address == "" {
		return nil, fmt.Errorf("it is on another node, without an address or a certificate: %w", errdefs.ErrUnavailable)
	}
	d.Control = notDeaf
	return (&tls.Dialer{NetDialer: &d, Config: p.tls}).DialContext(ctx, "tcp", s.Address)
}

// lost forgets a connection that has ended.
func (p *Pool) lost(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns[c.server.ID] == c {
		delete(p.conns, c.server.ID)
	}
}

// drop closes a connection; p.mu is held.
func (p *Pool) drop(c *conn) {
	delete(p.conns, c.server.ID)
	if c.client != nil {
		c.client.Close()
	}
}

// Close closes the connections and waits for their ends.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	var clients []*ttrpc.Client
	for _, c := range p.conns {
		if c.client != nil {
			clients = append(clients, c.client)
		}
		p.drop(c)
	}
	p.mu.Unlock()
	for _, c := range clients {
		_ = c.UserOnCloseWait(context.Background())
	}
}
