// Package driver runs servers as containers of containerd. What there is, containerd and the
// directories on the node know; the driver remembers nothing, so that it may end at any moment
// and another goes on.
//
// A server's container and task are called as the server is. Its process sees
//
//	/run/plasma         RUN/servers/ID    sockets of plasmad and of the host in the server
//	/run/plasma-peers   RUN/peers/SERVICE sockets of the service's hosts on this node
//	/var/lib/plasma     ROOT/servers/ID   what its actors have stored
//	/run/plasma-sidecar                   the sidecar's program, for services that have one
//
// and writes its output to ROOT/log/ID.log. Only what is in ROOT/servers outlives the container;
// a server that is started again gets a new container with that directory.
//
// All methods may be called by many goroutines. Those for one server wait for each other.
package driver

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/falcon"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// Labels of the containers.
const (
	LabelService = "peregrine.dev/plasma.service"
	LabelServer  = "peregrine.dev/plasma.server"
	LabelNode    = "peregrine.dev/plasma.node"
	LabelVersion = "peregrine.dev/plasma.version"
	// LabelNetwork, LabelNetns and LabelAddress are of containers in a network of CNI.
	LabelNetwork = "peregrine.dev/plasma.network"
	LabelNetns   = "peregrine.dev/plasma.netns"
	LabelAddress = "peregrine.dev/plasma.address"
)

// Options are where things are on the node. What is left out has the default that is named.
type Options struct {
	Namespace string     // containerd's: plasma
	Root      string     // for what outlives a reboot: /var/lib/plasma
	Run       string     // for what doesn't: /run/plasma
	CNIConf   string     // /etc/cni/net.d
	CNIBin    []string   // /opt/cni/bin
	Sidecar   string     // the program plasma-sidecar; services with a sidecar are refused without it
	Falcon    string     // falcond's socket: /run/falcon/cni.sock
	Address   netip.Addr // at which other nodes reach servers in this node's network; none
}

// Driver runs servers on one node.
type Driver struct {
	client *containerd.Client
	o      Options
	falcon falcon.Client
	locks  locks

	mu    sync.Mutex
	found *Found // nil until somebody asked
}

// New makes a driver. The client stays the caller's, to close when nothing uses the driver.
func New(client *containerd.Client, o Options) *Driver {
	o.Namespace = cmp.Or(o.Namespace, "plasma")
	o.Root = cmp.Or(o.Root, "/var/lib/plasma")
	o.Run = cmp.Or(o.Run, "/run/plasma")
	o.CNIConf = cmp.Or(o.CNIConf, "/etc/cni/net.d")
	if len(o.CNIBin) == 0 {
		o.CNIBin = []string{"/opt/cni/bin"}
	}
	o.Falcon = cmp.Or(o.Falcon, falcon.Socket)
	return &Driver{client: client, o: o, falcon: falcon.Client{Socket: o.Falcon, Owner: "plasma"}}
}

// Server is a server as it is to be.
type Server struct {
	Service *service.Spec
	ID      string // as service.ServerID gives it
	Node    string
	Version uint64 // of the service
	Limit   model.Resources
}

// check refuses what is no server of its service, or of this node.
func (d *Driver) check(s Server) error {
	switch name, _, ok := service.SplitServerID(s.ID); {
	case s.Service == nil:
		return fmt.Errorf("server %q has no service: %w", s.ID, errdefs.ErrInvalidArgument)
	case !ok || name != s.Service.Name:
		return fmt.Errorf("%q names no server of service %q: %w", s.ID, s.Service.Name, errdefs.ErrInvalidArgument)
	case s.Service.Adopt != nil:
		return fmt.Errorf("service %q adopts its containers: %w", name, errdefs.ErrFailedPrecondition)
	case s.Service.Sidecar != nil && d.o.Sidecar == "":
		return fmt.Errorf("service %q needs the program plasma-sidecar, which this node doesn't have: %w", name, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// labels are those of a server's container.
func (s Server) labels(a attachment) map[string]string {
	labels := map[string]string{
		LabelService: s.Service.Name,
		LabelServer:  s.ID,
		LabelNode:    s.Node,
		LabelVersion: strconv.FormatUint(s.Version, 10),
	}
	if a.netns != "" {
		labels[LabelNetwork] = a.network
		labels[LabelNetns] = a.netns
		labels[LabelAddress] = a.address.String()
	}
	return labels
}

// in gives ctx the driver's namespace of containerd, unless it has one.
func (d *Driver) in(ctx context.Context) context.Context {
	if _, ok := namespaces.Namespace(ctx); ok {
		return ctx
	}
	return namespaces.WithNamespace(ctx, d.o.Namespace)
}

// ReserveNet gives a server's packets a class of falcond's: high, normal or low.
// errdefs.ErrUnavailable: no falcond is there; errdefs.ErrNotFound: it hasn't attached the
// server.
func (d *Driver) ReserveNet(ctx context.Context, id, class string) error {
	return d.falcon.Reserve(ctx, id, class)
}

// ReleaseNet ends what ReserveNet reserved. Errors are as those of ReserveNet.
func (d *Driver) ReleaseNet(ctx context.Context, id string) error {
	return d.falcon.Release(ctx, id)
}
