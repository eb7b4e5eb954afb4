package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/dump"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/foreign"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

// shortcut is the agent's part in the programs that take packets off the kernel's path.
// Whatever fails here, the network works without.
type shortcut struct {
	mu      sync.Mutex
	path    *fastpath.Fastpath // nil: none
	why     string             // why no packet takes it; "" if they do
	slow    map[string]string  // why those of a container's link don't
	problem error              // of the last reconcile
	added   chan struct{}      // containers wait for their programs
	classes sync.Mutex         // from reading a container's policy to telling the programs
}

// openShortcut loads the programs, or says why not. What an agent before this one attached
// is adopted, or taken away if it isn't wanted any more. The watcher, nil if there is no
// shortcut, is the caller's.
func (a *Agent) openShortcut(ctx context.Context) *foreign.Watcher {
	s := &a.shortcut
	s.mu.Lock()
	defer s.mu.Unlock()
	features := a.features
	if features == nil {
		probed := fastpath.Probe()
		features = &probed
	}
	if !a.planPipeline(ctx) && a.config.Shortcut.Mode == "off" && a.config.Priority.Mode == "off" {
		s.why = "off by the configuration"
		if err := fastpath.Detach(*features); err != nil {
			log.G(ctx).WithError(err).Warn("detach the programs of the shortcut")
		}
		return nil
	}
	watcher, err := foreign.Subscribe()
	if err == nil {
		if s.path, err = fastpath.Open(*features); err != nil {
			err = errors.Join(err, watcher.Close())
		}
	}
	if err != nil {
		s.why = err.Error()
		log.G(ctx).WithError(err).Warn("packets stay on the kernel's path")
		return nil
	}
	s.why = "not looked at yet"
	// Nobody heard of changes while there was no agent.
	if err := s.path.Invalidate(); err != nil {
		log.G(ctx).WithError(err).Error("put flows back on the kernel's path")
	}
	if err := s.path.SetPriority(fastpath.Priority{
		On: a.config.Priority.Mode != "off", Batch: a.config.Priority.Mode == "batch",
		TrustDSCP: a.config.Priority.TrustDSCP, HighRate: a.config.Priority.HighRate,
	}); err != nil {
		log.G(ctx).WithError(err).Warn("classes change nothing")
	}
	return watcher
}

// classify gives containers the classes that they have now. Whoever gives the programs a
// policy holds classes from when it was read.
func (a *Agent) classify() {
	path := a.shortcut.get()
	if path == nil {
		return
	}
	a.shortcut.classes.Lock()
	defer a.shortcut.classes.Unlock()
	for _, r := range a.records() {
		if !r.Complete {
			continue
		}
		if err := path.Classify(r.Link, a.policyOf(r)); err != nil {
			log.L.WithError(err).WithField("container", r.ContainerID).Error("change a container's class")
		}
	}
}

func (s *shortcut) get() *fastpath.Fastpath {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.path
}

// close lets the programs go on by themselves, for fastpath.Lease.
func (s *shortcut) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == nil {
		return nil
	}
	err := s.path.Close()
	s.path = nil
	return err
}

// watchShortcut hears what others change, and keeps the programs' lease, until ctx is done.
func (a *Agent) watchShortcut(ctx context.Context, w *foreign.Watcher) error {
	renew := time.NewTicker(fastpath.Lease / 6)
	defer renew.Stop()
	look := time.NewTicker(resync)
	defer look.Stop()
	changed := make(chan string)
	ended := make(chan error, 1)
	go func() {
		ended <- w.Run(ctx, func(what string) {
			a.invalidate(ctx) // at once
			select {
			case changed <- what:
			case <-ctx.Done():
			}
		})
	}()
	for {
		select {
		case what := <-changed:
			log.G(ctx).WithField("changed", what).Debug("flows are back on the kernel's path until they are seen to come through again")
			a.judge(ctx)
			// What came in before the change may have made a flow look seen after it.
			a.invalidate(ctx)
		case <-look.C:
			a.judge(ctx) // not all that matters is told
			if err := a.shortcut.get().Prune(); err != nil {
				log.G(ctx).WithError(err).Warn("forget the counters of pairs that are gone")
			}
		case <-renew.C:
			if err := a.shortcut.get().Renew(); err != nil {
				log.G(ctx).WithError(err).Error("keep the shortcut")
			}
		case err := <-ended:
			return err
		}
	}
}

// invalidate puts flows back on the kernel's path until they are seen to come through again.
func (a *Agent) invalidate(ctx context.Context) {
	if err := a.shortcut.get().Invalidate(); err != nil {
		log.G(ctx).WithError(err).Error("put flows back on the kernel's path")
	}
}

// judge looks whether somebody needs to see every packet, and switches the shortcut.
func (a *Agent) judge(ctx context.Context) {
	s := &a.shortcut
	path := s.get()
	why, slow := "", map[string]string{}
	if a.config.Shortcut.Mode == "off" {
		why = "off by the configuration"
	} else if verdict, names, err := a.objections(); err != nil {
		why = err.Error()
	} else {
		why = verdict.Node
		for index, reason := range verdict.Links {
			if name := names[index]; attach.IsLinkName(name) {
				slow[name] = reason
			} else if why == "" {
				why = reason // a network's is everybody's
			}
		}
	}
	s.mu.Lock()
	before := s.why
	s.why, s.slow = why, slow
	s.mu.Unlock()
	if why != before {
		entry := log.G(ctx)
		if why != "" {
			entry.WithField("reason", why).Warn("packets stay on the kernel's path")
		} else {
			entry.Info("packets may take the shortcut")
		}
	}
	// Before the shortcut is opened: who may not take it.
	if err := errors.Join(a.syncEndpoints(), path.Shortcut(why == ""), path.Renew()); err != nil {
		log.G(ctx).WithError(err).Error("switch the shortcut")
	}
}

// objections asks about the links that packets of the overlay pass by. It returns the links'
// names, too.
func (a *Agent) objections() (foreign.Verdict, map[int]string, error) {
	all, err := dump.All(netlink.LinkList)
	if err != nil {
		return foreign.Verdict{}, nil, fmt.Errorf("list links: %w", err)
	}
	wanted := map[string]bool{}
	for _, n := range a.networks() {
		wanted[overlay.Bridge(n.VNI)], wanted[overlay.Device(n.VNI)] = true, true
	}
	for _, r := range a.records() {
		wanted[r.Link] = true
	}
	a.mu.Lock()
	address := a.address
	a.mu.Unlock()
	wire, _ := fastpath.Underlay(address) // without one there is no shortcut anyway
	names := map[int]string{}
	var links []foreign.Link
	for _, l := range all {
		at := l.Attrs()
		if at.Flags&net.FlagLoopback != 0 || !wanted[at.Name] && at.Index != wire {
			continue
		}
		names[at.Index] = at.Name
		links = append(links, foreign.Link{Index: at.Index, Name: at.Name, NIC: at.Index == wire})
	}
	verdict, err := foreign.Judge(links)
	return verdict, names, err
}

// fastEndpoint is what the programs know of a container.
func (a *Agent) fastEndpoint(r *endpoint.Record) fastpath.Endpoint {
	e := fastpath.Endpoint{Link: r.Link, VNI: r.VNI, MAC: net.HardwareAddr(r.MAC), MTU: r.MTU}
	for _, p := range r.Addresses {
		e.Addresses = append(e.Addresses, p.Addr())
	}
	a.shortcut.mu.Lock()
	_, e.Slow = a.shortcut.slow[r.Link]
	a.shortcut.mu.Unlock()
	return e
}

func (a *Agent) tell(path *fastpath.Fastpath, r *endpoint.Record) error {
	a.shortcut.classes.Lock()
	defer a.shortcut.classes.Unlock()
	e := a.fastEndpoint(r)
	e.Policy = a.policyOf(r)
	if err := path.Add(e); err != nil {
		return err
	}
	select {
	case a.shortcut.added <- struct{}{}:
	default: // it looks anyway
	}
	return nil
}

// syncEndpoints tells the programs of all containers.
func (a *Agent) syncEndpoints() error {
	path := a.shortcut.get()
	if path == nil {
		return nil
	}
	a.changes.RLock()
	defer a.changes.RUnlock()
	known := map[string]bool{}
	var errs error
	for _, r := range a.records() {
		if !r.Complete {
			continue
		}
		known[r.Link] = true
		if err := a.tell(path, r); err != nil {
			errs = errors.Join(errs, fmt.Errorf("container %s: %w", r.ContainerID, err))
		}
	}
	return errors.Join(errs, path.Keep(known))
}

// enter lets a container that was attached take the shortcut. The caller holds changes for
// reading.
func (a *Agent) enter(ctx context.Context, r *endpoint.Record) {
	path := a.shortcut.get()
	if path == nil {
		return
	}
	if err := a.tell(path, r); err != nil {
		log.G(ctx).WithError(err).WithField("container", r.ContainerID).Warn("tell the programs of a container; trying again")
	}
}

// Programs are attached once no container has come for calm, or after busy at the latest.
const (
	calm = 100 * time.Millisecond
	busy = time.Second
)

// attachPrograms puts programs at the links of containers until ctx is done: behind ADD, and
// not while others come, since the kernel lets nobody change any link meanwhile.
func (a *Agent) attachPrograms(ctx context.Context) error {
	look := time.NewTicker(resync)
	defer look.Stop()
	for again := false; ; {
		if err := a.shortcut.get().Attach(ctx, again); err != nil {
			log.G(ctx).WithError(err).Warn("some containers' packets stay on the kernel's path")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.shortcut.added:
			again = false
			a.awaitCalm(ctx)
		case <-look.C:
			again = true // somebody may have taken them away
		}
	}
}

// awaitCalm returns when no container has come for a while.
func (a *Agent) awaitCalm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, busy)
	defer cancel()
	for {
		quiet := time.NewTimer(calm)
		select {
		case <-ctx.Done():
			quiet.Stop()
			return
		case <-quiet.C:
			return
		case <-a.shortcut.added:
			quiet.Stop()
		}
	}
}

// leave puts a container's packets back on the kernel's path. The caller holds changes for
// reading.
func (a *Agent) leave(link string) error {
	path := a.shortcut.get()
	if path == nil {
		return nil
	}
	return path.Drop(link)
}

// syncShortcut tells the programs of nodes, networks and containers.
func (a *Agent) syncShortcut(ctx context.Context, nodes []peers.Node, networks []config.Network) {
	path := a.shortcut.get()
	if path == nil {
		return
	}
	a.mu.Lock()
	state := fastpath.State{Node: a.address, Port: uint16(a.config.Port)}
	a.mu.Unlock()
	for _, n := range networks {
		state.Networks = append(state.Networks, fastpath.Network{VNI: n.VNI, Device: overlay.Device(n.VNI)})
	}
	for _, node := range nodes {
		p := fastpath.Peer{Address: node.Address, Subnets: map[uint32][]netip.Prefix{}}
		for i := range networks {
			if subnets := routed(&node, &networks[i]); len(subnets) > 0 {
				p.Subnets[networks[i].VNI] = subnets
			}
		}
		if len(p.Subnets) > 0 {
			state.Peers = append(state.Peers, p)
		}
	}
	err := errors.Join(path.Sync(state), a.syncEndpoints())
	a.shortcut.mu.Lock()
	before := a.shortcut.problem
	a.shortcut.problem = err
	a.shortcut.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		log.G(ctx).WithError(err).Warn("some packets stay on the kernel's path")
	}
}

func (s *shortcut) report() ShortcutReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := ShortcutReport{Off: s.why, Slow: s.slow}
	if s.problem != nil {
		r.Problem = s.problem.Error()
	}
	if s.path == nil {
		return r
	}
	r.Waiting = s.path.Waiting()
	var err error
	if r.Counts, err = s.path.Counts(); err != nil {
		log.L.WithError(err).Warn("read what the shortcut counted")
	}
	return r
}
