// Package pagerank is PageRank over a partitioned graph: in each superstep all partitions work,
// send to their neighbours, and wait for the slowest.
package pagerank

import (
	"embed"
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
const Summary = "PageRank in supersteps over 32 partitions of uneven sizes"

const (
	length     = 6 * time.Minute
	partitions = 32
	neighbours = 4
	alpha      = 1.1 // of the partitions' sizes
	smallest   = 1.
	largest    = 8.
)

// sizes draws the partitions' sizes, as shares of their mean.
func sizes(seed uint64) []float64 {
	dice := cluster.Dice(seed)
	out := make([]float64, partitions)
	sum := 0.0
	for i := range out {
		out[i] = load.Pareto(dice, alpha, smallest, largest)
		sum += out[i]
	}
	for i := range out {
		out[i] *= partitions / sum
	}
	return out
}

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("pagerank", seed, length)
	w.Types["Master"] = world.Type{Functions: map[string]world.Function{
		"superstep": {Service: cluster.Uses(1), Bytes: 64, Calls: []world.Call{
			{Property: "partitions", Function: "iterate", All: true, Wait: true},
		}},
	}}
	w.Types["Partition"] = world.Type{Functions: map[string]world.Function{
		"iterate": {Service: cluster.Varies(76, .2), Bytes: 64, Calls: []world.Call{
			{Property: "neighbours", Function: "contribute", All: true},
		}},
		"contribute": {Service: cluster.Uses(3), Bytes: 16 * cluster.KiB},
	}}
	names := cluster.IDs("partition", partitions)
	w.Actors = append(w.Actors, cluster.Actor("master", "Master", cluster.KiB, map[string][]string{"partitions": names}))
	dice := cluster.Dice(seed + 1<<32)
	for i, size := range sizes(seed) {
		a := cluster.Actor(names[i], "Partition", size*2*cluster.MiB, map[string][]string{
			"neighbours": load.Pick(dice, names, neighbours, names[i]),
		})
		a.Scale = size
		w.Actors = append(w.Actors, a)
	}
	w.Streams = []world.Stream{{Type: "Master", Function: "superstep", Arrivals: supersteps(stationary)}}
	return cluster.Finish(w)
}

// supersteps are as regular as a job's: one each second. A second job, in the middle third, has
// them come twice as often; it takes a while to get going.
func supersteps(stationary bool) []world.Arrival {
	const begins, ends, grows = length / 3, 2 * length / 3, 40 * time.Second
	var out []world.Arrival
	for at := time.Second; at < length; {
		out = append(out, world.Arrival{At: at, ID: "master"})
		rate := 1.
		switch {
		case stationary:
			rate = 4. / 3
		case at >= begins && at < ends:
			rate += min(1, (at-begins).Seconds()/grows.Seconds())
		}
		at += time.Duration(float64(time.Second) / rate).Round(time.Millisecond)
	}
	return out
}
