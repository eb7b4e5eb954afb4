package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/internal/netlab"
	"github.com/peregrine-dev/peregrine/netplugin/attach"
)

// lan is two nodes with an agent each and a host outside of the network of containers,
// all of them network namespaces on one switch.
type lan struct {
	debian  harness.Debian
	dir     string
	a, b    *harness.Falcond
	outside *netlab.NS
	other   harness.CNI // the reference plugin on a node of its own

	made int // containers so far
	undo []func() error
}

const (
	lanMTU        = 1500
	addressA      = "192.0.2.1"
	addressB      = "192.0.2.2"
	addressOut    = "192.0.2.9"
	lanBits       = "/24"
	attachments   = 10
	published     = 8080
	networkConfig = `{"cniVersion":"1.0.0","name":"falcon","plugins":[
		{"type":"falcon","ipam":{"type":"host-local","dataDir":%q}},
		{"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}`
)

// network shows falcon on two nodes. It returns rows beside the reference plugins' and
// what came of the rest.
func network(ctx context.Context, b *harness.Bundle, o Options) (rows []Row, seen []Finding, err error) {
	o.Progress("starting two nodes", 0, 0)
	l := &lan{dir: b.Dir()}
	defer func() { err = errors.Join(err, l.clear()) }()
	if err := l.setUp(ctx, o); err != nil {
		return nil, nil, err
	}
	if rows, err = l.attach(ctx, o); err != nil {
		return nil, nil, err
	}
	o.Progress("sending packets between nodes", 0, 0)
	one, err := l.container(ctx, l.a, nil)
	if err != nil {
		return nil, nil, err
	}
	two, err := l.service(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	for _, scene := range []func(context.Context, *lodger, *lodger) ([]Finding, error){
		l.reach, l.publish, l.spoof, l.outlive,
	} {
		more, err := scene(ctx, one, two)
		if err != nil {
			return nil, nil, err
		}
		seen = append(seen, more...)
	}
	return rows, seen, nil
}

func (l *lan) setUp(ctx context.Context, o Options) (err error) {
	if l.debian, err = harness.FindDebian(o.Cache); err != nil {
		return err
	}
	var all [5]*netlab.NS
	for i := range all {
		if all[i], err = l.namespace(); err != nil {
			return err
		}
	}
	wires, reference := all[3], all[4]
	if err := wires.Bridge("lan", lanMTU); err != nil {
		return err
	}
	for i, address := range []string{addressA, addressB, addressOut} {
		port := fmt.Sprintf("port%d", i)
		err := errors.Join(netlab.Wire(netlab.End{NS: wires, Link: port}, netlab.End{NS: all[i], Link: "eth0"}, lanMTU),
			wires.Port("lan", port), all[i].Address("eth0", address+lanBits))
		if err != nil {
			return err
		}
	}
	l.outside = all[2]
	peers := []harness.Peer{
		{Name: "a", Address: netip.MustParseAddr(addressA), Subnets: prefixes("10.88.1.0/24", "fd00:88:0:1::/64")},
		{Name: "b", Address: netip.MustParseAddr(addressB), Subnets: prefixes("10.88.2.0/24", "fd00:88:0:2::/64")},
	}
	file := filepath.Join(l.dir, "peers.toml")
	if err := harness.WritePeers(file, peers); err != nil {
		return err
	}
	for i, agent := range []**harness.Falcond{&l.a, &l.b} {
		p := peers[i]
		c := harness.FalconConfig(p.Name, p.Address, file, "falcon", prefixes("10.88.0.0/16", "fd00:88::/48"), p.Subnets...)
		if *agent, err = harness.StartFalcond(ctx, o.Bin, l.dir, all[i], c); err != nil {
			return err
		}
		l.undo = append(l.undo, (*agent).Remove)
	}
	l.other = harness.CNI{
		Node: reference, Program: filepath.Join(l.debian.CNI(), "bridge"), Env: l.debian.Env(), Path: l.debian.CNI(),
		Conf: fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"demo","type":"bridge","bridge":"demo0",
			"isGateway":true,"isDefaultGateway":true,"ipMasq":true,
			"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.99.0.0/24"}]]}}`, filepath.Join(l.dir, "reference")),
	}
	return nil
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}

// namespace makes one for a node or a container.
func (l *lan) namespace() (*netlab.NS, error) {
	ns, err := netlab.New()
	if err == nil {
		l.undo = append(l.undo, ns.Close)
	}
	return ns, err
}

func (l *lan) clear() (err error) {
	for i := len(l.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, l.undo[i]())
	}
	l.undo = nil
	return err
}

func (l *lan) id() string {
	l.made++
	return fmt.Sprintf("demo-%d", l.made)
}

// attach attaches containers by falcon and by the reference plugin by turns, and
// detaches them.
func (l *lan) attach(ctx context.Context, o Options) ([]Row, error) {
	add := Row{What: "attach to a network (CNI ADD)", Unit: "ms", Stock: "bridge", Ours: "falcon"}
	del := Row{What: "detach (CNI DEL)", Unit: "ms", Stock: "bridge", Ours: "falcon"}
	ours := l.a.Plugin(fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"falcon","type":"falcon",
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.88.1.0/24"}]]}}`, filepath.Join(l.dir, "timed")), l.debian)
	for round := range attachments + 1 {
		o.Progress("attaching containers by both", int64(round), attachments+1)
		for i := range 2 {
			plugin, added, deleted := l.other, &add.StockTook, &del.StockTook
			if (i+round)%2 == 1 {
				plugin, added, deleted = ours, &add.OursTook, &del.OursTook
			}
			id := l.id()
			ns, err := l.namespace()
			if err != nil {
				return nil, err
			}
			_, tookAdd, err := plugin.Run(ctx, "ADD", id, ns)
			if err != nil {
				return nil, err
			}
			_, tookDel, err := plugin.Run(ctx, "DEL", id, ns)
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first makes the bridge
				*added, *deleted = append(*added, ms(tookAdd)), append(*deleted, ms(tookDel))
			}
		}
	}
	return []Row{add, del}, nil
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// lodger is a container with its addresses.
type lodger struct {
	*netlab.NS
	link string // at the node
	ip4  netip.Addr
	ip6  netip.Addr
}

// container attaches a container to a node by falcon and the plugins after it.
func (l *lan) container(ctx context.Context, node *harness.Falcond, capabilities map[string]any) (*lodger, error) {
	ns, err := l.namespace()
	if err != nil {
		return nil, err
	}
	list, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil, networkConfig, filepath.Join(node.Root, "leases")))
	if err != nil {
		return nil, err
	}
	cni := node.Network(l.debian)
	rt := &libcni.RuntimeConf{ContainerID: l.id(), NetNS: ns.Path(), IfName: "eth0", CapabilityArgs: capabilities}
	result, err := cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		return nil, fmt.Errorf("attach a container: %w", err)
	}
	l.undo = append(l.undo, func() error { return cni.DelNetworkList(context.WithoutCancel(ctx), list, rt) })
	c := &lodger{NS: ns, link: attach.LinkName(rt.ContainerID, rt.IfName)}
	c.ip4, c.ip6, err = addresses(result)
	return c, err
}
