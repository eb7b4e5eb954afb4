// Package twitter is a network of users who follow each other: what one writes is put into the
// timelines of all followers.
package twitter

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
const Summary = "users who follow each other: few have many followers, and each reads a timeline"

// Sizes, and rates per second in the mean.
const (
	length   = 6 * time.Minute
	users    = 150
	exponent = 2.276 // of the numbers of followers
	fewest   = 2
	most     = 50
	tweets   = 10
	reads    = 90
	zipf     = 0.6 // of how much users read
)

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("twitter", seed, length)
	dice := cluster.Dice(seed)
	w.Types["User"] = world.Type{Functions: map[string]world.Function{
		"tweet": {Service: cluster.Uses(18), Bytes: 320, Calls: []world.Call{{Property: "followers", Function: "push", All: true}}},
	}}
	w.Types["Timeline"] = world.Type{Functions: map[string]world.Function{
		"push": {Service: cluster.Uses(8), Bytes: 320},
		"read": {Service: cluster.Varies(26, .5), Bytes: 128},
	}}
	lines := cluster.IDs("timeline", users)
	for i, user := range cluster.IDs("user", users) {
		w.Actors = append(w.Actors,
			cluster.Actor(user, "User", 4*cluster.KiB, map[string][]string{
				"timeline": {lines[i]}, "followers": load.Pick(dice, lines, load.Degree(dice, exponent, fewest, most), lines[i]),
			}),
			cluster.Actor(lines[i], "Timeline", 64*cluster.KiB, nil))
	}
	curve := load.Day(.6, 1.4, length, 1)
	w.Streams = []world.Stream{
		{Type: "User", Function: "tweet", Rate: curve.Rate(tweets, length, stationary)},
		{
			Type: "Timeline", Function: "read", Rate: curve.Rate(reads, length, stationary),
			Targets: load.Targets(lines, load.Shuffled(dice, load.Zipf(users, zipf))),
		},
	}
	return cluster.Finish(w)
}
