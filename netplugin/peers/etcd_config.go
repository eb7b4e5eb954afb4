package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const (
	// DefaultPrefix is where in etcd the overlay's keys are.
	DefaultPrefix = "/falcon"
	// DefaultTTL is how long a record outlives the last sign of its node.
	DefaultTTL = 24 * time.Hour
)

// EtcdConfig says how etcd is reached and how this node appears in it.
//
// Whoever can write below Prefix directs the overlay's packets; give each node a user or a
// certificate that may read Prefix/nodes/ and write its own key there, and use TLS.
type EtcdConfig struct {
	// Endpoints are the members' client URLs, http:// or https://, all the same.
	Endpoints []string
	// Prefix of all keys, starting with a slash; DefaultPrefix if empty. Nodes are at
	// Prefix/nodes/NAME.
	Prefix string

	// CA is a file with the certificates (PEM) that etcd's are checked by; the host's if
	// empty. Cert and Key are files with this node's own, both or neither. They are read
	// for every connection, so that they can be replaced at any time.
	CA, Cert, Key string
	// Username and PasswordFile, both or neither. Of the file, white space around the
	// password is left out; it too is read for every connection.
	Username, PasswordFile string

	// TTL is how long this node's record remains when the agent no longer renews it;
	// DefaultTTL if 0, whole seconds. It is long because containers live on without the
	// agent: when the record expires, the other nodes drop their routes to this one. A node
	// that is taken away for good should leave (Leaver).
	TTL time.Duration
	// Instance identifies this installation of the node: a random text that the caller keeps
	// on disk, across reboots. By it a node that comes back with another address knows its
	// own old record, and replaces it, from that of another node with the same name. Without
	// it, such a node has to wait until the old record expires or is removed.
	Instance string
}

// Validate checks what can be checked without etcd and without reading files. Errors are
// ErrInvalidArgument.
func (c EtcdConfig) Validate() error {
	if len(c.Endpoints) == 0 {
		return invalid("no endpoints of etcd; give at least one, as https://192.0.2.1:2379")
	}
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "":
			return invalid("endpoint %q of etcd, want http://HOST:PORT or https://HOST:PORT", e)
		case strings.HasPrefix(c.Endpoints[0], "https:") != (u.Scheme == "https"):
			return invalid("endpoints of etcd are with TLS and without; a secret would be sent to both")
		case u.Scheme == "http" && (c.CA != "" || c.Cert != ""):
			return invalid("endpoint %q of etcd is without TLS though certificates are given; want https://", e)
		}
	}
	switch {
	case c.Prefix != "" && !strings.HasPrefix(c.Prefix, "/"):
		return invalid("prefix %q of etcd, want one that starts with a slash", c.Prefix)
	case (c.Cert == "") != (c.Key == ""):
		return invalid("certificate and key for etcd: give both or neither")
	case (c.Username == "") != (c.PasswordFile == ""):
		return invalid("user name and password file for etcd: give both or neither")
	case c.TTL < 0 || c.TTL%time.Second != 0:
		return invalid("time to live %s in etcd, want whole seconds, such as 24h", c.TTL)
	}
	return nil
}

// nodes is the prefix of all nodes' keys.
func (c EtcdConfig) nodes() string {
	prefix := c.Prefix
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return strings.TrimRight(prefix, "/") + "/nodes/"
}

func (c EtcdConfig) ttl() time.Duration {
	if c.TTL == 0 {
		return DefaultTTL
	}
	return c.TTL
}

// connect returns a client, which connects when it is used and lives at most as long as
// ctx. Only for a password it waits for etcd, up to timeout.
func (c EtcdConfig) connect(ctx context.Context, timeout time.Duration) (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints:   c.Endpoints,
		DialTimeout: timeout,
		Context:     ctx,
		Username:    c.Username,
		Logger:      zap.NewNop(), // what matters comes back as an error
		// The session is what retries. The client would do so until the request's time is
		// over, and only that would be the error.
		MaxUnaryRetries: 2,
		DialOptions:     []grpc.DialOption{grpc.WithChainUnaryInterceptor(failFast)},
	}
	if c.PasswordFile != "" {
		password, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("read the password for etcd: %w", err)
		}
		config.Password = strings.TrimSpace(string(password))
	}
	if strings.HasPrefix(c.Endpoints[0], "https:") {
		var err error
		if config.TLS, err = c.tls(); err != nil {
			return nil, err
		}
	}
	return clientv3.New(config)
}

// failFast returns why there is no connection when that is known, rather than wait for one.
func failFast(ctx context.Context, method string, request, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	return invoke(ctx, method, request, reply, c, append(options, grpc.WaitForReady(false))...)
}

func (c EtcdConfig) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("read the certificates that etcd's are checked by: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, invalid("%s has no certificate in PEM form", c.CA)
		}
	}
	if c.Cert != "" {
		cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("read the certificate for etcd: %w", err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}
