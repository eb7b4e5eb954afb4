// Package cluster has the machines and costs that all worlds of package apps share, and what
// their generators have in common.
package cluster

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/world"
)

const (
	// KiB and MiB are in bytes.
	KiB = 1 << 10
	MiB = 1 << 20
)

// New gives a world without an application: 12 nodes of 4 cores in 3 zones, servers of one core,
// and costs that are assumed: a calibration of real ones replaces them.
func New(name string, seed uint64, d time.Duration) *world.World {
	w := &world.World{
		Name: name, Seed: seed, Duration: d, Warmup: 30 * time.Second, Period: 5 * time.Second,
		Server: world.Server{Cores: 1, Memory: 1 << 30, Network: 100 * MiB},
		Costs: world.Costs{
			LocalCall: 2 * time.Microsecond, NodeCall: 60 * time.Microsecond,
			RemoteCall: 150 * time.Microsecond, ZoneCall: 500 * time.Microsecond,
			Serialize: 15 * time.Microsecond,
			MovePause: 5 * time.Millisecond, MovePerMiB: 10 * time.Millisecond, MoveCPU: time.Millisecond,
			Start: 100 * time.Millisecond, Stop: 100 * time.Millisecond, Resize: 12 * time.Millisecond,
		},
		Types: map[string]world.Type{},
	}
	for i := range 12 {
		w.Nodes = append(w.Nodes, world.Node{
			ID: fmt.Sprintf("node-%d", i), Zone: string(rune('a' + i%3)),
			Cores: 4, Memory: 16 << 30, Network: 1 << 30,
		})
	}
	return w
}

// Finish says how many servers a world needs, of which at first as many as its load needs then.
func Finish(w *world.World) *world.World {
	w.Servers = 1
	w.Size()
	w.Servers = max(2, w.Needed(w.DemandAt(0).CPU, .7))
	return w
}

// Dice gives the numbers that a generator draws; other than those of the simulation.
func Dice(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x776f726c64)) }

// IDs gives prefix-0, prefix-1 and so on.
func IDs(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}

// Ms is a time in milliseconds.
func Ms(x float64) time.Duration { return time.Duration(x * float64(time.Millisecond)) }

// Uses is the time of a turn that is drawn from an exponential distribution.
func Uses(ms float64) world.Service { return world.Service{Mean: Ms(ms)} }

// Varies is the time of a turn that is drawn from a log-normal one: most turns are alike, a few
// take long.
func Varies(ms, sigma float64) world.Service {
	return world.Service{Mean: Ms(ms), Shape: "lognormal", Sigma: sigma}
}

// Actor is one on the least used server.
func Actor(id, typ string, state float64, refs map[string][]string) world.Actor {
	return world.Actor{ID: id, Type: typ, Server: -1, State: state, Memory: 4 * state, Refs: refs}
}
