package peer_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/hosttest"
	"github.com/peregrine-dev/peregrine/plasma/host/peer"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type service struct{ api.PeerService }

func (service) Activate(context.Context, *api.ActivateRequest) (*api.ActivateResponse, error) {
	return &api.ActivateResponse{}, nil
}

func serve(t *testing.T, l net.Listener) {
	t.Helper()
	s, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	api.RegisterPeerService(s, service{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(context.Background(), l) })
	t.Cleanup(func() { s.Close(); wg.Wait() })
}

func certificate(t *testing.T) *tls.Certificate {
	t.Helper()
	cert, key, err := hosttest.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// TestTLS lets in who has the service's certificate, and nobody else.
func TestTLS(t *testing.T) {
	ours, theirs := certificate(t), certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, tls.NewListener(l, peer.TLS(ours)))
	server := placement.Server{ID: "b1", Node: "b", Instance: 1, Address: l.Addr().String()}
	for _, who := range []*tls.Certificate{ours, theirs, nil} {
		p := peer.NewPool("a", t.TempDir(), who)
		c, err := p.Get(t.Context(), server)
		if err == nil {
			_, err = c.Activate(t.Context(), &api.ActivateRequest{})
		}
		if (err == nil) != (who == ours) {
			t.Errorf("with its own certificate: %t: %v", who == ours, err)
		}
		p.Close()
		if _, err := p.Get(t.Context(), server); !errdefs.IsUnavailable(err) {
			t.Error(err)
		}
	}
}

func TestUnix(t *testing.T) {
	dir := t.TempDir()
	p := peer.NewPool("a", dir, nil)
	defer p.Close()
	server := placement.Server{ID: "a1", Node: "a", Instance: 1}
	if _, err := p.Get(t.Context(), server); !errdefs.IsUnavailable(err) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", peer.Socket(dir, "a1"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := server
			s.Instance += uint64(i / 4) // a new instance is a new connection
			c, err := p.Get(t.Context(), s)
			if err != nil {
				return // another one's instance took its place
			}
			_, _ = c.Activate(t.Context(), &api.ActivateRequest{})
		})
	}
	wg.Wait()
	c, err := p.Get(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Activate(t.Context(), &api.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
}
