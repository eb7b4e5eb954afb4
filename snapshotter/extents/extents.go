// Package extents tells what disk space belongs to a directory tree on a file
// system with reflinks, where st_blocks counts a shared block for each clone.
package extents

import (
	"cmp"
	"slices"
)

// Extent is a run of blocks of a file: where it is on the disk and how long, in
// bytes, and whether other files or other places of the same file have it too.
type Extent struct {
	Physical, Length uint64
	Shared           bool
}

// Tally adds up the bytes that belong to one tree. The zero value is ready; it is
// not safe for concurrent use.
//
// A block that is not shared belongs to the tree. A shared block that the tree has
// once is taken to be shared with a tree below it, and belongs there; one that the
// tree has several times (cp --reflink inside a container) belongs to the tree,
// once.
type Tally struct {
	own    uint64
	shared []Extent
}

// Add counts a file's extents.
func (t *Tally) Add(extents ...Extent) {
	for _, e := range extents {
		if e.Shared {
			t.shared = append(t.shared, e)
		} else {
			t.own += e.Length
		}
	}
}

// Bytes is what belongs to the tree.
func (t *Tally) Bytes() uint64 {
	return t.own + repeated(t.shared)
}

// repeated is the length of the union of all places that two or more of the
// extents cover.
func repeated(extents []Extent) uint64 {
	slices.SortFunc(extents, func(a, b Extent) int { return cmp.Compare(a.Physical, b.Physical) })
	// Sweep upwards: once is covered up to here, twice up to there.
	var once, twice, sum uint64
	for _, e := range extents {
		start, end := e.Physical, e.Physical+e.Length
		if from, to := max(start, twice), min(end, once); from < to {
			sum += to - from
			twice = to
		}
		once = max(once, end)
	}
	return sum
}
