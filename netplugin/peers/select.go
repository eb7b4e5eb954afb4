package peers

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// Rejected is a node that was left out, and why.
type Rejected struct {
	Name string // as the source has it, which may be the reason
	Err  error
}

// Select returns those of nodes that self can have as peers, sorted by name, and those that
// are left out because they are wrong in themselves, ErrInvalidArgument, or in conflict
// with self or a node before them, ErrAlreadyExists: names and addresses are unique, and
// no subnet overlaps another, of whatever network, or an address of the underlay. Which
// nodes remain depends on the order: whoever was first keeps what it has. An entry of
// self's name is self's and in neither. The nodes returned share their maps with nodes.
func Select(self Node, nodes []Node) ([]Node, []Rejected) {
	var all space
	own, _ := self.claims()
	for _, p := range own {
		_ = all.add(p, self.Name)
	}
	good := make([]Node, 0, len(nodes))
	var bad []Rejected
	names := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		if n.Name == self.Name {
			continue
		}
		err := admit(n, names, &all)
		if err != nil {
			bad = append(bad, Rejected{n.Name, err})
			continue
		}
		good = append(good, n)
	}
	slices.SortFunc(good, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(bad, func(a, b Rejected) int { return cmp.Compare(a.Name, b.Name) })
	return good, bad
}

// admit checks n and takes what it claims, or nothing.
func admit(n Node, names map[string]bool, all *space) error {
	claims, err := n.claims()
	if err != nil {
		return err
	}
	if names[n.Name] {
		return fmt.Errorf("there is another node of this name: %w", errdefs.ErrAlreadyExists)
	}
	for _, p := range claims {
		if _, clash := all.find(p); clash != nil {
			return fmt.Errorf("%s overlaps %s of node %s: %w", &taken{prefix: p}, clash, clash.owner, errdefs.ErrAlreadyExists)
		}
	}
	for _, p := range claims { // disjoint among themselves
		_ = all.add(p, n.Name)
	}
	names[n.Name] = true
	return nil
}
