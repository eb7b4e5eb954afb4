package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/ipam"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// add attaches a container, or fails and leaves nothing. What a crash leaves is in the
// record, which is there before anything else: DEL, GC or the next ADD takes it away.
func (a *Agent) add(ctx context.Context, r *Request) (types.Result, error) {
	if r.Conf.Prev != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "falcon must be the first plugin of its list: it got a prevResult", "")
	}
	n, err := a.network(r.Conf.Network)
	if err != nil {
		return nil, err
	}
	if r.Namespace == nil {
		return nil, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS "+r.NetNS+" could not be opened", "")
	}
	defer a.attachments.lock(r.ContainerID + "/" + r.IfName)()
	if old := a.record(key{r.ContainerID, r.IfName}); old != nil && old.Complete {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("container %s has an interface %s already", r.ContainerID, r.IfName), "DEL it first")
	}
	result, err := a.attach(ctx, n, r, "")
	if err != nil {
		return nil, err
	}
	return result.GetAsVersion(r.Conf.CNIVersion)
}

// attach attaches a container, or makes an offer of that name. The caller has the
// attachment's lock.
func (a *Agent) attach(ctx context.Context, n *config.Network, r *Request, offer string) (*types100.Result, error) {
	inode, err := r.inode()
	if err != nil {
		return nil, err
	}
	ready, err := a.ready(n)
	if err != nil {
		return nil, err
	}
	if old := a.record(key{r.ContainerID, r.IfName}); old != nil {
		if err := a.detach(ctx, old); err != nil {
			return nil, fmt.Errorf("take away what an ADD that was interrupted left: %w", err)
		}
	}
	settings, usual, err := ipamSettings(r, n)
	if err != nil {
		return nil, err
	}
	if offer == "" {
		if result, err := a.adopt(ctx, n, r, inode, usual); result != nil || err != nil {
			return result, err
		}
	}
	record := endpoint.Record{
		ContainerID: r.ContainerID, IfName: r.IfName, Network: n.Name, ConfName: r.Conf.Name, VNI: n.VNI, Offer: offer,
		Link: attach.LinkName(r.ContainerID, r.IfName), Namespace: r.NetNS, NamespaceInode: inode,
		Config: settings, Path: r.Path, Args: r.Args, Priority: r.Conf.Priority, BootID: a.bootID, Created: time.Now(),
	}
	result, err := a.make(ctx, network{n.Name, n.VNI, n.Subnets, ready.mtu}, &record, r)
	if err != nil {
		undo := a.detach(context.WithoutCancel(ctx), &record)
		if undo != nil && errors.As(err, &refusal{}) {
			// It refuses to release for the reason that it had to refuse to lease: a
			// record would stay for ever. DEL asks it once more.
			undo = a.forget(keyOf(&record))
		}
		if undo != nil {
			log.G(ctx).WithError(undo).WithField("container", r.ContainerID).Error("take back an attachment that failed; DEL tries again")
		}
		return nil, err
	}
	return result, nil
}

// refusal is an error of IPAM's ADD, which has leased nothing.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// make attaches the container of a record, and completes that.
func (a *Agent) make(ctx context.Context, n network, record *endpoint.Record, r *Request) (*types100.Result, error) {
	leased, err := a.lease(ctx, record)
	if err != nil {
		return nil, err
	}
	spec, result, err := plan(n, record.Link, record.IfName, r.NetNS, r.Conf, leased)
	if err != nil {
		return nil, err
	}
	record.MAC, record.Addresses, record.Gateways = endpoint.MAC(spec.MAC), spec.Addresses, spec.Gateways
	record.MTU = spec.MTU
	for _, route := range spec.Routes {
		record.Routes = append(record.Routes, endpoint.Route(route))
	}
	if record.Result, err = json.Marshal(result); err != nil {
		return nil, err
	}
	a.changes.RLock()
	defer a.changes.RUnlock()
	// Before the container can send anything: what isn't allowed is dropped.
	if err := a.allow(record); err != nil {
		return nil, err
	}
	if err := a.plug(ctx, r, spec); err != nil {
		if errdefs.IsAlreadyExists(err) {
			return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("attach container %s as %s", r.ContainerID, r.IfName), err.Error())
		}
		return nil, err
	}
	record.Complete = true
	if err := a.put(*record); err != nil {
		return nil, err
	}
	a.enter(ctx, record)
	return result, nil
}

// lease writes the record down, and has addresses given to it.
func (a *Agent) lease(ctx context.Context, record *endpoint.Record) (*types100.Result, error) {
	a.leases.use.RLock()
	err := a.put(*record)
	a.leases.use.RUnlock()
	if err != nil {
		return nil, err
	}
	lease := leaseOf(record)
	if lease.Fresh, err = a.noteLease(record.Config); err != nil {
		return nil, err
	}
	leased, err := ipam.Add(ctx, lease)
	if err != nil {
		return nil, refusal{err}
	}
	return leased, nil
}

// plug makes the container's link. One that was unplugged a moment ago may still be in
// the way.
func (a *Agent) plug(ctx context.Context, r *Request, spec attach.Spec) error {
	err := attach.Attach(r.Namespace, spec)
	if !errdefs.IsAlreadyExists(err) {
		return err
	}
	if err := a.detacher.Flush(ctx); err != nil {
		return err
	}
	return attach.Attach(r.Namespace, spec)
}

// leaseOf is what the IPAM plugin is told of an attachment.
func leaseOf(r *endpoint.Record) ipam.Request {
	lease := ipam.Request{
		ContainerID: r.ContainerID, IfName: r.IfName, NetNS: r.Namespace, Path: r.Path, Args: r.Args, Config: r.Config,
	}
	if r.Offer != "" {
		lease.ContainerID = r.Offer
	}
	for _, p := range r.Addresses {
		lease.Addresses = append(lease.Addresses, p.Addr())
	}
	return lease
}

// specOf is how a record's container is attached.
func specOf(r *endpoint.Record) attach.Spec {
	spec := attach.Spec{
		Link: r.Link, Bridge: overlay.Bridge(r.VNI), Name: r.IfName, MTU: r.MTU, MAC: net.HardwareAddr(r.MAC),
		Addresses: r.Addresses, Gateways: r.Gateways,
	}
	for _, route := range r.Routes {
		spec.Routes = append(spec.Routes, attach.Route(route))
	}
	return spec
}

// endpointOf is what the firewall knows of a record's container.
func endpointOf(r *endpoint.Record) firewall.Endpoint {
	e := firewall.Endpoint{Link: r.Link, MAC: net.HardwareAddr(r.MAC)}
	for _, p := range r.Addresses {
		e.Addresses = append(e.Addresses, p.Addr())
	}
	return e
}

// allow lets a container send, unless another one has its addresses or its MAC. The caller
// holds changes for reading.
func (a *Agent) allow(r *endpoint.Record) error {
	e := endpointOf(r)
	if err := a.claim(e); err != nil {
		return err
	}
	err := a.firewall.Allow(e)
	if errdefs.IsFailedPrecondition(err) {
		a.wake() // somebody took all rules away
		return types.NewError(types.ErrTryAgainLater, "the firewall's rules are not in force", err.Error())
	}
	return err
}

// claim notes what a container is to have, once.
func (a *Agent) claim(e firewall.Endpoint) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, other := range a.allowed {
		if other.Link == e.Link {
			continue
		}
		if bytes.Equal(other.MAC, e.MAC) {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("another container on this node has the MAC %s", e.MAC), "see falcond endpoints")
		}
		for _, address := range e.Addresses {
			if slices.Contains(other.Addresses, address) {
				return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("another container on this node has the address %s", address),
					"two IPAM configurations give out the same addresses; see falcond endpoints")
			}
		}
	}
	a.allowed[e.Link] = e
	return nil
}

// detach takes away all of an attachment, whatever there is of it. Whether the container's
// namespace is still there makes no difference. Its addresses are given back when it can't
// use them any more, and the record goes last.
func (a *Agent) detach(ctx context.Context, r *endpoint.Record) error {
	if err := a.unplug(r.Link); err != nil {
		return err
	}
	if err := ipam.Del(ctx, leaseOf(r)); err != nil {
		return err
	}
	return a.forget(keyOf(r))
}

// unplug cuts a container off, whatever is known of it.
func (a *Agent) unplug(link string) error {
	a.changes.RLock()
	defer a.changes.RUnlock()
	// Before the link goes: nothing is to be sent there.
	if err := a.leave(link); err != nil {
		return err
	}
	if err := a.detacher.Unplug(link); err != nil {
		return err
	}
	a.mu.Lock()
	e, allowed := a.allowed[link]
	delete(a.allowed, link)
	a.mu.Unlock()
	if !allowed {
		return nil
	}
	// After the link: the container can't send what nobody checks.
	return a.firewall.Deny(e)
}
