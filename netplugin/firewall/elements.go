package firewall

import (
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Names of the sets, as `nft list ruleset` shows them.
const (
	// Of the inet table.
	setDevices  = "devices" // our bridges and VXLAN devices
	setTunnels  = "tunnels" // the VXLAN devices alone
	setSame     = "same"    // input and output device of one network
	setVTEPs4   = "vteps4"
	setVTEPs6   = "vteps6"
	setSubnets4 = "subnets4" // of all networks on this node
	setSubnets6 = "subnets6"
	setOwn4     = "own4" // input device and a subnet of its network
	setOwn6     = "own6"
	setMasq4    = "masquerade4" // subnets that are masqueraded
	setMasq6    = "masquerade6"
	setInside4  = "inside4" // source and destination that are not
	setInside6  = "inside6"

	// Of the bridge table: link, and link with an address that is the container's.
	setLinks = "links"
	setMACs  = "macs"
	setIPv4  = "ipv4"
	setIPv6  = "ipv6"

	// Of both: reason and link, with a counter.
	setDrops = "drops"
)

// elements are the contents of sets by the set's name.
type elements map[string][]nftables.SetElement

// key adds the concatenation of fields. A field takes whole registers of 4 bytes.
func (e elements) key(set string, fields ...[]byte) {
	e[set] = append(e[set], nftables.SetElement{Key: concat(fields...)})
}

// between adds a concatenation of ranges to a set of concatenated intervals.
func (e elements) between(set string, first, last []byte) {
	e[set] = append(e[set], nftables.SetElement{Key: first, KeyEnd: last})
}

// prefix adds a prefix to a set of plain intervals: its first address, and the first one
// behind it unless it ends with the address space.
func (e elements) prefix(set string, p netip.Prefix) {
	e[set] = append(e[set], nftables.SetElement{Key: p.Addr().AsSlice()})
	if next := last(p).Next(); next.IsValid() {
		e[set] = append(e[set], nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
	}
}

// inetElements are the contents of the inet table's sets for a valid state.
func inetElements(s State) elements {
	e := make(elements)
	vteps := slices.Clone(s.VTEPs)
	slices.SortFunc(vteps, netip.Addr.Compare)
	for _, a := range slices.Compact(vteps) {
		e.key(family(a, setVTEPs4, setVTEPs6), a.AsSlice())
	}
	for _, n := range s.Networks {
		devices := []string{n.Bridge, n.Device}
		e.key(setTunnels, linkName(n.Device))
		for _, in := range devices {
			e.key(setDevices, linkName(in))
			for _, out := range devices {
				e.key(setSame, linkName(in), linkName(out))
			}
		}
		for _, p := range n.Subnets {
			e.prefix(family(p.Addr(), setSubnets4, setSubnets6), p)
			for _, in := range devices {
				e.between(family(p.Addr(), setOwn4, setOwn6),
					concat(linkName(in), p.Addr().AsSlice()), concat(linkName(in), last(p).AsSlice()))
			}
			if n.Masquerade {
				e.masquerade(p, n.Cluster)
			}
		}
	}
	return e
}

func (e elements) masquerade(from netip.Prefix, cluster []netip.Prefix) {
	a := from.Addr()
	e.prefix(family(a, setMasq4, setMasq6), from)
	for _, to := range outermost(cluster) {
		if to.Addr().BitLen() == a.BitLen() {
			e.between(family(a, setInside4, setInside6),
				concat(a.AsSlice(), to.Addr().AsSlice()), concat(last(from).AsSlice(), last(to).AsSlice()))
		}
	}
}

// endpointElements are the contents of the bridge table's sets for valid endpoints.
func endpointElements(endpoints ...Endpoint) elements {
	e := make(elements)
	for _, p := range endpoints {
		link := linkName(p.Link)
		e.key(setLinks, link)
		e.key(setMACs, link, p.MAC)
		e.key(setIPv6, link, linkLocal(p.MAC).AsSlice())
		for _, a := range p.Addresses {
			e.key(family(a, setIPv4, setIPv6), link, a.AsSlice())
		}
	}
	return e
}

func family[T any](a netip.Addr, v4, v6 T) T {
	if a.Is4() {
		return v4
	}
	return v6
}

// linkName is a name as the kernel's meta expressions load it.
func linkName(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

func concat(fields ...[]byte) []byte {
	var key []byte
	for _, f := range fields {
		key = append(key, f...)
		key = append(key, make([]byte, -len(f)&3)...)
	}
	return key
}

// linkLocal is the address a Linux host gives itself by default (addr_gen_mode eui64).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0xfe, 0x80, 0, 0, 0, 0, 0, 0,
		mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5],
	})
}

// last is the last address of a masked prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// outermost leaves out prefixes that lie in others: intervals of a set can't overlap.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, comparePrefix)
	var kept []netip.Prefix
	for _, p := range sorted {
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}

// comparePrefix sorts a prefix right before those that lie in it.
func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
