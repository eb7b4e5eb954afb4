package overlay

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// Overlay sets up networks on one node. It keeps no state and holds no resource: every
// method acts in the network namespace of the calling thread, which is the program's own
// unless a goroutine locked to its thread has entered another. Its methods may be called
// concurrently, those for the same VNI one after the other.
type Overlay struct{ underlay Underlay }

// New checks u: errdefs.ErrInvalidArgument. When the node's address changes, make
// another: its first Ensure makes the VXLAN device anew and keeps the bridge.
func New(u Underlay) (*Overlay, error) {
	if err := u.Validate(); err != nil {
		return nil, err
	}
	return &Overlay{u}, nil
}

// MTU is what fits the tunnel, in bytes: the MTU of the interface with the node's
// address less the headers. Errors: errdefs.ErrFailedPrecondition if no interface has
// the address or if it is on a loopback interface, which tells nothing.
func (o *Overlay) MTU() (int, error) {
	links, addresses, err := readLinks()
	if err != nil {
		return 0, err
	}
	mtu, err := o.underlayMTU(links, addresses)
	if err != nil {
		return 0, err
	}
	if mtu == 0 {
		return 0, fmt.Errorf("the node's address %v is on a loopback interface, which doesn't tell the MTU between nodes; set the MTU of the networks: %w",
			o.underlay.Address, errdefs.ErrFailedPrecondition)
	}
	return mtu - o.underlay.header(), nil
}

// rounds is how often Ensure compares. One is enough for most changes and the next
// confirms them; some take others' objects with them (a new MAC the neighbours, a lost
// address its routes), which the next round puts back.
const rounds = 4

// Ensure makes or mends what n needs so that packets reach remotes, which are all other
// nodes of the network, and takes away what those that left had. Subnets of remotes
// count in the families (IPv4, IPv6) that this node has subnets of. It says whether it
// changed anything; nothing that is right is touched.
//
// A remote whose word would harm (a foreign address family, a subnet that overlaps
// another or lies outside n.Cluster) is left out and the error says so, with all others
// in place: errdefs.ErrInvalidArgument, as for an n that isn't valid, with which nothing
// is done. errdefs.ErrAlreadyExists: a device or route of somebody else's is in the way;
// it is left as it is. errdefs.ErrFailedPrecondition: the node lacks its address, or
// IPv6, or the MTU is too small.
func (o *Overlay) Ensure(n Network, remotes []Remote) (changed bool, err error) {
	if err := n.Validate(); err != nil {
		return false, err
	}
	peers, refused := o.underlay.peers(n, remotes)
	var failed error
	for round := range rounds {
		changes, err := o.compare(n, peers)
		if err != nil {
			return changed, errors.Join(refused, err)
		}
		if len(changes) == 0 {
			return changed, refused // what failed was in vain or is made good
		}
		changed = true
		failed = apply(changes)
		if failed == nil {
			failed = fmt.Errorf("network %d: what was changed doesn't stay so (last: %v): look for another program that manages links, addresses or routes: %w",
				n.VNI, changes, errdefs.ErrAborted)
		} else if round > 0 {
			break
		}
	}
	return changed, errors.Join(refused, failed)
}

// compare reads what is and plans the way to what should be.
func (o *Overlay) compare(n Network, peers []peer) ([]change, error) {
	have, err := o.read(n.VNI)
	if err != nil {
		return nil, fmt.Errorf("network %d: %w", n.VNI, err)
	}
	want, err := o.underlay.target(n, peers, have.host)
	if err != nil {
		return nil, err
	}
	if err := have.readSysctls(want.sysctls); err != nil {
		return nil, fmt.Errorf("network %d: %w", n.VNI, err)
	}
	return plan(have, want)
}

// Remove takes a network from the node: its devices, with all that leads over them, and
// its unreachable routes. Ports of the bridge stay, without a bridge. One that is gone
// already is no error. Devices of the network's names and another type are not touched:
// errdefs.ErrAlreadyExists. Sysctls stay as they are.
func (o *Overlay) Remove(vni uint32) error {
	links, _, err := readLinks()
	if err != nil {
		return err
	}
	have := state{}
	indexes := have.addLinks(vni, links)
	have.routes, err = readRoutes(vni, indexes[Device(vni)])
	if err != nil {
		return err
	}
	want := target{state: state{
		bridge: link{name: Bridge(vni), kind: "bridge"}, device: link{name: Device(vni), kind: "vxlan"},
	}}
	if err := inTheWay(snapshot{state: have}, want); err != nil {
		return err
	}
	var changes []change
	for _, l := range []link{have.device, have.bridge} {
		if l.kind != "" {
			changes = append(changes, deleteLink{l.name})
		}
	}
	for key, r := range have.routes {
		if !r.via.IsValid() { // the others went with the device
			changes = append(changes, deleteRoute{deviceRoute{routeKey: key, route: r}})
		}
	}
	return apply(changes)
}
