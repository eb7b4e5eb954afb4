package peers

import (
	"context"
	"maps"
	"slices"

	"github.com/containerd/log"
)

// Change is what is different between two lists of nodes.
type Change struct {
	Joined  []Node
	Left    []Node
	Changed []Update
}

// Update is a node with another address or other subnets.
type Update struct{ Old, New Node }

// Diff compares two lists, each sorted by name without duplicates, as Select returns them.
func Diff(before, after []Node) Change {
	var c Change
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0].Name < after[0].Name:
			c.Left = append(c.Left, before[0])
			before = before[1:]
		case len(before) == 0 || after[0].Name < before[0].Name:
			c.Joined = append(c.Joined, after[0])
			after = after[1:]
		default:
			if !before[0].Equal(after[0]) {
				c.Changed = append(c.Changed, Update{before[0], after[0]})
			}
			before, after = before[1:], after[1:]
		}
	}
	return c
}

// Empty is whether nothing is different.
func (c Change) Empty() bool { return len(c.Joined)+len(c.Left)+len(c.Changed) == 0 }

// Log writes a line for each node, at level info.
func (c Change) Log(ctx context.Context) {
	for _, n := range c.Joined {
		log.G(ctx).WithFields(n.fields()).Info("node joined")
	}
	for _, n := range c.Left {
		log.G(ctx).WithFields(n.fields()).Info("node left")
	}
	for _, u := range c.Changed {
		fields := u.New.fields()
		if u.Old.Address != u.New.Address {
			fields["old_address"] = u.Old.Address.String()
		}
		for _, vni := range slices.Sorted(maps.Keys(u.Old.Networks)) {
			if !sameSubnets(u.Old.Networks[vni], u.New.Networks[vni]) {
				fields["old_networks"] = u.Old.Networks
				break
			}
		}
		log.G(ctx).WithFields(fields).Info("node changed")
	}
}

func (n Node) fields() log.Fields {
	return log.Fields{"node": n.Name, "address": n.Address.String(), "networks": n.Networks}
}
