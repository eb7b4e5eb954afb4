package peers

import (
	"fmt"
	"net/netip"
	"slices"
)

// space is who has which part of the address space; no part is had twice. The zero value
// is empty.
type space struct {
	taken []taken // disjoint, sorted
}

type taken struct {
	prefix netip.Prefix // masked
	owner  string       // name of the node
}

// String says address or subnet, as it was claimed.
func (t *taken) String() string {
	if t.prefix.IsSingleIP() {
		return fmt.Sprintf("the address %s", t.prefix.Addr())
	}
	return fmt.Sprintf("the subnet %s", t.prefix)
}

// add takes p for owner, or returns what of it is taken.
func (s *space) add(p netip.Prefix, owner string) (clash *taken) {
	i, clash := s.find(p)
	if clash == nil {
		s.taken = slices.Insert(s.taken, i, taken{p, owner})
	}
	return clash
}

// find returns where p belongs, or what overlaps it. Of disjoint and sorted prefixes only
// the neighbours can.
func (s *space) find(p netip.Prefix) (int, *taken) {
	i, _ := slices.BinarySearchFunc(s.taken, p.Addr(), func(t taken, a netip.Addr) int {
		return t.prefix.Addr().Compare(a)
	})
	for _, j := range []int{i - 1, i} {
		if j >= 0 && j < len(s.taken) && s.taken[j].prefix.Overlaps(p) {
			return i, &s.taken[j]
		}
	}
	return i, nil
}
