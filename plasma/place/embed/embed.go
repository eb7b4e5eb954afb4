// Package embed runs a member of etcd in this process. All that it has acknowledged is on disk:
// the process may be killed at any time. What etcd itself can't go on from, such as a disk that
// fails, ends the process.
package embed

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"google.golang.org/grpc"
)

// Config is of a member. Addresses are URLs: http://IP:PORT or https://IP:PORT.
type Config struct {
	Name string // of the member; the node's
	Dir  string // where it stores all
	// ListenPeer is where other members reach it, AdvertisePeer how they name that (ListenPeer
	// if empty). Without ListenPeer it is a cluster of its own, and stays one.
	ListenPeer, AdvertisePeer string
	// ListenClient is where clients of other processes reach it, AdvertiseClient how they name
	// that (ListenClient if empty). Without ListenClient there are none.
	ListenClient, AdvertiseClient string
	// InitialCluster are all members when the cluster begins: NAME=URL of AdvertisePeer, with
	// commas between. Empty is this one alone. It is read only as long as Dir is empty.
	InitialCluster string
	// Cert, Key and CA are files (PEM): this member's certificate for https://, and the
	// authority that peers' and clients' certificates are of.
	Cert, Key, CA string
}

// alone is how a member without peers is called: nothing listens there.
const alone = "http://127.0.0.1:2380"

const (
	quota      = 512 << 20 // bytes of the database, and of its mapping
	entries    = 1000      // of the log between snapshots: what is kept in memory twice
	retention  = "5m"      // of old revisions: those that follow changes and were away longer read all
	batchLimit = 1000      // changes between commits of the database; the log has them before
)

// config turns it into etcd's.
func (c Config) config(closing *atomic.Bool) (*embed.Config, error) {
	e := embed.NewConfig()
	e.Name, e.Dir = c.Name, c.Dir
	e.ListenPeerUrls, e.ListenClientUrls, e.AdvertiseClientUrls = nil, nil, nil
	for _, u := range []struct {
		to        *[]url.URL
		what      string
		text      string
		otherwise string
	}{
		{&e.ListenPeerUrls, "listen for peers", c.ListenPeer, ""},
		{&e.AdvertisePeerUrls, "advertise to peers", c.AdvertisePeer, or(c.ListenPeer, alone)},
		{&e.ListenClientUrls, "listen for clients", c.ListenClient, ""},
		{&e.AdvertiseClientUrls, "advertise to clients", c.AdvertiseClient, c.ListenClient},
	} {
		text := or(u.text, u.otherwise)
		if text == "" {
			continue
		}
		parsed, err := url.Parse(text)
		if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Port() == "" {
			return nil, fmt.Errorf("etcd can't %s at %q: want http://IP:PORT or https://IP:PORT: %w", u.what, text, errdefs.ErrInvalidArgument)
		}
		*u.to = []url.URL{*parsed}
	}
	e.InitialCluster = or(c.InitialCluster, e.InitialClusterFromName(c.Name))
	if c.ListenPeer == "" && c.InitialCluster == "" {
		// Nobody else can be elected: it only has to find that out soon.
		e.TickMs, e.ElectionMs = 100, 500
	}
	if c.Cert != "" {
		info := transport.TLSInfo{CertFile: c.Cert, KeyFile: c.Key, TrustedCAFile: c.CA, ClientCertAuth: true}
		e.PeerTLSInfo, e.ClientTLSInfo = info, info
	}
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger(closing))
	e.QuotaBackendBytes = quota
	e.SnapshotCount, e.SnapshotCatchUpEntries = entries, entries
	e.MaxSnapFiles, e.MaxWalFiles = 2, 2
	e.BackendBatchLimit, e.BackendFreelistType = batchLimit, "map"
	e.AutoCompactionMode, e.AutoCompactionRetention = embed.CompactorModePeriodic, retention
	e.EnableGRPCGateway = false
	return e, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Member is a member that runs.
type Member struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	stop   func()
	done   chan struct{}
	err    error // once done

	closing    atomic.Bool     // its log is of no interest any more
	streams    context.Context // of clients
	endStreams context.CancelFunc
}

// Start starts a member and waits until it takes part in the cluster: until ctx ends if the other
// members are not there.
func Start(ctx context.Context, c Config) (*Member, error) {
	m := &Member{done: make(chan struct{})}
	m.streams, m.endStreams = context.WithCancel(context.Background())
	config, err := c.config(&m.closing)
	if err != nil {
		return nil, err
	}
	config.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainStreamInterceptor(m.open)}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	if err := os.Chmod(c.Dir, 0o700); err != nil { // it has services' private keys
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	e, err := embed.StartEtcd(config)
	if err != nil {
		m.endStreams()
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	stop := make(chan struct{})
	m.etcd, m.client = e, v3client.New(e.Server)
	m.stop = sync.OnceFunc(func() { close(stop) })
	go m.wait(stop)
	select {
	case <-e.Server.ReadyNotify():
		return m, nil
	case <-m.done:
		return nil, fmt.Errorf("start etcd: %w", m.err)
	case <-ctx.Done():
		m.Close()
		return nil, fmt.Errorf("start etcd: wait for its other members: %w", ctx.Err())
	}
}

func (m *Member) wait(stop <-chan struct{}) {
	defer close(m.done)
	select {
	case <-stop:
	case err := <-m.etcd.Err():
		m.err = fmt.Errorf("etcd has stopped: %w", err)
	case <-m.etcd.Server.StopNotify():
		m.err = fmt.Errorf("etcd has stopped: this member was removed from its cluster: %w", errdefs.ErrFailedPrecondition)
	}
	m.closing.Store(true)
	m.endStreams()
	_ = m.client.Close() // it has no connection
	m.etcd.Close()
}

// Client gives the client of this process; it is the member's to close.
func (m *Member) Client() *clientv3.Client { return m.client }

// Done is closed when the member has stopped, by Close or because it can't go on: see Err.
func (m *Member) Done() <-chan struct{} { return m.done }

// Err is why the member stopped by itself, once Done is closed.
func (m *Member) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Close stops the member.
func (m *Member) Close() {
	m.stop()
	<-m.done
}
