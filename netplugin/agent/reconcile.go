package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/log"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

// resync is how often the node is looked at without a reason: somebody else may have
// changed it.
const resync = 15 * time.Second

// Run keeps the node's networks as they should be until ctx is done.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.leavingInTheWay(); err != nil {
		return err
	}
	a.recover(ctx)
	if err := a.saveNetworks(); err != nil {
		return err
	}
	moved, looked := make(chan struct{}, 1), make(chan struct{})
	watcher := a.openShortcut(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		ticker := time.NewTicker(resync)
		defer ticker.Stop()
		var applied *firewall.State
		for first := true; ; first = false {
			changed, err := a.locate()
			if changed {
				select {
				case moved <- struct{}{}:
				default: // it is to look anyway
				}
			}
			applied = a.reconcile(ctx, applied, err)
			if first {
				close(looked)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-a.kick:
			case <-ticker.C:
			}
		}
	})
	if a.source != nil {
		g.Go(func() error { return a.follow(ctx, moved) })
	}
	g.Go(func() error { return a.watchReservations(ctx) })
	g.Go(func() error { return a.runPipeline(ctx, looked) })
	if watcher != nil {
		g.Go(func() error { return a.attachPrograms(ctx) })
		g.Go(func() error {
			select {
			case <-looked: // by then the programs are attached
			case <-ctx.Done():
				return watcher.Close()
			}
			a.judge(ctx)
			a.invalidate(ctx) // nobody heard what changed before
			return a.watchShortcut(ctx, watcher)
		})
	}
	if !a.config.Address.IsValid() {
		g.Go(func() error { return a.watchAddresses(ctx) })
	}
	for _, k := range a.keepers() {
		g.Go(func() error {
			select {
			case <-looked: // it needs networks to plug into
				return k.Run(ctx)
			case <-ctx.Done():
				return nil
			}
		})
	}
	return g.Wait()
}

// follow hears of the other nodes, and tells them of this one, wherever it has moved.
func (a *Agent) follow(ctx context.Context, moved <-chan struct{}) error {
	select {
	case <-moved:
	case <-ctx.Done():
		return nil
	}
	for ctx.Err() == nil {
		here, leave := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- a.source.Run(here, a.self(), a.setNodes) }()
		select {
		case <-moved:
			leave()
			if err := <-ended; err != nil {
				return err
			}
		case err := <-ended: // ctx is done, or it can't go on
			leave()
			return err
		}
	}
	return nil
}

// self is what other nodes are told of this one.
func (a *Agent) self() peers.Node {
	self := Self(a.config)
	a.mu.Lock()
	defer a.mu.Unlock()
	self.Address = a.address
	return self
}

// Self is this node as other nodes see it, except for its address if that has to be found.
func Self(c config.Config) peers.Node {
	self := peers.Node{Name: c.Node, Address: c.Address, Networks: map[uint32][]netip.Prefix{}}
	for _, n := range c.Networks {
		self.Networks[n.VNI] = n.Subnets
	}
	return self
}

// recover takes away what can't be used any more: attachments from before the node's last
// boot, and those whose ADD was cut short, which no runtime was told of.
func (a *Agent) recover(ctx context.Context) {
	if err := a.dropAdopted(); err != nil {
		log.G(ctx).WithError(err).Error("forget offers that were adopted")
	}
	if err := a.reclaim(ctx); err != nil {
		log.G(ctx).WithError(err).Error("give back the addresses of containers from before the last boot")
	}
	for _, r := range a.records() {
		if r.Complete && r.BootID == a.bootID {
			continue
		}
		unlock := a.attachments.lock(r.ContainerID + "/" + r.IfName)
		if a.record(keyOf(r)) == r { // nobody else was faster
			if err := a.detach(ctx, r); err != nil {
				log.G(ctx).WithError(err).WithField("container", r.ContainerID).Warn("take away an attachment that is no more; DEL or GC tries again")
			}
		}
		unlock()
	}
}

// reconcile mends what differs, and notes what it can't mend; lost is why this node is not
// known to be anywhere. It returns the rules that are in force now.
func (a *Agent) reconcile(ctx context.Context, applied *firewall.State, lost error) *firewall.State {
	a.mu.Lock()
	nodes := a.nodes
	a.mu.Unlock()
	if lost == nil {
		if err := a.removeLeft(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("remove networks that are not in the configuration any more")
		}
	}
	// The rules before the networks: none is ever without.
	applied, err := a.enforce(applied, nodes)
	err = errors.Join(lost, err)
	networks := a.networks()
	for i := range networks {
		n := &networks[i]
		c := condition{problem: err}
		if err == nil {
			c.problem = a.ensure(ctx, n, nodes)
			// One node or route that is in the way is no reason to attach nobody.
			c.usable = c.problem == nil || hasBridge(n.VNI)
			if c.mtu = n.MTU; c.mtu == 0 && c.usable {
				var unknown error
				c.mtu, unknown = a.underlay().MTU()
				c.problem, c.usable = errors.Join(c.problem, unknown), unknown == nil
			}
		}
		a.setState(ctx, n, c)
	}
	if err := a.mendLinks(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("mend the links of containers")
	}
	a.syncShortcut(ctx, nodes, networks)
	return applied
}

func (a *Agent) setState(ctx context.Context, n *config.Network, c condition) {
	a.mu.Lock()
	before, known := a.state[n.VNI]
	a.state[n.VNI] = c
	a.mu.Unlock()
	entry := log.G(ctx).WithField("network", n.Name)
	switch {
	case c.problem != nil && (before.problem == nil || before.problem.Error() != c.problem.Error()):
		entry.WithError(c.problem).Error("set up the network; trying again")
	case c.problem == nil && (!known || before.problem != nil):
		entry.Info("the network is ready")
	}
}

// hasBridge tells whether containers have what they are plugged into.
func hasBridge(vni uint32) bool {
	link, err := netlink.LinkByName(overlay.Bridge(vni))
	return err == nil && link.Attrs().Flags&net.FlagUp != 0
}

func (a *Agent) ensure(ctx context.Context, n *config.Network, nodes []peers.Node) error {
	var remotes []overlay.Remote
	for _, node := range nodes {
		if subnets := routed(&node, n); len(subnets) > 0 {
			remotes = append(remotes, overlay.Remote{Address: node.Address, Subnets: subnets})
		}
	}
	changed, err := a.underlay().Ensure(overlay.Network{VNI: n.VNI, Subnets: n.Subnets, Cluster: n.Cluster, MTU: n.MTU}, remotes)
	if changed {
		log.G(ctx).WithField("network", n.Name).WithField("nodes", len(remotes)).Info("changed the network's devices and routes")
	}
	return err
}

// routed are a node's subnets in a network. Only those in the network's own space count: no
// record of a node may direct other traffic.
func routed(node *peers.Node, n *config.Network) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(node.Networks[n.VNI]), func(p netip.Prefix) bool { return !within(p, n.Cluster) })
}

func within(p netip.Prefix, spaces []netip.Prefix) bool {
	return slices.ContainsFunc(spaces, func(s netip.Prefix) bool { return s.Bits() <= p.Bits() && s.Contains(p.Addr()) })
}

// enforce brings the firewall's rules in force, unless they are.
func (a *Agent) enforce(applied *firewall.State, nodes []peers.Node) (*firewall.State, error) {
	a.changes.Lock()
	defer a.changes.Unlock()
	want := a.rules(nodes)
	if applied != nil && slices.Equal(applied.VTEPs, want.VTEPs) && len(applied.Networks) == len(want.Networks) {
		// Endpoints come and go one by one, and networks only leave.
		if there, err := a.firewall.InForce(); there || err != nil {
			return applied, err
		}
	}
	if err := a.firewall.Replace(want); err != nil {
		return nil, fmt.Errorf("set the firewall's rules: %w", err)
	}
	return &want, nil
}

func (a *Agent) rules(nodes []peers.Node) firewall.State {
	s := firewall.State{Port: uint16(a.config.Port)}
	for _, n := range nodes {
		s.VTEPs = append(s.VTEPs, n.Address)
	}
	slices.SortFunc(s.VTEPs, netip.Addr.Compare)
	for _, n := range a.networks() {
		s.Networks = append(s.Networks, firewall.Network{
			Bridge: overlay.Bridge(n.VNI), Device: overlay.Device(n.VNI),
			Subnets: n.Subnets, Cluster: n.Cluster, Masquerade: n.Masquerade,
		})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.allowed {
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// mendLinks makes links ports of their bridges again, from which somebody took them or which
// were made anew, and removes links that nobody has: the record went, and a crash came
// between.
func (a *Agent) mendLinks(ctx context.Context) error {
	// While nobody attaches or detaches a link that is there has a record.
	a.changes.Lock()
	defer a.changes.Unlock()
	links, err := attach.Links()
	if err != nil {
		return err
	}
	var errs error
	bridges := map[uint32]int{}
	for _, r := range a.records() {
		bridge, there := links[r.Link]
		delete(links, r.Link)
		if !there {
			continue
		}
		if _, known := bridges[r.VNI]; !known {
			if l, err := netlink.LinkByName(overlay.Bridge(r.VNI)); err == nil {
				bridges[r.VNI] = l.Attrs().Index
			} else {
				bridges[r.VNI] = bridge // there is none
			}
		}
		if bridge != bridges[r.VNI] {
			log.G(ctx).WithField("container", r.ContainerID).WithField("link", r.Link).Warn("a container's link was taken from its bridge; plugging it in again")
			errs = errors.Join(errs, attach.Replug(r.Link, overlay.Bridge(r.VNI)))
		}
	}
	if a.unreadable { // any may be one's whose record can't be read
		return errs
	}
	for link := range links {
		errs = errors.Join(errs, a.detacher.Unplug(link))
	}
	return errs
}
