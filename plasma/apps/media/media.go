// Package media is a video service with reviews: its load follows the day, and one evening
// everybody comes.
package media

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
const Summary = "a video service with reviews: a day's load and a flash crowd"

// Sizes, and rates per second at the peak.
const (
	length   = 8 * time.Minute
	fronts   = 8
	videos   = 40
	users    = 3 // of each video
	checkers = 16
	reviews  = 2 // of each checker
	chunks   = 115
	watches  = 48
	writes   = 34
	zipf     = 0.56
)

// curve is the load as a share of its peak.
var curve = load.Day(.12, .42, length, 1).Crowd(270*time.Second, 80*time.Second, 30*time.Second, 70*time.Second, .66)

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("media", seed, length)
	dice := cluster.Dice(seed)
	w.Types["FrontEnd"] = world.Type{Functions: map[string]world.Function{
		"watch":  {Service: cluster.Uses(12), Bytes: 512, Calls: []world.Call{{Property: "videos", Function: "start", Wait: true}}},
		"review": {Service: cluster.Uses(9), Bytes: 2048, Calls: []world.Call{{Property: "checkers", Function: "check", Wait: true}}},
	}}
	w.Types["VideoStream"] = world.Type{Functions: map[string]world.Function{
		"start": {Service: cluster.Varies(30, .5), Bytes: 512, Calls: []world.Call{{Property: "users", Function: "get", Wait: true}}},
		"chunk": {Service: cluster.Varies(30, .3), Bytes: 64 * cluster.KiB},
	}}
	w.Types["UserInfo"] = world.Type{Functions: map[string]world.Function{"get": {Service: cluster.Uses(9), Bytes: 256}}}
	w.Types["ReviewChecker"] = world.Type{Functions: map[string]world.Function{
		"check": {Service: cluster.Varies(21, .8), Bytes: 2048, Calls: []world.Call{{Property: "reviews", Function: "add", Wait: true}}},
	}}
	w.Types["UserReview"] = world.Type{Functions: map[string]world.Function{"add": {Service: cluster.Uses(12), Bytes: 2048}}}

	names, checks := cluster.IDs("video", videos), cluster.IDs("checker", checkers)
	for _, front := range cluster.IDs("front", fronts) {
		w.Actors = append(w.Actors, cluster.Actor(front, "FrontEnd", 16*cluster.KiB, map[string][]string{
			"videos": load.Pick(dice, names, videos/2, ""), "checkers": load.Pick(dice, checks, checkers/2, ""),
		}))
	}
	for i, video := range names {
		of := cluster.IDs(fmt.Sprintf("user-%d", i), users)
		w.Actors = append(w.Actors, cluster.Actor(video, "VideoStream", 256*cluster.KiB, map[string][]string{"users": of}))
		for _, user := range of {
			w.Actors = append(w.Actors, cluster.Actor(user, "UserInfo", 8*cluster.KiB, nil))
		}
	}
	for i, checker := range checks {
		of := cluster.IDs(fmt.Sprintf("review-%d", i), reviews)
		w.Actors = append(w.Actors, cluster.Actor(checker, "ReviewChecker", 64*cluster.KiB, map[string][]string{"reviews": of}))
		for _, review := range of {
			w.Actors = append(w.Actors, cluster.Actor(review, "UserReview", 32*cluster.KiB, nil))
		}
	}
	w.Streams = []world.Stream{
		{Type: "FrontEnd", Function: "watch", Rate: curve.Rate(watches, length, stationary)},
		{
			Type: "VideoStream", Function: "chunk", Rate: curve.Rate(chunks, length, stationary),
			Targets: load.Targets(names, load.Shuffled(dice, load.Zipf(videos, zipf))),
		},
		{Type: "FrontEnd", Function: "review", Rate: curve.Rate(writes, length, stationary)},
	}
	return cluster.Finish(w)
}
