package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/control"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place/embed"
)

// keeper is etcd: the user's, or a member here.
type keeper struct {
	client *clientv3.Client
	member *embed.Member // nil: the user's
}

// connect connects to etcd, or starts the member and waits until it takes part.
func connect(ctx context.Context, s settings) (*keeper, error) {
	if len(s.Etcd.Endpoints) > 0 {
		c, err := dial(s.Etcd)
		if err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
		return &keeper{client: c}, nil
	}
	c := embed.Config{Name: s.Node, Dir: filepath.Join(s.root, "etcd")}
	if s.Member.Peer != "" {
		c.ListenPeer = "https://" + s.Member.Peer
		for _, m := range s.Member.Members {
			name, address, ok := strings.Cut(m, "=")
			if !ok {
				return nil, fmt.Errorf("member.members has %q, want node=host:port: %w", m, errdefs.ErrInvalidArgument)
			}
			c.InitialCluster = strings.TrimPrefix(c.InitialCluster+","+name+"=https://"+address, ",")
		}
		c.Cert, c.Key, c.CA = s.TLS.Cert, s.TLS.Key, s.TLS.CA
		log.G(ctx).Info("waiting for the other members of etcd")
	}
	m, err := embed.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	return &keeper{client: m.Client(), member: m}, nil
}

// watch ends with the member, which doesn't end by itself.
func (k *keeper) watch(ctx context.Context) error {
	if k.member == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-k.member.Done():
		return fmt.Errorf("the member of etcd has stopped: %w", k.member.Err())
	}
}

func (k *keeper) close() {
	if k.member != nil {
		k.member.Close()
		return
	}
	_ = k.client.Close()
}

func dial(e config.Etcd) (*clientv3.Client, error) {
	c := clientv3.Config{
		Endpoints: e.Endpoints, DialTimeout: 5 * time.Second, DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		Username: e.Username, Logger: zap.NewNop(),
		// etcd that was away is found soon; by default gRPC looks only every two minutes in the end.
		DialOptions: []grpc.DialOption{control.Soon()},
	}
	if e.PasswordFile != "" {
		text, err := os.ReadFile(e.PasswordFile)
		if err != nil {
			return nil, err
		}
		c.Password = strings.TrimSpace(string(text))
	}
	if e.CA != "" || e.Cert != "" {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		if e.CA != "" {
			roots, err := authorities(e.CA)
			if err != nil {
				return nil, err
			}
			c.TLS.RootCAs = roots
		}
		if e.Cert != "" {
			pair, err := tls.LoadX509KeyPair(e.Cert, e.Key)
			if err != nil {
				return nil, err
			}
			c.TLS.Certificates = []tls.Certificate{pair}
		}
	}
	return clientv3.New(c)
}

// certificates are a node's, for other nodes.
type certificates struct{ server, client *tls.Config }

// mutual reads a node's certificates; nil if it has none.
func mutual(t config.TLS) (*certificates, error) {
	if t.CA == "" {
		return nil, nil
	}
	roots, err := authorities(t.CA)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("this node's certificate: %w", err)
	}
	return &certificates{
		server: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert},
		client: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots},
	}, nil
}

func clientOf(c *certificates) credentials.TransportCredentials {
	if c == nil {
		return nil
	}
	return credentials.NewTLS(c.client)
}

func authorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM: %w", file, errdefs.ErrInvalidArgument)
	}
	return pool, nil
}

// identityIn gives the random text by which this plasmad is known when it is started again.
func identityIn(root string) (string, error) {
	file := filepath.Join(root, "identity")
	text, err := os.ReadFile(file)
	if err == nil && len(text) > 0 {
		return string(text), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := rand.Text()
	return id, os.WriteFile(file, []byte(id), 0o600)
}

// capacity is what this node has.
func capacity() (model.Resources, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return model.Resources{}, err
	}
	return model.Resources{CPU: float64(runtime.NumCPU()), Mem: float64(info.Totalram) * float64(info.Unit), Net: 125e6}, nil
}
