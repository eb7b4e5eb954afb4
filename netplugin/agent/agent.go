// Package agent does the work of the CNI plugin on a node, and keeps the node's part of
// the networks as it should be.
//
// It holds no packet: what it makes in the kernel stays when it goes, and its next start
// takes it over as it is.
package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

// Agent is a node's. Its methods are safe for concurrent use.
type Agent struct {
	config   config.Config
	root     string       // of what a reboot may take
	stateDir string       // of what outlives one
	source   peers.Source // nil on a node by itself
	firewall *firewall.Firewall
	store    *endpoint.Store
	detacher *attach.Detacher
	bootID   string
	features *fastpath.Features // what the kernel has for the shortcut; nil: it is asked
	// unreadable is that there are records that can't be read: nobody knows what is theirs.
	unreadable bool
	metrics    *metrics

	attachments  locks // by container and interface
	leases       leases
	reservations reservations
	shortcut     shortcut
	pipeline     spread

	// changes is held for reading while an endpoint is changed, and for writing while the
	// firewall's rules are replaced by what endpoints amount to.
	changes sync.RWMutex

	mu        sync.Mutex
	leaving   []config.Network             // not in the configuration any more
	address   netip.Addr                   // of this node in the underlay
	overlay   *overlay.Overlay             // of that address; nil before that was found
	endpoints map[key]*endpoint.Record     // as in the store, those that aren't complete too
	allowed   map[string]firewall.Endpoint // what the firewall lets through, by link
	nodes     []peers.Node                 // others
	state     map[uint32]condition         // of networks that were looked at, by VNI
	kick      chan struct{}                // reconcile now
}

// key identifies an attachment.
type key struct{ container, ifname string }

func keyOf(r *endpoint.Record) key { return key{r.ContainerID, r.IfName} }

// Options are what an agent is made of.
type Options struct {
	Config config.Config
	Root   string       // its directory; what is in it goes with a reboot
	State  string       // the directory of what outlives one
	Source peers.Source // where the other nodes are known from, nil on a node by itself
	// Features is what the shortcut may use of the kernel; nil: all that the kernel has.
	Features *fastpath.Features
}

// Open makes an agent, which works in the network namespace of the calling thread. The
// caller has the root's lock, and closes the agent.
func Open(ctx context.Context, o Options) (_ *Agent, err error) {
	a := &Agent{
		config: o.Config, root: o.Root, stateDir: o.State, source: o.Source, features: o.Features,
		endpoints: map[key]*endpoint.Record{}, allowed: map[string]firewall.Endpoint{},
		state: map[uint32]condition{}, kick: make(chan struct{}, 1),
	}
	a.reservations.rearm, a.reservations.changed = make(chan struct{}, 1), a.classify
	a.shortcut.added = make(chan struct{}, 1)
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	a.bootID = strings.TrimSpace(string(boot))
	if a.store, err = endpoint.Open(filepath.Join(o.Root, "endpoints")); err != nil {
		return nil, err
	}
	if a.firewall, err = firewall.Open(); err != nil {
		return nil, err
	}
	if a.detacher, err = attach.NewDetacher(); err != nil {
		return nil, err
	}
	records, bad, err := a.store.List()
	if err != nil {
		return nil, err
	}
	a.unreadable = len(bad) > 0
	for file, err := range bad {
		log.G(ctx).WithError(err).WithField("file", file).Error("an attachment can't be read: until its file is removed nothing is collected that may be its")
	}
	for i := range records {
		r := &records[i]
		a.endpoints[keyOf(r)] = r
		if r.Complete {
			a.allowed[r.Link] = endpointOf(r)
		}
	}
	if a.source == nil {
		err = os.RemoveAll(filepath.Join(o.Root, nodesFile))
	} else {
		a.nodes, err = loadNodes(o.Root)
	}
	if err != nil {
		log.G(ctx).WithError(err).Warn("the nodes of the last run are not known")
	}
	if err := a.loadReservations(time.Now()); err != nil {
		log.G(ctx).WithError(err).Warn("the reservations of the last run are not known: their containers are of the class that they were attached with")
	}
	if err := a.loadLeases(); err != nil {
		return nil, fmt.Errorf("read where addresses were given from: %w", err)
	}
	if err := a.loadLeaving(); err != nil {
		return nil, fmt.Errorf("read the networks of the last run: %w", err)
	}
	a.metrics = newMetrics(a)
	return a, nil
}

// Close gives up what the agent holds. Networks and attachments stay.
func (a *Agent) Close() error {
	errs := a.shortcut.close()
	if a.detacher != nil {
		errs = errors.Join(errs, a.detacher.Close())
	}
	if a.firewall != nil {
		errs = errors.Join(errs, a.firewall.Close())
	}
	return errs
}

// network looks one up by its name.
func (a *Agent) network(name string) (*config.Network, error) {
	i := slices.IndexFunc(a.config.Networks, func(n config.Network) bool { return n.Name == name })
	if i >= 0 {
		return &a.config.Networks[i], nil
	}
	var names []string
	for _, n := range a.config.Networks {
		names = append(names, n.Name)
	}
	return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("this node has no network %q", name),
		"it has "+strings.Join(names, ", ")+"; name one in \"network\" or add it to "+config.DefaultPath)
}

// condition is how a network is.
type condition struct {
	problem error // what could not be set up, nil if all is well
	usable  bool  // containers can be attached nevertheless
	mtu     int   // of containers
}

// ready is the network's condition, and an error unless containers can be attached.
func (a *Agent) ready(n *config.Network) (condition, error) {
	a.mu.Lock()
	c, known := a.state[n.VNI]
	a.mu.Unlock()
	switch {
	case !known:
		return c, types.NewError(types.ErrTryAgainLater, "network "+n.Name+" is being set up", "")
	case !c.usable:
		return c, types.NewError(types.ErrTryAgainLater, "network "+n.Name+" could not be set up", c.problem.Error())
	}
	return c, nil
}

func (a *Agent) record(k key) *endpoint.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.endpoints[k]
}

func (a *Agent) records() []*endpoint.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*endpoint.Record, 0, len(a.endpoints))
	for _, r := range a.endpoints {
		list = append(list, r)
	}
	return list
}

// put writes a record down. A record that was put is not changed any more.
func (a *Agent) put(r endpoint.Record) error {
	if err := a.store.Put(r); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endpoints[keyOf(&r)] = &r
	return nil
}

func (a *Agent) forget(k key) error {
	if err := a.store.Delete(k.container, k.ifname); err != nil {
		return err
	}
	a.mu.Lock()
	delete(a.endpoints, k)
	a.mu.Unlock()
	a.endReservations(k)
	return nil
}
