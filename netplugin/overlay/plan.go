package overlay

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
)

// change is one step from what is to what should be.
type change interface {
	fmt.Stringer
	apply() error
}

// The changes, in the order of a plan.
type (
	deleteLink      struct{ name string }
	addBridge       struct{ link link }
	addTunnel       struct{ link link }
	setMAC          struct{ link link }
	setMTU          struct{ link link }
	release         struct{ name string } // from the bridge that it is a port of
	setOptions      struct{ name string }
	writeSysctl     struct{ sysctl sysctl }
	setUp           struct{ name string }
	deleteAddress   struct{ address address }
	addAddress      struct{ address address }
	addRoute        struct{ route deviceRoute }
	putFDB          struct{ entry deviceFDB }
	putNeighbour    struct{ neighbour deviceNeighbour }
	replaceRoute    struct{ route deviceRoute }
	deleteRoute     struct{ route deviceRoute }
	deleteNeighbour struct{ neighbour deviceNeighbour }
	deleteFDB       struct{ entry deviceFDB }
)

// What belongs to a VXLAN device is carried out with its name.
type (
	deviceRoute struct {
		device string
		routeKey
		route
	}
	deviceFDB struct {
		device string
		fdbEntry
	}
	deviceNeighbour struct {
		device string
		ip     netip.Addr
		mac    mac
	}
)

// snapshot is what is.
type snapshot struct {
	state
	host
	sysctls map[string]string // those of the last target; absent files are missing
	hearsRA []string          // interfaces that would stop to hear router advertisements
	rival   string            // another VXLAN device with the network's VNI and port
}

// plan lists the changes that make have into want; none if it is. Devices are made anew
// only for what can't be changed in place. Errors: errdefs.ErrAlreadyExists for devices
// that are in the way and not this package's to change.
func plan(have snapshot, want target) ([]change, error) {
	if err := inTheWay(have, want); err != nil {
		return nil, err
	}
	var changes []change
	if have.device.kind != "" && have.device.tunnel != want.device.tunnel {
		// Its neighbours, FDB and routes go with it.
		changes = append(changes, deleteLink{have.device.name})
		have.device = link{}
		have.neighbours, have.fdb = nil, nil
		have.routes = maps.Clone(have.routes)
		maps.DeleteFunc(have.routes, func(_ routeKey, r route) bool { return r.via.IsValid() })
	}
	changes = append(changes, planLinks(have, want)...)
	changes = append(changes, planAddresses(have.addresses, want.addresses)...)
	changes = append(changes, planRemotes(have.state, want.state)...)
	return changes, nil
}

func inTheWay(have snapshot, want target) error {
	for _, pair := range [][2]link{{have.bridge, want.bridge}, {have.device, want.device}} {
		if is, should := pair[0].kind, pair[1].kind; is != "" && is != should {
			return fmt.Errorf("the link %s exists and is a %s, not the %s that the network needs; rename or delete it: %w",
				pair[1].name, is, should, errdefs.ErrAlreadyExists)
		}
	}
	if have.rival != "" {
		return fmt.Errorf("the link %s has the VNI %d and the port %d already; delete it, or give the network another VNI: %w",
			have.rival, want.device.tunnel.vni, want.device.tunnel.port, errdefs.ErrAlreadyExists)
	}
	return nil
}

func planLinks(have snapshot, want target) []change {
	var changes []change
	add := func(c change) { changes = append(changes, c) }
	if have.bridge.kind == "" {
		add(addBridge{want.bridge})
		have.bridge.mac = want.bridge.mac
		have.bridge.options.learnReserved = true // as the kernel makes it
	}
	if have.device.kind == "" {
		add(addTunnel{want.device})
		have.device.mac, have.device.mtu = want.device.mac, want.device.mtu
	}
	pairs := [][2]link{{have.bridge, want.bridge}, {have.device, want.device}}
	for _, pair := range pairs {
		is, should := pair[0], pair[1]
		if is.mac != should.mac {
			add(setMAC{should})
		}
		if is.mtu != should.mtu {
			add(setMTU{should})
		}
		if is.master {
			add(release{should.name})
		}
		if is.options != should.options {
			add(setOptions{should.name})
		}
	}
	changes = append(changes, planSysctls(have, want)...)
	for _, pair := range pairs {
		if !pair[0].up {
			add(setUp{pair[1].name})
		}
	}
	return changes
}

// planSysctls comes before links are set up, so that they get no address by themselves.
func planSysctls(have snapshot, want target) []change {
	var changes []change
	for _, s := range want.sysctls {
		if have.sysctls[s.path] == s.value {
			continue
		}
		if s.path == forwarding6 {
			for _, name := range have.hearsRA {
				changes = append(changes, writeSysctl{sysctl{"net/ipv6/conf/" + name + "/accept_ra", "2"}})
			}
		}
		changes = append(changes, writeSysctl{s})
	}
	return changes
}

func planAddresses(have, want set[address]) []change {
	byPrefix := func(a, b address) int {
		return cmp.Or(cmp.Compare(a.link, b.link), comparePrefix(a.prefix, b.prefix))
	}
	var changes []change
	for _, a := range missing(want, have, byPrefix) {
		changes = append(changes, deleteAddress{a})
	}
	for _, a := range missing(have, want, byPrefix) {
		changes = append(changes, addAddress{a})
	}
	return changes
}

// planRemotes puts what leads to a node in place from the far end to the near one, route
// last, and takes it away from the near end.
func planRemotes(have, want state) []change {
	device := want.device.name
	var guards, puts, routes, deletes []change
	for _, e := range missing(have.fdb, want.fdb, compareFDB) {
		puts = append(puts, putFDB{deviceFDB{device, e}})
	}
	for _, ip := range slices.SortedFunc(maps.Keys(want.neighbours), netip.Addr.Compare) {
		if have.neighbours[ip] != want.neighbours[ip] {
			puts = append(puts, putNeighbour{deviceNeighbour{device, ip, want.neighbours[ip]}})
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(want.routes), compareRoute) {
		should := want.routes[key]
		r := deviceRoute{device, key, should}
		switch is, ok := have.routes[key]; {
		case !ok && !should.via.IsValid():
			guards = append(guards, addRoute{r})
		case !ok:
			routes = append(routes, addRoute{r})
		case is != should:
			routes = append(routes, replaceRoute{r})
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(have.routes), compareRoute) {
		if _, ok := want.routes[key]; !ok {
			deletes = append(deletes, deleteRoute{deviceRoute{device, key, have.routes[key]}})
		}
	}
	for _, ip := range slices.SortedFunc(maps.Keys(have.neighbours), netip.Addr.Compare) {
		if _, ok := want.neighbours[ip]; !ok {
			deletes = append(deletes, deleteNeighbour{deviceNeighbour{device, ip, have.neighbours[ip]}})
		}
	}
	wanted := set[mac]{}
	for e := range want.fdb {
		wanted[e.mac] = struct{}{}
	}
	for _, e := range missing(want.fdb, have.fdb, compareFDB) {
		if _, replaced := wanted[e.mac]; !replaced { // a unicast MAC has one node
			deletes = append(deletes, deleteFDB{deviceFDB{device, e}})
		}
	}
	return slices.Concat(guards, puts, routes, deletes)
}

// missing lists, in order, what want has and have lacks.
func missing[T comparable](have, want set[T], order func(a, b T) int) []T {
	var list []T
	for x := range want {
		if _, ok := have[x]; !ok {
			list = append(list, x)
		}
	}
	slices.SortFunc(list, order)
	return list
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func compareRoute(a, b routeKey) int {
	return cmp.Or(comparePrefix(a.destination, b.destination), cmp.Compare(a.metric, b.metric))
}

func compareFDB(a, b fdbEntry) int {
	return cmp.Or(slices.Compare(a.mac[:], b.mac[:]), a.node.Compare(b.node))
}
