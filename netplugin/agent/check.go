package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/ipam"
)

// check fails unless the container is attached as ADD's result says.
func (a *Agent) check(ctx context.Context, r *Request) error {
	if r.Conf.Prev == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs prevResult, the result of ADD", "")
	}
	k := key{r.ContainerID, r.IfName}
	defer a.attachments.lock(k.container + "/" + k.ifname)()
	record := a.record(k)
	if record == nil || !record.Complete {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("container %s has no interface %s of this plugin", k.container, k.ifname), "")
	}
	if r.Namespace == nil {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS "+r.NetNS+" could not be opened", "")
	}
	if err := agrees(record, r.Conf.Prev); err != nil {
		return err
	}
	if err := attach.Check(r.Namespace, specOf(record)); err != nil {
		return types.NewError(types.ErrInternal, fmt.Sprintf("container %s is not attached as it was", k.container), err.Error())
	}
	lease := leaseOf(record)
	// As it is now: it has the previous result, which some plugins ask for.
	if n, err := a.network(r.Conf.Network); err == nil {
		if lease.Config, _, err = ipamSettings(r, n); err != nil {
			return err
		}
	}
	return ipam.Check(ctx, lease)
}

// agrees compares a previous result with what was attached. Plugins later in the list may
// have added to it.
func agrees(r *endpoint.Record, result *types100.Result) error {
	for _, want := range r.Addresses {
		if !slices.ContainsFunc(result.IPs, func(ip *types100.IPConfig) bool { return ip.Address.IP.Equal(want.Addr().AsSlice()) }) {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("prevResult does not have the address %s of the container", want.Addr()), "")
		}
	}
	if !slices.ContainsFunc(result.Interfaces, func(i *types100.Interface) bool { return i.Name == r.IfName && i.Sandbox != "" }) {
		return types.NewError(types.ErrInvalidNetworkConfig, "prevResult does not have the interface "+r.IfName, "")
	}
	return nil
}

// status is nil while this node can attach containers to the network.
func (a *Agent) status(ctx context.Context, r *Request) error {
	n, err := a.network(r.Conf.Network)
	if err == nil {
		_, err = a.ready(n)
	}
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "containers can't be attached", err.Error())
	}
	lease, err := a.leaseWithoutRecord(r)
	if err != nil {
		return err
	}
	return ipam.Status(ctx, lease)
}
