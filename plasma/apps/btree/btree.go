// Package btree is a B+ tree: lookups go from inner nodes, which clients know, to leaves; which
// range of keys is hot changes.
package btree

import (
	"embed"
	"fmt"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/apps/cluster"
	"github.com/peregrine-dev/peregrine/plasma/apps/load"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// Files are the policies, the manifest and the README.
//
//go:embed policy.epl policy.paper.epl manifest.toml README.md
var Files embed.FS

// Summary is one line.
const Summary = "a B+ tree: hot inner nodes, below a root that stays"

// Sizes, and rates per second in the mean.
const (
	length  = 6 * time.Minute
	inners  = 10
	leaves  = 8 // of each inner node
	roots   = 10
	lookups = 60
	inserts = 20
	zipf    = 0.6
)

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("btree", seed, length)
	w.Server.Max = 2
	dice := cluster.Dice(seed)
	w.Types["Root"] = world.Type{Functions: map[string]world.Function{
		"lookup": {Service: cluster.Uses(4), Bytes: 128, Calls: []world.Call{{Property: "inners", Function: "lookup", Wait: true}}},
	}}
	w.Types["Inner"] = world.Type{Functions: map[string]world.Function{
		"lookup": {Service: cluster.Uses(14), Bytes: 128, Calls: []world.Call{{Property: "leaves", Function: "get", Wait: true}}},
		"insert": {Service: cluster.Uses(14), Bytes: 1024, Calls: []world.Call{{Property: "leaves", Function: "put", Wait: true}}},
	}}
	w.Types["Leaf"] = world.Type{Functions: map[string]world.Function{
		"get": {Service: cluster.Varies(20, .4), Bytes: 128},
		"put": {Service: cluster.Varies(28, .4), Bytes: 1024},
	}}
	names := cluster.IDs("inner", inners)
	w.Actors = append(w.Actors, cluster.Actor("root", "Root", 16*cluster.KiB, map[string][]string{"inners": names}))
	for i, inner := range names {
		below := cluster.IDs(fmt.Sprintf("leaf-%d", i), leaves)
		w.Actors = append(w.Actors, cluster.Actor(inner, "Inner", 16*cluster.KiB, map[string][]string{"leaves": below}))
		for _, leaf := range below {
			w.Actors = append(w.Actors, cluster.Actor(leaf, "Leaf", 512*cluster.KiB, nil))
		}
	}
	hot := load.Targets(names, load.Shuffled(dice, load.Zipf(inners, zipf)))
	if !stationary {
		load.Shift(dice, hot, 2, 50*time.Second, length)
	}
	curve := load.Day(.6, 1.4, length, 1)
	w.Streams = []world.Stream{
		{Type: "Root", Function: "lookup", Rate: curve.Rate(roots, length, stationary)},
		{Type: "Inner", Function: "lookup", Rate: curve.Rate(lookups, length, stationary), Targets: hot},
		{Type: "Inner", Function: "insert", Rate: curve.Rate(inserts, length, stationary), Targets: hot},
	}
	return cluster.Finish(w)
}
