package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/log"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/peregrine-dev/peregrine/internal/daemon"
	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/control"
	"github.com/peregrine-dev/peregrine/plasma/driver"
	"github.com/peregrine-dev/peregrine/plasma/falcon"
	"github.com/peregrine-dev/peregrine/plasma/global"
	"github.com/peregrine-dev/peregrine/plasma/node"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/profile"
)

// ttl is how long a node's lease outlives it.
const ttl = 5 * time.Second

// serve is plasmad, until ctx is done. Containers stay as they are then.
func serve(ctx context.Context, s settings) error {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return err
	}
	lock, err := daemon.Lock(s.root)
	if err != nil {
		return err
	}
	defer lock.Close()
	ended, err := traces(ctx, s)
	if err != nil {
		return err
	}
	defer ended()
	certificates, err := mutual(s.TLS)
	if err != nil {
		return err
	}
	etcd, err := connect(ctx, s)
	if err != nil {
		return err
	}
	defer etcd.close()
	client, err := containerd.New(s.Containerd, containerd.WithTimeout(10*time.Second))
	if err != nil {
		return fmt.Errorf("containerd at %s: %w; is it running, and is its socket there?", s.Containerd, err)
	}
	defer client.Close()
	identity, err := identityIn(s.root)
	if err != nil {
		return err
	}
	capacity, err := capacity()
	if err != nil {
		return err
	}
	store := place.New(etcd.client, s.Cluster)
	mirror, err := store.Mirror(ctx)
	if err != nil {
		return err
	}
	defer mirror.Close()
	membership, err := store.Join(ctx, place.Member{Node: s.Node, Zone: s.Zone, Address: s.Address, Capacity: capacity, Identity: identity}, ttl)
	if err != nil {
		return err
	}
	defer membership.Leave()

	registry := prometheus.NewRegistry()
	sockets, err := daemon.Listen(daemon.Addresses{GRPC: filepath.Join(s.run, "plasmad.sock"), Metrics: s.Metrics.Address, Debug: s.Debug.Address})
	if err != nil {
		return err
	}
	defer sockets.Close()
	remote, err := listen(s, certificates)
	if err != nil {
		return err
	}
	page, err := listenPage(s)
	if err != nil {
		return err
	}

	sampler := profile.New(s.Node, time.Duration(s.Period)/2, flows(s))
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "peregrine_plasma_sampling_cores", Help: "What measuring takes of the processor, in cores.",
	}, sampler.Cost))
	local := node.New(node.Options{
		Node: s.Node, Sockets: s.run, Secure: s.Address != "", Store: store, Mirror: mirror, Membership: membership,
		Containers: driver.New(client, driver.Options{
			Namespace: s.Namespace, Root: s.root, Run: s.run, CNIConf: s.CNI.Conf, CNIBin: s.CNI.Bin,
			Sidecar: sidecar(), Falcon: s.Falcon.Socket, Address: addressOf(s.Address),
		}),
		Sampler: sampler,
		Metrics: node.NewMetrics(registry),
	})
	peers := control.NewPeers(clientOf(certificates))
	defer peers.Close()
	manager := global.New(global.Options{
		Cluster: s.Cluster, Period: time.Duration(s.Period), Store: store, Mirror: mirror, Membership: membership,
		Nodes:   control.Nodes{Node: s.Node, Local: local, Peers: peers},
		Records: filepath.Join(s.root, "records"), Metrics: global.NewMetrics(registry),
	})
	cluster := &control.ClusterServer{Node: s.Node, Store: store, Mirror: mirror, Manager: manager, Local: local, Peers: peers}
	defer cluster.Close()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return local.Run(ctx) })
	g.Go(func() error { return manager.Run(ctx) })
	g.Go(func() error { return etcd.watch(ctx) })
	if remote != nil {
		serveNodes(ctx, g, remote, certificates, cluster, local)
	}
	if page != nil {
		serveHTTP(ctx, g, page, pageOf(cluster))
	}
	srv := grpc.NewServer(grpc.StreamInterceptor(daemon.EndWatches), grpc.MaxRecvMsgSize(control.MaxMessage), grpc.MaxSendMsgSize(control.MaxMessage))
	api.RegisterClusterServer(srv, cluster)
	sockets.Serve(ctx, g, daemon.Server{GRPC: srv, Metrics: registry, Stopping: "stopping; containers and what their hosts do stay as they are"})
	return g.Wait()
}

// serveNodes answers other nodes.
func serveNodes(ctx context.Context, g *errgroup.Group, l net.Listener, c *certificates, cluster *control.ClusterServer, local *node.Node) {
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(c.server)), control.Pinged(), grpc.MaxRecvMsgSize(control.MaxMessage), grpc.MaxSendMsgSize(control.MaxMessage))
	api.RegisterClusterServer(srv, cluster)
	api.RegisterNodeServer(srv, control.NodeServer{Local: local})
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		srv.Stop()
		return nil
	})
}

func serveHTTP(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return srv.Close()
	})
}

// listen listens to other nodes; nil if there are none.
func listen(s settings, c *certificates) (net.Listener, error) {
	if s.Address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", s.Address)
	if err != nil {
		return nil, fmt.Errorf("listen to other nodes: %w", err)
	}
	return l, nil
}

func listenPage(s settings) (net.Listener, error) {
	if s.Web.Address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", s.Web.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for the page: %w; give [web] another address, or none", err)
	}
	return l, nil
}

// sidecar is the program beside plasmad; "" if it is not there.
func sidecar() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	program := filepath.Join(filepath.Dir(self), "plasma-sidecar")
	if _, err := os.Stat(program); err != nil {
		log.L.WithError(err).Warn("services with a sidecar can't be started")
		return ""
	}
	return program
}

// addressOf is where hosts in the node's own network are reached.
func addressOf(address string) netip.Addr {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return netip.Addr{}
	}
	ip, _ := netip.ParseAddr(host)
	return ip
}

// flows asks falcond, if it is there, what passes between containers.
func flows(s settings) profile.Flows {
	if _, err := os.Stat(s.Falcon.Socket); err != nil {
		return nil
	}
	agent := falcon.Client{Socket: s.Falcon.Socket, Owner: "plasma"}
	return func(ctx context.Context) ([]*api.Flow, error) {
		pairs, err := agent.Pairs(ctx)
		if err != nil {
			return nil, err
		}
		var all []*api.Flow
		for _, p := range pairs {
			if p.SourceContainer != "" && p.DestinationContainer != "" {
				all = append(all, &api.Flow{From: p.SourceContainer, To: p.DestinationContainer, Bytes: p.SentBytes, Packets: p.SentPackets})
			}
		}
		return all, nil
	}
}
