package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/log"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/offer"
)

// offeredName is the interface of a namespace that is made ahead: what runtimes ask for.
const offeredName = "eth0"

// keepers are what keeps the namespaces ready of those networks that offer any.
func (a *Agent) keepers() []*offer.Keeper {
	root := os.Getenv("FLASHCUBE_ROOT")
	if root == "" {
		root = "/run/flashcube"
	}
	var list []*offer.Keeper
	networks := a.networks()
	for i := range networks {
		n := &networks[i]
		if i >= len(a.config.Networks) {
			n.Offers = 0 // it is leaving
		}
		dir := filepath.Join(root, "network", n.Name)
		if _, err := os.Stat(dir); n.Offers > 0 || err == nil { // what is left of offers goes
			list = append(list, &offer.Keeper{Dir: dir, Want: n.Offers, Maker: &maker{a, n}})
		}
	}
	return list
}

// DrainOffers takes back all that is offered and that no container has. It is for an agent
// that doesn't run.
func (a *Agent) DrainOffers(ctx context.Context) error {
	var errs error
	for _, k := range a.keepers() {
		errs = errors.Join(errs, k.Drain(ctx))
	}
	return errs
}

// maker plugs in what a network offers. An offer's record has the offer's name for the
// container's, until a container adopts it.
type maker struct {
	a *Agent
	n *config.Network
}

// Attach implements offer.Maker.
func (m *maker) Attach(ctx context.Context, id string, ns *os.File, path string) error {
	conf, err := usualConf(m.n.Name)
	if err != nil {
		return err
	}
	defer m.a.attachments.lock(id + "/" + offeredName)()
	_, err = m.a.attach(ctx, m.n, &Request{
		Command: "ADD", ContainerID: id, IfName: offeredName, NetNS: path, Namespace: ns, Conf: conf,
	}, id)
	return err
}

// Detach implements offer.Maker. What a container has adopted is the container's.
func (m *maker) Detach(ctx context.Context, id string) error {
	defer m.a.attachments.lock(id + "/" + offeredName)()
	r := m.a.record(key{id, offeredName})
	if r == nil {
		return nil
	}
	return m.a.detach(ctx, r)
}

// Known implements offer.Maker. An offer that is not as the configuration has it now is
// none any more.
func (m *maker) Known(id string) bool {
	r := m.a.record(key{id, offeredName})
	return r != nil && r.Complete && m.a.fits(r, m.n)
}

// fits tells whether an attachment is as the network has them.
func (a *Agent) fits(r *endpoint.Record, n *config.Network) bool {
	if c, err := a.ready(n); err == nil && c.mtu != r.MTU {
		return false
	}
	return r.Network == n.Name && r.VNI == n.VNI && !slices.ContainsFunc(r.Addresses, func(p netip.Prefix) bool {
		return !within(p, n.Subnets)
	})
}

// offered is the record of a namespace that was made ahead and that nobody has adopted,
// nil if it is none.
func (a *Agent) offered(inode uint64) *endpoint.Record {
	for _, r := range a.records() {
		if r.NamespaceInode == inode && r.Offer != "" && r.Offer == r.ContainerID && r.Complete {
			return r
		}
	}
	return nil
}

// adopt attaches a container whose namespace was made ahead: there is nothing left to do
// but to write down whose it is. It returns nil if the namespace is none of those, or not
// as the container is to have it, and then unplugs it.
func (a *Agent) adopt(ctx context.Context, n *config.Network, r *Request, inode uint64, usual bool) (*types100.Result, error) {
	old := a.offered(inode)
	if old == nil {
		return nil, nil
	}
	defer a.attachments.lock(old.ContainerID + "/" + old.IfName)()
	if a.record(keyOf(old)) != old {
		return nil, nil
	}
	if !usual || !a.fits(old, n) || old.IfName != r.IfName {
		return nil, errors.Join(a.detach(ctx, old), a.detacher.Flush(ctx))
	}
	var result types100.Result
	if err := json.Unmarshal(old.Result, &result); err != nil {
		return nil, fmt.Errorf("read the result of an offer: %w", err)
	}
	for _, i := range result.Interfaces {
		if i.Sandbox != "" {
			i.Sandbox = r.NetNS
		}
	}
	if !r.Conf.DNS.IsEmpty() {
		result.DNS = r.Conf.DNS
	}
	record := *old
	record.ContainerID, record.ConfName, record.Namespace, record.Priority = r.ContainerID, r.Conf.Name, r.NetNS, r.Conf.Priority
	var err error
	if record.Result, err = json.Marshal(&result); err != nil {
		return nil, err
	}
	if err := a.put(record); err != nil {
		return nil, err
	}
	// From here on it is the container's, whoever dies: see dropAdopted.
	if err := a.forget(keyOf(old)); err != nil {
		log.G(ctx).WithError(err).Warn("forget an offer that was adopted")
	}
	a.classify()
	return &result, nil
}

// dropAdopted forgets the records of offers that containers have adopted, where a crash
// came between.
func (a *Agent) dropAdopted() error {
	adopted := map[string]bool{}
	for _, r := range a.records() {
		if r.Offer != "" && r.Offer != r.ContainerID {
			adopted[r.Offer] = true
		}
	}
	for _, r := range a.records() {
		if r.Offer == r.ContainerID && adopted[r.Offer] {
			if err := a.forget(keyOf(r)); err != nil {
				return err
			}
		}
	}
	return nil
}
