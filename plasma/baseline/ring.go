package baseline

import (
	"hash/fnv"
	"math"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// Ring is consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2018): an
// actor goes to the first server clockwise of it on the ring that has fewer than Factor times the
// mean number of actors. The servers stay as many as they are.
type Ring struct {
	Factor float64
}

// points is how many points of the ring a server has.
const points = 100

type point struct {
	at     uint64
	server int
}

// Plan implements Planner.
func (b Ring) Plan(s *model.Snapshot, _ model.Memory) model.Plan {
	p := empty()
	var ring []point
	up := 0
	for i := range s.Servers {
		if !serves(&s.Servers[i]) {
			continue
		}
		up++
		h := hash(s.Servers[i].ID)
		for range points {
			h = mix(h)
			ring = append(ring, point{h, i})
		}
	}
	if up == 0 {
		return p
	}
	slices.SortFunc(ring, func(a, b point) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return a.server - b.server
	})
	room := int(math.Ceil(b.Factor * float64(len(s.Actors)) / float64(up)))
	have := make([]int, len(s.Servers))
	for i := range s.Actors {
		if a := &s.Actors[i]; !movable(s, i) && a.Server >= 0 {
			have[a.Server]++
		}
	}
	for i := range s.Actors {
		if !movable(s, i) {
			continue
		}
		h := hash(s.Actors[i].ID)
		k, _ := slices.BinarySearchFunc(ring, h, func(p point, h uint64) int {
			if p.at < h {
				return -1
			}
			return 1
		})
		// Actors that can't be moved may have filled servers beyond the bound: then there may be
		// no room anywhere, and the actor stays.
		for n := range ring {
			to := ring[(k+n)%len(ring)].server
			if have[to] < room {
				have[to]++
				if to != s.Actors[i].Server {
					move(s, &p, i, to, BoundedLoad, "the ring says so")
				}
				break
			}
		}
	}
	return p
}

// rendezvous gives the server that an actor belongs to: that with the highest hash of both.
func rendezvous(actor uint64, servers []uint64) int {
	best, most := 0, uint64(0)
	for i, h := range servers {
		if both := mix(actor ^ h); both > most || i == 0 {
			best, most = i, both
		}
	}
	return best
}

func hash(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // it never fails
	return mix(h.Sum64())
}

// mix spreads hashes that are near each other: the finisher of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
