package fastpath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// behindTunnel is what becomes of a frame that the VXLAN device of a network let in.
func (m *model) behindTunnel(vni uint32, frame []byte) outcome {
	network := m.networks[vni]
	if mac(frame) != network.vtep {
		return drop("for another station of the network")
	}
	d, why := readIP(binary.BigEndian.Uint16(frame[12:]), frame[14:])
	if why != "" {
		return drop(why)
	}
	return m.forward(vni, network, d, &m.peers[0])
}

// outOf is what becomes of a frame that a container sends: of what it is when it enters the
// VXLAN device, or another container. Rules check its source, a bridge or a route takes it.
func (m *model) outOf(from *container, frame []byte) outcome {
	if mac(frame[6:]) != from.mac {
		return drop("another's MAC: rule spoofed-mac")
	}
	d, why := readIP(binary.BigEndian.Uint16(frame[12:]), frame[14:])
	if why != "" {
		return drop(why)
	}
	if !slices.Contains(from.addresses, d.source) {
		return drop("another's address: rule spoofed-ipv4 or spoofed-ipv6")
	}
	if d.fragment || d.options {
		return open("fragments or options")
	}
	for _, to := range m.containers {
		if mac(frame) == to.mac { // the bridge takes it, whatever it is
			if to.vni != from.vni || to == from {
				return drop("for nobody")
			}
			if len(d.packet) > to.mtu {
				return drop("too long")
			}
			return outcome{to: to, frame: frame}
		}
	}
	network := m.networks[from.vni]
	if mac(frame) != network.bridge {
		return drop("for another station")
	}
	if d.ttl <= 1 {
		return drop("TTL")
	}
	if len(d.packet) > network.mtu {
		return open("too long: ICMP, or fragments")
	}
	for _, p := range m.peers {
		if !slices.ContainsFunc(p.Subnets[from.vni], func(s netip.Prefix) bool { return s.Contains(d.destination) }) {
			continue
		}
		there := vtepOf(p.Address, from.vni)
		out := slices.Concat(there[:], network.vtep[:], frame[12:14], d.packet)
		routed(out[14:], d.v6)
		return outcome{to: &container{name: p.Address.String(), vni: from.vni}, frame: out}
	}
	return drop("for no node")
}

// leaving is a good frame that container a sends to node .2, or to b.
func (l *lab) leaving(v6, local bool, protocol byte) frame {
	a, b := l.container("a"), l.container("b")
	i, to := 0, addr("10.1.2.2")
	if v6 {
		i, to = 1, addr("fd01:0:0:2::2")
	}
	f := frame{
		to: l.model.networks[1].bridge, from: a.mac,
		ip:      ipHeader{source: a.addresses[i], destination: to, ttl: 64, protocol: protocol},
		udp:     udpHeader{source: 4000, destination: 7},
		payload: []byte("some payload"),
	}
	if local {
		f.to, f.ip.destination = b.mac, b.addresses[i]
	}
	return f
}

// leaves has the flow of a frame of leaving take the shortcut.
func (l *lab) leaves(f frame, local bool) bpf.FalconFlowKey {
	l.t.Helper()
	key := keyOf(f, 1)
	own, peer := l.path.slots["fva"], l.path.peers[l.model.peers[0].Address]
	flow := bpf.FalconFlow{
		Epoch: l.path.settings.Epoch, Classes: l.path.settings.Classes,
		Endpoint: own.index, EndpointGeneration: own.value.Generation,
		Source: peer.index, SourceGeneration: peer.generation,
		Target: l.fx[1], State: bpf.FalconStateSTATE_FAST, Direction: bpf.FalconDirectionDIRECTION_OUT,
		CameTo: f.to, LeavesTo: vtepOf(l.model.peers[0].Address, 1), LeavesFrom: l.model.networks[1].vtep,
	}
	if local {
		to := l.path.slots["fvb"]
		flow.Direction, flow.Target = bpf.FalconDirectionDIRECTION_LOCAL, to.ifindex
		flow.Endpoint, flow.EndpointGeneration = to.index, to.value.Generation
		flow.Source, flow.SourceGeneration = own.index, own.value.Generation
		flow.LeavesTo, flow.LeavesFrom = f.to, f.from
	}
	l.must(l.path.objects.FalconFlows.Put(&key, &flow))
	return key
}

// combinations names the four of a flow that a container sends.
func combinations(f func(name string, v6, local bool)) {
	for i := range 4 {
		v6, local := i&1 != 0, i&2 != 0
		f(fmt.Sprintf("v6=%t,local=%t", v6, local), v6, local)
	}
}
