package driver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/peregrine-dev/peregrine/plasma/service"
)

// attachment is a server's part in a network of CNI; zero for servers in none.
type attachment struct {
	network, netns string
	address        netip.Addr
}

// ifName is what a server's link is called.
const ifName = "eth0"

func (d *Driver) netns(network, id string) string {
	return filepath.Join(d.o.Run, "netns", network, id)
}

// cni calls the plugins. What it attached is remembered on disk, for the way back.
func (d *Driver) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(d.o.CNIBin, filepath.Join(d.o.Root, "cni"), nil)
}

// usesCNI tells whether a service is in a network of CNI.
func usesCNI(s *service.Spec) bool {
	return s.Network != service.Host && s.Network != service.None
}

// attach makes a namespace for a server and attaches it to the service's network. All of it is
// undone when a part fails.
func (d *Driver) attach(ctx context.Context, s Server) (a attachment, err error) {
	if !usesCNI(s.Service) {
		return attachment{}, nil
	}
	network := s.Service.Network
	list, err := libcni.LoadNetworkConf(d.o.CNIConf, network)
	if err != nil {
		return a, fmt.Errorf("find CNI network %q in %s: %w: %w", network, d.o.CNIConf, err, errdefs.ErrNotFound)
	}
	a = attachment{network: network, netns: d.netns(network, s.ID)}
	defer func() {
		if err != nil {
			clean, cancel := cleaning(ctx)
			defer cancel()
			err = errors.Join(err, d.detach(clean, network, s.ID))
		}
	}()
	// What a driver left that was killed before there was a container.
	if err := d.detach(ctx, network, s.ID); err != nil {
		return a, err
	}
	if err := makeNetns(a.netns); err != nil {
		return a, err
	}
	answer, err := d.cni().AddNetworkList(ctx, list, &libcni.RuntimeConf{ContainerID: s.ID, NetNS: a.netns, IfName: ifName})
	if err != nil {
		return a, fmt.Errorf("attach %s to network %s: %w", s.ID, network, err)
	}
	result, err := types100.NewResultFromResult(answer)
	if err != nil {
		return a, fmt.Errorf("read what network %s answered: %w", network, err)
	}
	a.address = address(result)
	if !a.address.IsValid() {
		return a, fmt.Errorf("network %s gave %s no address: %w", network, s.ID, errdefs.ErrFailedPrecondition)
	}
	return a, nil
}

// address is the first of a result, IPv4 before IPv6.
func address(result *types100.Result) (first netip.Addr) {
	for _, ip := range result.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		switch a = a.Unmap(); {
		case !ok:
		case a.Is4():
			return a
		case !first.IsValid():
			first = a
		}
	}
	return first
}

// attached is the attachment that a container's labels tell of, if it is still there.
func attached(labels map[string]string) (a attachment, ok bool) {
	a = attachment{network: labels[LabelNetwork], netns: labels[LabelNetns]}
	address, err := netip.ParseAddr(labels[LabelAddress])
	a.address = address
	return a, a.netns != "" && err == nil && isNetns(a.netns)
}

// detach takes a server out of a network; where it isn't in, it does nothing. The namespace stays
// as long as that fails, so that it is tried again.
func (d *Driver) detach(ctx context.Context, network, id string) error {
	netns := d.netns(network, id)
	rt := &libcni.RuntimeConf{ContainerID: id, IfName: ifName}
	if isNetns(netns) {
		rt.NetNS = netns
	}
	text, _, _ := d.cni().GetNetworkListCachedConfig(&libcni.NetworkConfigList{Name: network}, rt) // of one cut short nothing is known
	_, err := os.Lstat(netns)
	if begun := err == nil || text != nil; !begun {
		return nil
	}
	list, err := libcni.LoadNetworkConf(d.o.CNIConf, network)
	if err != nil && text != nil { // the configuration is gone since
		list, err = libcni.NetworkConfFromBytes(text)
	}
	if err == nil {
		err = d.cni().DelNetworkList(ctx, list, rt)
	}
	if err != nil {
		return fmt.Errorf("detach %s from network %s: %w", id, network, err)
	}
	return removeNetns(netns)
}

// detachAll takes a server out of all networks that it may be in, by its container's labels, by the
// namespaces that there are for it, and by what was attached.
func (d *Driver) detachAll(ctx context.Context, id string, labels map[string]string) error {
	paths, err := filepath.Glob(d.netns("*", id))
	if err != nil {
		return err
	}
	attachments, err := d.cni().GetCachedAttachments(id)
	if err != nil {
		return fmt.Errorf("find the networks of %s: %w", id, err)
	}
	networks := map[string]bool{}
	if name := labels[LabelNetwork]; name != "" {
		networks[name] = true
	}
	for _, path := range paths {
		networks[filepath.Base(filepath.Dir(path))] = true
	}
	for _, a := range attachments {
		if a.ContainerID == id {
			networks[a.Network] = true
		}
	}
	var errs error
	for network := range networks {
		errs = errors.Join(errs, d.detach(ctx, network, id))
	}
	return errs
}
