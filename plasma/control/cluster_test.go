package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/global"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/place/embed"
	"github.com/peregrine-dev/peregrine/plasma/service"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nobody is a node without servers.
type nobody struct{}

func (nobody) Profile(ctx context.Context, _ time.Duration, _ func(*api.ProfileResponse) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func (nobody) Freeze(context.Context, *api.NodeFreezeRequest) (*api.FreezeResponse, error) {
	return nil, fmt.Errorf("no server is here: %w", errdefs.ErrNotFound)
}

func (nobody) ClientSocket(string) string { return "/nowhere/agent.sock" }
func (nobody) PeersOf(string) string      { return "/nowhere" }

// lab is two nodes of a cluster, of which the first one is the manager.
type lab struct {
	mirror        *place.Mirror
	first, second *ClusterServer
}

func newLab(t *testing.T) *lab {
	t.Helper()
	m, err := embed.Start(t.Context(), embed.Config{Name: "test", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	store := place.New(m.Client(), "test")
	mirror, err := store.Mirror(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mirror.Close)
	l := &lab{mirror: mirror}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	one := join(t, store, "n1", listener.Addr().String())
	two := join(t, store, "n2", "127.0.0.1:1")
	peers := NewPeers(insecure.NewCredentials())
	t.Cleanup(peers.Close)
	server := func(node string, m *place.Membership) *ClusterServer {
		return &ClusterServer{
			Node: node, Store: store, Mirror: mirror, Local: nobody{}, Peers: peers,
			Manager: global.New(global.Options{
				Cluster: "test", Period: time.Second, Store: store, Mirror: mirror, Membership: m,
				Nodes: Nodes{Node: node, Local: nobody{}, Peers: peers}, Metrics: global.NewMetrics(prometheus.NewRegistry()),
			}),
		}
	}
	l.first, l.second = server("n1", one), server("n2", two)
	srv := grpc.NewServer()
	api.RegisterClusterServer(srv, l.first)
	api.RegisterNodeServer(srv, NodeServer{Local: nobody{}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- srv.Serve(listener) }()
	go func() { ended <- l.first.Manager.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		srv.Stop()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	wait(t, "n1 is elected", func() bool {
		m, ok := mirror.Leader()
		return ok && m.Node == "n1" && l.first.Manager.Leads()
	})
	return l
}

func join(t *testing.T, s *place.Store, node, address string) *place.Membership {
	t.Helper()
	m, err := s.Join(t.Context(), place.Member{Node: node, Address: address}, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close(context.Background()) })
	return m
}

func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: ", what)
		}
	}
}

const text = "name = \"s\"\nimage = \"docker.io/library/s:%s\"\n"

func TestApply(t *testing.T) {
	l := newLab(t)
	apply := func(spec, policy string, dry bool) []string {
		t.Helper()
		r, err := l.second.Apply(t.Context(), &api.ApplyRequest{Service: spec, Policy: policy, DryRun: dry})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetChanges()
	}
	expect := func(got []string, want ...string) {
		t.Helper()
		if strings.Join(got, "; ") != strings.Join(want, "; ") {
			t.Errorf("changes are %q, want %q", got, want)
		}
	}
	seen := func(generation uint64, policy string) place.Service {
		t.Helper()
		var v place.Service
		wait(t, "it is applied", func() bool {
			v, _ = l.mirror.Service("s")
			return v.Generation == generation && v.Policy == policy
		})
		return v
	}
	one, two := fmt.Sprintf(text, "1"), fmt.Sprintf(text, "2")
	expect(apply(one, "", true), "service s is created")
	if _, ok := l.mirror.Service("s"); ok {
		t.Error("a dry run has an effect")
	}
	expect(apply(one, "", false), "service s is created")
	first := seen(1, "")
	if _, err := tls.X509KeyPair(first.Certificate, first.Key); err != nil {
		t.Errorf("its certificate: %v", err)
	}
	expect(apply(one, "", false))
	policy := "limits { servers 1..3; }"
	expect(apply(one, policy, false), "the policy changes")
	seen(1, policy)
	// What is not of the containers replaces none.
	expect(apply(one+"[servers]\nmax = 3\n", policy, false), "the service's file changes")
	seen(1, policy)
	expect(apply(two, policy, false), "the service's file changes", "its containers are replaced, one after the other")
	if last := seen(2, policy); string(last.Certificate) != string(first.Certificate) {
		t.Error("its certificate changes: its hosts don't know each other any more")
	}
}

func TestRefused(t *testing.T) {
	l := newLab(t)
	ok := fmt.Sprintf(text, "1")
	for name, r := range map[string]*api.ApplyRequest{
		"no file":                   {},
		"unknown key":               {Service: ok + "colour = 1\n"},
		"bad policy":                {Service: ok, Policy: "server.cpu.perc > => balance({A}, cpu);"},
		"a policy that vet refuses": {Service: ok, Policy: "limits { servers 5..2; }"},
		"bad manifest":              {Service: ok, Manifest: "name = 1"},
	} {
		_, err := l.first.Apply(t.Context(), r)
		if err = errgrpc.ToNative(err); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, call := range map[string]func(s *ClusterServer) error{
		"status": func(s *ClusterServer) error {
			_, err := s.Status(t.Context(), &api.StatusRequest{Service: "x"})
			return err
		},
		"plan": func(s *ClusterServer) error {
			_, err := s.Plan(t.Context(), &api.PlanRequest{Service: "x"})
			return err
		},
		"drain": func(s *ClusterServer) error {
			_, err := s.Drain(t.Context(), &api.DrainRequest{Service: "x"})
			return err
		},
		"move": func(s *ClusterServer) error {
			_, err := s.Move(t.Context(), &api.UserMoveRequest{Service: "x"})
			return err
		},
		"pause": func(s *ClusterServer) error {
			_, err := s.Pause(t.Context(), &api.PauseRequest{Service: "x"})
			return err
		},
		"delete": func(s *ClusterServer) error {
			_, err := s.Delete(t.Context(), &api.DeleteRequest{Service: "x"})
			return err
		},
		"call": func(s *ClusterServer) error {
			_, err := s.Call(t.Context(), &api.CallRequest{Service: "x"})
			return err
		},
	} {
		for _, s := range []*ClusterServer{l.first, l.second} {
			if err := errgrpc.ToNative(call(s)); !errdefs.IsNotFound(err) {
				t.Errorf("%s at %s of a service that there is not: %v", name, s.Node, err)
			}
		}
	}
}

// TestForwarded: any node answers, as the manager would.
func TestForwarded(t *testing.T) {
	l := newLab(t)
	if _, err := l.second.Apply(t.Context(), &api.ApplyRequest{Service: fmt.Sprintf(text, "1")}); err != nil {
		t.Fatal(err)
	}
	wait(t, "the service is in the status of both", func() bool {
		for _, s := range []*ClusterServer{l.first, l.second} {
			r, err := s.Status(t.Context(), &api.StatusRequest{Service: "s"})
			if err != nil {
				return false
			}
			now := new(status.Cluster)
			if err := json.Unmarshal(r.GetStatus(), now); err != nil || now.Leader != "n1" || len(now.Services) != 1 {
				return false
			}
		}
		return true
	})
	if _, err := l.second.Pause(t.Context(), &api.PauseRequest{Service: "s", Paused: true}); err != nil {
		t.Fatal(err)
	}
	wait(t, "it is paused", func() bool { v, _ := l.mirror.Service("s"); return v.Paused })
	r, err := l.second.Plan(t.Context(), &api.PlanRequest{Service: "s"})
	if err != nil || !strings.Contains(string(r.GetRecord()), "plasma-record") {
		t.Errorf("%q, %v", r.GetRecord(), err)
	}
}

// TestAlone: without an address, other nodes are told how to be reached.
func TestAlone(t *testing.T) {
	p := NewPeers(nil)
	if _, err := p.To(place.Member{Node: "n2", Address: "192.0.2.2:1"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%v", err)
	}
}

// TestCertificate: hosts of a service know each other by it, and nobody else.
func TestCertificate(t *testing.T) {
	cert, key, err := certificate("s")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "s", KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Error(err)
		}
	}
}

// TestWhatIsOfContainers: a field that is new is of containers, until somebody says otherwise.
func TestWhatIsOfContainers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "s.toml")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(text, "1")), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := service.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if differ(b.Service, b.Spec) {
		t.Error("the same differs")
	}
	other := *b.Spec
	other.Env = []string{"A=b"}
	if !differ(b.Service, &other) {
		t.Error("another environment is the same")
	}
}
