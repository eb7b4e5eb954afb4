// Package cassandra is replicas of ranges of keys: three of each, that must not be together.
package cassandra

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
const Summary = "three replicas of each range of keys, kept apart; reads of one, writes to all"

// Sizes, and rates per second in the mean.
const (
	length   = 6 * time.Minute
	ranges   = 24
	replicas = 3
	reads    = 45
	writes   = 45
	zipf     = 0.99
)

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("cassandra", seed, length)
	dice := cluster.Dice(seed)
	w.Types["Replica"] = world.Type{Functions: map[string]world.Function{
		"read": {Service: cluster.Varies(26, .5), Bytes: 128},
		"write": {Service: cluster.Uses(16), Bytes: 1024, Calls: []world.Call{
			{Property: "peers", Function: "apply", All: true, Wait: true},
		}},
		"apply": {Service: cluster.Uses(12), Bytes: 1024},
	}}
	var all []string
	var weights []float64
	popular := load.Shuffled(dice, load.Zipf(ranges, zipf))
	for i := range ranges {
		of := cluster.IDs(fmt.Sprintf("range-%d", i), replicas)
		for _, replica := range of {
			w.Actors = append(w.Actors, cluster.Actor(replica, "Replica", cluster.MiB, map[string][]string{
				"peers": load.Pick(dice, of, replicas-1, replica),
			}))
			all = append(all, replica)
			weights = append(weights, popular[i]/replicas)
		}
	}
	curve := load.Day(.6, 1.4, length, 1)
	w.Streams = []world.Stream{
		{Type: "Replica", Function: "read", Rate: curve.Rate(reads, length, stationary), Targets: load.Targets(all, weights)},
		{Type: "Replica", Function: "write", Rate: curve.Rate(writes, length, stationary), Targets: load.Targets(all, weights)},
	}
	w = cluster.Finish(w)
	w.Servers = max(replicas, w.Servers) // one for each replica
	w.Mean = max(replicas, w.Mean)
	return w
}
