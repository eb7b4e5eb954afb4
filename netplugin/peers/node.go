package peers

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Node is a node of the overlay.
type Node struct {
	// Name is unique among all nodes.
	Name string
	// Address is where the node takes VXLAN packets, its VTEP, in the underlay.
	Address netip.Addr
	// Networks has, for each network that the node takes part in, by VNI, the subnets that
	// its containers' addresses are from.
	Networks map[uint32][]netip.Prefix
}

// Source tells which nodes there are.
type Source interface {
	// Run publishes self and calls changed with the complete list of all other nodes, sorted
	// by name: first as soon as it is known, then whenever it changes. The list is changed's
	// to keep; calls come one after the other, from Run's goroutine, and hold Run up.
	//
	// Run retries by itself and returns nil when ctx is done. Only what can't get right
	// without a change of the configuration is an error, ErrInvalidArgument, at once. A value
	// has at most one Run at a time; with another self, Run is ended and called again, which
	// takes no node away in between.
	Run(ctx context.Context, self Node, changed func([]Node)) error
}

// Leaver is a Source that a node can be taken out of for good.
type Leaver interface {
	// Leave takes self out of the source, upon which the other nodes drop their routes to it.
	// To be called when no Run is at work for the node: it would publish the node again.
	// It doesn't retry. A node that isn't there is no error; ErrAlreadyExists if the name is
	// another node's.
	Leave(ctx context.Context, self Node) error
}

// Reporter is a Source that tells how it does.
type Reporter interface {
	// Status may be called at any time and from any goroutine, also without a Run.
	Status() Status
}

// Status is how a Source does.
type Status struct {
	// Connected is whether the source can be read: the last list is the present one.
	Connected bool
	// Since is when Connected became what it is; zero before there was an answer.
	Since time.Time
	// Err is why the source can't be read or, if Connected, why this node isn't published:
	// ErrAlreadyExists if another node has its name. Nil if all is well.
	Err error
	// Nodes is the number of nodes in the last list, which doesn't have this node.
	Nodes int
	// Rejected are the nodes that were left out, sorted by name.
	Rejected []Rejected
}

// Equal is whether both have the same name, address and subnets, which may be in another
// order.
func (n Node) Equal(other Node) bool {
	return n.Name == other.Name && n.Address == other.Address &&
		maps.EqualFunc(n.Networks, other.Networks, sameSubnets)
}

func sameSubnets(a, b []netip.Prefix) bool {
	return slices.Equal(sorted(a), sorted(b))
}

func sorted(subnets []netip.Prefix) []netip.Prefix {
	return slices.SortedFunc(slices.Values(subnets), netip.Prefix.Compare)
}

// clone shares nothing with n.
func (n Node) clone() Node {
	networks := make(map[uint32][]netip.Prefix, len(n.Networks))
	for vni, subnets := range n.Networks {
		networks[vni] = slices.Clone(subnets)
	}
	n.Networks = networks
	return n
}

func cloneAll(nodes []Node) []Node {
	clones := make([]Node, len(nodes))
	for i, n := range nodes {
		clones[i] = n.clone()
	}
	return clones
}
