// Package estore is a partitioned database: roots of trees of partitions, of which a few are hot,
// others as time goes on, and as many requests as the time of the day has.
package estore

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
const Summary = "a partitioned database: hot spots that wander, and a day's load"

// Sizes, and rates per second at the peak.
const (
	length   = 8 * time.Minute
	roots    = 48
	children = 2 // of each root
	hotSpots = 6
	hotShare = 0.3
	zipf     = 0.5 // of those that aren't hot
	reads    = 125
	updates  = 83
)

// curve is the load as a share of its peak.
var curve = load.Day(.18, 1, length, 3)

// weights are the shares of the roots: hot spots first.
func weights() []float64 {
	out := make([]float64, roots)
	for i := range hotSpots {
		out[i] = hotShare / hotSpots
	}
	for i, share := range load.Zipf(roots-hotSpots, zipf) {
		out[hotSpots+i] = share * (1 - hotShare)
	}
	return out
}

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("estore", seed, length)
	dice := cluster.Dice(seed)
	w.Types["Root"] = world.Type{Functions: map[string]world.Function{
		"read": {Service: cluster.Uses(18), Bytes: 256, Calls: []world.Call{
			{Property: "children", Function: "get", Probability: .5, Wait: true},
		}},
		"update": {Service: cluster.Uses(24), Bytes: 1024, Calls: []world.Call{
			{Property: "children", Function: "put", Wait: true},
		}},
	}}
	w.Types["Partition"] = world.Type{Functions: map[string]world.Function{
		"get": {Service: cluster.Uses(12), Bytes: 256},
		"put": {Service: cluster.Uses(16), Bytes: 1024},
	}}
	names := cluster.IDs("root", roots)
	for i, root := range names {
		below := cluster.IDs(fmt.Sprintf("part-%d", i), children)
		w.Actors = append(w.Actors, cluster.Actor(root, "Root", 512*cluster.KiB, map[string][]string{"children": below}))
		for _, part := range below {
			w.Actors = append(w.Actors, cluster.Actor(part, "Partition", cluster.MiB, nil))
		}
	}
	hot := load.Targets(names, load.Shuffled(dice, weights()))
	if !stationary {
		load.Shift(dice, hot, hotSpots, 15*time.Second, length)
	}
	w.Streams = []world.Stream{
		{Type: "Root", Function: "read", Rate: curve.Rate(reads, length, stationary), Targets: hot},
		{Type: "Root", Function: "update", Rate: curve.Rate(updates, length, stationary), Targets: hot},
	}
	return cluster.Finish(w)
}
