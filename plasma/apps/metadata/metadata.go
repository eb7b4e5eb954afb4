// Package metadata is a file system's metadata service: folders that hold files, of which some
// folders are hot and others become it.
package metadata

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
const Summary = "a file system's metadata: hot folders that change, each with its files"

// Sizes and rates, per second in the mean.
const (
	length  = 6 * time.Minute
	tops    = 5
	folders = 40
	files   = 8 // of each folder
	opens   = 80
	lists   = 20
	zipf    = 0.8
)

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("metadata", seed, length)
	dice := cluster.Dice(seed)
	w.Types["Folder"] = world.Type{Functions: map[string]world.Function{
		"open": {Service: cluster.Varies(24, .5), Bytes: 256, Calls: []world.Call{
			{Property: "files", Function: "read", Wait: true},
		}},
		"list": {Service: cluster.Uses(6), Bytes: 128, Calls: []world.Call{
			{Property: "folders", Function: "stat", Wait: true},
		}},
		"stat": {Service: cluster.Uses(4), Bytes: 128},
	}}
	w.Types["File"] = world.Type{Functions: map[string]world.Function{
		"read": {Service: cluster.Uses(14), Bytes: 512},
	}}
	names := cluster.IDs("folder", folders)
	for i, top := range cluster.IDs("top", tops) {
		var below []string
		for k := i; k < folders; k += tops {
			below = append(below, names[k])
		}
		w.Actors = append(w.Actors, cluster.Actor(top, "Folder", 16*cluster.KiB, map[string][]string{"folders": below}))
	}
	for i, name := range names {
		below := cluster.IDs(fmt.Sprintf("file-%d", i), files)
		w.Actors = append(w.Actors, cluster.Actor(name, "Folder", 16*cluster.KiB, map[string][]string{"files": below}))
		for _, file := range below {
			w.Actors = append(w.Actors, cluster.Actor(file, "File", 4*cluster.KiB, nil))
		}
	}
	hot := load.Targets(names, load.Shuffled(dice, load.Zipf(folders, zipf)))
	if !stationary {
		load.Shift(dice, hot, 3, 40*time.Second, length)
	}
	curve := load.Day(.7, 1.3, length, 1)
	w.Streams = []world.Stream{
		{Type: "Folder", Function: "open", Rate: curve.Rate(opens, length, stationary), Targets: hot},
		{
			Type: "Folder", Function: "list", Rate: curve.Rate(lists, length, stationary),
			Targets: load.Targets(cluster.IDs("top", tops), load.Zipf(tops, 0)),
		},
	}
	return cluster.Finish(w)
}
