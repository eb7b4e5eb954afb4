// Package chat is chat rooms: what one user sends, all members of the room are given.
package chat

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
const Summary = "chat rooms: a few are busy, and what is sent goes to all members"

// Sizes, and rates per second in the mean.
const (
	length   = 6 * time.Minute
	rooms    = 24
	exponent = 2.3 // of the rooms' sizes
	smallest = 4
	largest  = 14
	posts    = 20
	zipf     = 0.8 // of how busy rooms are
)

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("chat", seed, length)
	dice := cluster.Dice(seed)
	w.Types["User"] = world.Type{Functions: map[string]world.Function{
		"send":    {Service: cluster.Uses(24), Bytes: 512, Calls: []world.Call{{Property: "room", Function: "post", Wait: true}}},
		"deliver": {Service: cluster.Uses(14), Bytes: 512},
	}}
	w.Types["Room"] = world.Type{Functions: map[string]world.Function{
		"post": {Service: cluster.Varies(30, .5), Bytes: 512, Calls: []world.Call{{Property: "members", Function: "deliver", All: true}}},
	}}
	busy := load.Shuffled(dice, load.Zipf(rooms, zipf))
	var senders []world.Target
	for i, room := range cluster.IDs("room", rooms) {
		members := cluster.IDs(fmt.Sprintf("user-%d", i), load.Degree(dice, exponent, smallest, largest))
		w.Actors = append(w.Actors, cluster.Actor(room, "Room", 32*cluster.KiB, map[string][]string{"members": members}))
		for _, user := range members {
			w.Actors = append(w.Actors, cluster.Actor(user, "User", 8*cluster.KiB, map[string][]string{"room": {room}}))
			senders = append(senders, world.Target{
				ID: user, Weight: []world.Point{{Value: busy[i] / float64(len(members))}},
			})
		}
	}
	w.Streams = []world.Stream{{
		Type: "User", Function: "send", Targets: senders,
		Rate: load.Day(.5, 1.5, length, 1).Rate(posts, length, stationary),
	}}
	return cluster.Finish(w)
}
