package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/containerd/log"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/ipam"
)

// del takes an attachment away. What is gone already is no error, and neither is one that
// never was.
func (a *Agent) del(ctx context.Context, r *Request) error {
	k := key{r.ContainerID, r.IfName}
	defer a.attachments.lock(k.container + "/" + k.ifname)()
	if record := a.record(k); record != nil {
		return a.detach(ctx, record)
	}
	// Records go with a reboot, allocations don't.
	lease, err := a.leaseWithoutRecord(r)
	if err != nil {
		return err
	}
	if err := a.unplug(attach.LinkName(k.container, k.ifname)); err != nil {
		return err
	}
	return ipam.Del(ctx, lease)
}

func (a *Agent) leaseWithoutRecord(r *Request) (ipam.Request, error) {
	settings := r.Conf.Text
	// Of a network that is no more the addresses are known by the configuration's name.
	if n, err := a.network(r.Conf.Network); err == nil {
		if settings, _, err = ipamSettings(r, n); err != nil {
			return ipam.Request{}, err
		}
	}
	return ipam.Request{
		ContainerID: r.ContainerID, IfName: r.IfName, NetNS: r.NetNS, Path: r.Path, Args: r.Args, Config: settings,
	}, nil
}

// gc takes away the attachments of a configuration that the runtime doesn't know.
func (a *Agent) gc(ctx context.Context, r *Request) error {
	if r.Conf.Valid == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "GC needs cni.dev/valid-attachments", "")
	}
	var errs error
	for _, record := range a.records() {
		if record.ConfName == r.Conf.Name && record.Offer != record.ContainerID &&
			!slices.Contains(r.Conf.Valid, types.GCAttachment{ContainerID: record.ContainerID, IfName: record.IfName}) {
			errs = errors.Join(errs, a.collect(ctx, record))
		}
	}
	if a.unreadable {
		return errors.Join(errs, types.NewError(types.ErrInternal, "an attachment can't be read, and its addresses can't be told from others'", "see the agent's log, and remove the file"))
	}
	a.leases.use.Lock()
	defer a.leases.use.Unlock()
	// Several configurations, and offers, may have addresses from one place.
	valid := append(a.owners(), r.Conf.Valid...)
	lease, err := a.leaseWithoutRecord(r)
	if err != nil {
		return errors.Join(errs, err)
	}
	return errors.Join(errs, ipam.GC(ctx, lease, valid))
}

// collect takes an attachment away unless that is being done.
func (a *Agent) collect(ctx context.Context, r *endpoint.Record) error {
	defer a.attachments.lock(r.ContainerID + "/" + r.IfName)()
	if a.record(keyOf(r)) != r {
		return nil
	}
	log.G(ctx).WithField("container", r.ContainerID).WithField("interface", r.IfName).Info("collecting an attachment that the runtime does not know")
	return a.detach(ctx, r)
}
