// Package halo is the presence service of a game: routers take heartbeats, sessions keep who
// plays, and players go from session to session.
package halo

import (
	"cmp"
	"embed"
	"fmt"
	"math/rand/v2"
	"slices"
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
const Summary = "presence of a game's players: sessions that begin and end, with eight players each"

// Sizes, and rates per second in the mean.
const (
	length     = 6 * time.Minute
	routers    = 6
	sessions   = 30 // at once
	perSession = 8
	players    = 320
	shortest   = 2 * time.Minute // a session
	longest    = 3 * time.Minute
	linger     = 5 * time.Second // of a session that has ended
	heartbeats = 55
	queries    = 15
)

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("halo", seed, length)
	w.Types["Router"] = world.Type{Functions: map[string]world.Function{
		"heartbeat": {Service: cluster.Varies(17, .4), Bytes: 1024, Calls: []world.Call{{Property: "sessions", Function: "update", Wait: true}}},
	}}
	w.Types["Session"] = world.Type{Functions: map[string]world.Function{
		"update": {Service: cluster.Uses(24), Bytes: 1024, Calls: []world.Call{{Property: "players", Function: "status"}}},
		"get":    {Service: cluster.Uses(9), Bytes: 128},
	}}
	w.Types["Player"] = world.Type{Functions: map[string]world.Function{
		"status": {Service: cluster.Uses(14), Bytes: 256},
		"query":  {Service: cluster.Uses(12), Bytes: 128, Calls: []world.Call{{Property: "session", Function: "get", Wait: true}}},
	}}
	curve := load.Day(.6, 1.4, length, 1)
	w.Streams = []world.Stream{
		{Type: "Router", Function: "heartbeat", Rate: curve.Rate(heartbeats, length, stationary)},
		{Type: "Player", Function: "query", Rate: curve.Rate(queries, length, stationary)},
	}
	g := game{dice: cluster.Dice(seed), world: w, playing: map[string]bool{}}
	g.begin()
	if !stationary {
		g.play()
	}
	return cluster.Finish(w)
}

// game is who plays with whom.
type game struct {
	dice     *rand.Rand
	world    *world.World
	routers  [routers][]string // their sessions
	sessions []session         // that are on
	playing  map[string]bool
	next     int // session's number
}

type session struct {
	id      string
	router  int
	players []string
	end     time.Duration
}

// open makes a session of idle players that ends at a time.
func (g *game) open(end time.Duration) session {
	s := session{id: fmt.Sprintf("session-%d", g.next), router: g.next % routers, end: end}
	g.next++
	for _, p := range load.Pick(g.dice, cluster.IDs("player", players), players, "") {
		if len(s.players) < perSession && !g.playing[p] {
			s.players = append(s.players, p)
			g.playing[p] = true
		}
	}
	g.routers[s.router] = append(g.routers[s.router], s.id)
	g.sessions = append(g.sessions, s)
	return s
}

func (s session) actor() world.Actor {
	return cluster.Actor(s.id, "Session", 64*cluster.KiB, map[string][]string{"players": s.players})
}

// lasts draws how long a session is.
func (g *game) lasts() time.Duration {
	return shortest + time.Duration(g.dice.Int64N(int64(longest-shortest))).Round(time.Millisecond)
}

// begin gives the first sessions, which have been on for a while.
func (g *game) begin() {
	in := map[string]string{}
	for range sessions {
		end := time.Duration(g.dice.Float64() * float64(g.lasts())).Round(time.Millisecond)
		s := g.open(max(end, time.Second))
		g.world.Actors = append(g.world.Actors, s.actor())
		for _, p := range s.players {
			in[p] = s.id
		}
	}
	for i, router := range cluster.IDs("router", routers) {
		g.world.Actors = append(g.world.Actors, cluster.Actor(router, "Router", 4*cluster.KiB, map[string][]string{
			"sessions": slices.Clone(g.routers[i]),
		}))
	}
	for _, p := range cluster.IDs("player", players) {
		refs := map[string][]string{}
		if in[p] != "" {
			refs["session"] = []string{in[p]}
		}
		g.world.Actors = append(g.world.Actors, cluster.Actor(p, "Player", 8*cluster.KiB, refs))
	}
}

// play ends sessions, and begins another when one ends.
func (g *game) play() {
	for {
		first := 0
		for i, s := range g.sessions {
			if s.end < g.sessions[first].end {
				first = i
			}
		}
		old := g.sessions[first]
		if old.end >= length {
			break
		}
		g.sessions = slices.Delete(g.sessions, first, first+1)
		list := &g.routers[old.router]
		*list = slices.DeleteFunc(*list, func(id string) bool { return id == old.id })
		for _, p := range old.players {
			g.playing[p] = false
			g.refs(old.end, p, map[string][]string{})
		}
		s := g.open(old.end + g.lasts())
		born := s.actor()
		g.world.Events = append(g.world.Events, world.Event{At: old.end, Born: &born})
		for _, p := range s.players {
			g.refs(old.end, p, map[string][]string{"session": {s.id}})
		}
		for _, router := range slices.Compact([]int{old.router, s.router}) {
			g.refs(old.end, fmt.Sprintf("router-%d", router), map[string][]string{"sessions": slices.Clone(g.routers[router])})
		}
		// Nobody calls it any more, but what was sent before is still to come.
		if gone := old.end + linger; gone < length {
			g.world.Events = append(g.world.Events, world.Event{At: gone, Dies: old.id})
		}
	}
	slices.SortStableFunc(g.world.Events, func(a, b world.Event) int { return cmp.Compare(a.At, b.At) })
}

func (g *game) refs(at time.Duration, id string, refs map[string][]string) {
	g.world.Events = append(g.world.Events, world.Event{At: at, Refs: &world.Refs{ID: id, Refs: refs}})
}
