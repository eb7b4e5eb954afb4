package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

const vxlanPort = 4789

// lab is a node with the networks 1 (containers a and b) and 2 (container c), all of it
// real, beside the model of it. What the other nodes, .2 and .3, send is made by hand, from
// the namespace wire.
type lab struct {
	*netnstest.NS
	t     testing.TB
	wire  *netnstest.NS
	model model
	path  *Fastpath
	eth0  uint32            // ifindex
	fx    map[uint32]uint32 // ifindex by VNI
	boxes map[string]*netnstest.NS
	work  chan func() // for a thread that stays inside
}

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

func prefixes(all ...string) (out []netip.Prefix) {
	for _, p := range all {
		out = append(out, prefix(p))
	}
	return out
}

// newLab returns when all is in force; the underlay is IPv6 if v6 says so. spec is nil, or
// changes what is loaded.
func newLab(t testing.TB, v6 bool, spec func(*ebpf.CollectionSpec)) *lab {
	t.Helper()
	l := &lab{NS: netnstest.New(t), t: t, wire: netnstest.New(t), fx: map[uint32]uint32{}, boxes: map[string]*netnstest.NS{}}
	netnstest.Wire(netnstest.End{NS: l.NS, Link: "eth0"}, netnstest.End{NS: l.wire, Link: "eth0"}, 4000)
	underlay := "192.0.2.%d"
	l.Address("eth0", "192.0.2.1/24")
	l.Address("eth0", "2001:db8::1/64")
	if v6 {
		underlay = "2001:db8::%d"
	}
	node := func(i int) netip.Addr { return addr(fmt.Sprintf(underlay, i)) }
	l.model = model{node: node(1), port: vxlanPort, networks: map[uint32]network{}}
	l.eth0, l.model.nic = l.link(l.NS, "eth0")
	for i := 2; i <= 3; i++ {
		p := Peer{Address: node(i), Subnets: map[uint32][]netip.Prefix{}}
		for vni := 1; vni <= 2; vni++ {
			p.Subnets[uint32(vni)] = prefixes(fmt.Sprintf("10.%d.%d.0/24", vni, i), fmt.Sprintf("fd0%d:0:0:%d::/64", vni, i))
		}
		l.model.peers = append(l.model.peers, p)
	}
	state := State{Node: l.model.node, Port: vxlanPort, Peers: l.model.peers}
	rules := firewall.State{Port: vxlanPort, VTEPs: []netip.Addr{node(2), node(3)}}
	l.Do(func() {
		o, err := overlay.New(overlay.Underlay{Address: l.model.node, Port: vxlanPort})
		l.must(err)
		for vni := uint32(1); vni <= 2; vni++ {
			n := overlay.Network{
				VNI:     vni,
				MTU:     1430,
				Subnets: prefixes(fmt.Sprintf("10.%d.1.0/24", vni), fmt.Sprintf("fd0%d:0:0:1::/64", vni)),
				Cluster: prefixes(fmt.Sprintf("10.%d.0.0/16", vni), fmt.Sprintf("fd0%d::/48", vni)),
			}
			var remotes []overlay.Remote
			for _, p := range l.model.peers {
				remotes = append(remotes, overlay.Remote{Address: p.Address, Subnets: p.Subnets[vni]})
			}
			_, err := o.Ensure(n, remotes)
			l.must(err)
			index, _ := l.link(l.NS, overlay.Device(vni))
			l.fx[vni] = index
			l.model.networks[vni] = network{vtepOf(l.model.node, vni), mac(overlay.BridgeMAC(vni)), l.mtuOf(overlay.Device(vni))}
			state.Networks = append(state.Networks, Network{vni, overlay.Device(vni)})
			rules.Networks = append(rules.Networks, firewall.Network{
				Bridge: overlay.Bridge(vni), Device: overlay.Device(vni), Masquerade: true,
				Subnets: n.Subnets, Cluster: append(n.Cluster, n.Subnets...),
			})
		}
	})
	for i, name := range []string{"a", "b", "c"} {
		e := l.contain(name, uint32(1+i/2), 2+i%2)
		rules.Endpoints = append(rules.Endpoints, firewall.Endpoint{Link: e.Link, MAC: e.MAC, Addresses: e.Addresses})
	}
	l.stay()
	l.Do(func() {
		fw, err := firewall.Open()
		l.must(err)
		l.must(fw.Replace(rules))
		l.must(fw.Close())
		features := Probe()
		l.must(features.shortcut())
		s, err := read()
		l.must(err)
		if spec != nil {
			spec(s)
		}
		l.path, err = openWith(features, s)
		l.must(err)
		t.Cleanup(func() { l.path.Close() })
		l.must(l.path.Sync(state))
		for _, c := range l.model.containers {
			l.must(errors.Join(l.path.Add(l.endpoint(c)), l.path.Attach(l.t.Context(), false)))
		}
		l.must(l.path.Shortcut(true))
		l.must(l.path.Renew())
	})
	return l
}

// stay starts the thread for inside: it saves entering the namespace for each frame.
func (l *lab) stay() {
	l.t.Helper()
	l.work = make(chan func())
	entered, left := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(left)
		l.Do(func() {
			close(entered)
			for f := range l.work {
				f()
			}
		})
	}()
	<-entered
	l.t.Cleanup(func() { close(l.work); <-left })
}

// inside runs f in the node's namespace; f must not end the test.
func (l *lab) inside(f func()) {
	done := make(chan struct{})
	l.work <- func() { defer close(done); f() }
	<-done
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) link(ns *netnstest.NS, name string) (uint32, mac) {
	l.t.Helper()
	h := ns.Netlink()
	link, err := h.LinkByName(name)
	l.must(err)
	return uint32(link.Attrs().Index), mac(link.Attrs().HardwareAddr)
}

// mtuOf is a link's of the node.
func (l *lab) mtuOf(name string) int {
	l.t.Helper()
	link, err := l.Netlink().LinkByName(name)
	l.must(err)
	return link.Attrs().MTU
}

// contain makes a container with addresses number i of the node's subnets.
func (l *lab) contain(name string, vni uint32, i int) Endpoint {
	l.t.Helper()
	box := netnstest.New(l.t)
	l.boxes[name] = box
	c := &container{name: name, vni: vni, mtu: 1430, addresses: []netip.Addr{
		addr(fmt.Sprintf("10.%d.1.%d", vni, i)), addr(fmt.Sprintf("fd0%d:0:0:1::%d", vni, i)),
	}}
	netnstest.Wire(netnstest.End{NS: l.NS, Link: "fv" + name}, netnstest.End{NS: box, Link: "eth0"}, c.mtu)
	l.Port(overlay.Bridge(vni), "fv"+name)
	box.Address("eth0", c.addresses[0].String()+"/24")
	box.Address("eth0", c.addresses[1].String()+"/64")
	c.link, _ = l.link(l.NS, "fv"+name)
	_, c.mac = l.link(box, "eth0")
	l.model.containers = append(l.model.containers, c)
	return l.endpoint(c)
}

func (l *lab) endpoint(c *container) Endpoint {
	return Endpoint{Link: "fv" + c.name, VNI: c.vni, MAC: c.mac[:], Addresses: c.addresses, MTU: c.mtu}
}

func (l *lab) container(name string) *container {
	for _, c := range l.model.containers {
		if c.name == name {
			return c
		}
	}
	l.t.Fatalf("no container %s", name)
	return nil
}

// from makes a good frame in VXLAN from node .2's container number 2 to one here.
func (l *lab) from(to *container, v6 bool, protocol byte) tunnelled {
	i, source := 0, addr(fmt.Sprintf("10.%d.2.2", to.vni))
	if v6 {
		i, source = 1, addr(fmt.Sprintf("fd0%d:0:0:2::2", to.vni))
	}
	return tunnelled{
		outer: frame{
			to: l.model.nic, from: mac{2, 0, 0, 0, 0, 2},
			ip:  ipHeader{source: l.model.peers[0].Address, destination: l.model.node, ttl: 64, protocol: protoUDP},
			udp: udpHeader{source: 50000, destination: vxlanPort},
		},
		flags: 0x08000000, vni: to.vni,
		inner: frame{
			to: l.model.networks[to.vni].vtep, from: mac{2, 0, 0, 0, 2, 2},
			ip:      ipHeader{source: source, destination: to.addresses[i], ttl: 63, protocol: protocol},
			udp:     udpHeader{source: 4000, destination: 7},
			payload: []byte("some payload"),
		},
	}
}

// fast has a flow take the shortcut, as if it had been seen to come through.
func (l *lab) fast(f frame, vni uint32, change func(*bpf.FalconFlow)) bpf.FalconFlowKey {
	l.t.Helper()
	key := keyOf(f, vni)
	to := l.model.at(vni, f.ip.destination)
	slot := l.path.slots["fv"+to.name]
	peer := l.path.peers[l.model.peers[0].Address]
	flow := bpf.FalconFlow{
		Epoch: l.path.settings.Epoch, Classes: l.path.settings.Classes,
		Endpoint: slot.index, EndpointGeneration: slot.value.Generation,
		Source: peer.index, SourceGeneration: peer.generation,
		Target: to.link, State: bpf.FalconStateSTATE_FAST, Direction: bpf.FalconDirectionDIRECTION_IN,
		CameTo: l.model.networks[vni].vtep, LeavesTo: to.mac, LeavesFrom: l.model.networks[vni].bridge,
	}
	if f.ip.protocol == protoTCP {
		flow.Tunnel = 1
	}
	if change != nil {
		change(&flow)
	}
	l.must(l.path.objects.FalconFlows.Put(&key, &flow))
	return key
}

// at is the container that has an address.
func (m *model) at(vni uint32, a netip.Addr) *container {
	for _, c := range m.containers {
		for _, b := range c.addresses {
			if c.vni == vni && a == b {
				return c
			}
		}
	}
	return nil
}

func keyOf(f frame, vni uint32) bpf.FalconFlowKey {
	port := func(p uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p)) }
	return bpf.FalconFlowKey{
		Source: addressOf(f.ip.source), Destination: addressOf(f.ip.destination),
		SourcePort: port(f.udp.source), DestinationPort: port(f.udp.destination),
		Network: vni<<8 | uint32(f.ip.protocol),
	}
}

func (l *lab) flow(key bpf.FalconFlowKey) (flow bpf.FalconFlow, known bool) {
	return flow, l.path.objects.FalconFlows.Lookup(&key, &flow) == nil
}

// vtepOf is the MAC of a node's VXLAN device.
func vtepOf(node netip.Addr, vni uint32) mac { return mac(overlay.VTEPMAC(node, vni)) }
