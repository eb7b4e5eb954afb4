// Package world describes what the simulator runs: machines, servers, actors, what their
// functions do, and the load over time. Worlds are made by package apps, or read from a file.
package world

import "time"

// World is an application with its load, on machines. A simulation changes nothing of it.
type World struct {
	Name     string
	Seed     uint64 // of all that is drawn while it runs
	Duration time.Duration
	// Warmup is the beginning of which no latencies are counted.
	Warmup time.Duration
	// Period is how often the planner is asked, unless its policy says.
	Period time.Duration
	Nodes  []Node
	// Server is what each server is like, Servers how many there are at first, Peak and Mean
	// how many the load needs at its peak and in the mean: for the baselines that have as many.
	Server     Server
	Servers    int
	Peak, Mean int
	Costs      Costs
	Types      map[string]Type
	Actors     []Actor
	Streams    []Stream
	Events     []Event // in the order of At
}

// Node is a machine.
type Node struct {
	ID, Zone string
	Cores    float64
	Memory   float64 // bytes
	Network  float64 // bytes per second
}

// Server is a container that hosts actors. Cores is the number of turns it runs at once
// (rounded up), each at full speed unless Cores has a fraction, which slows all.
type Server struct {
	Cores   float64
	Max     float64 // up to what Cores can be raised in place; 0: not at all
	Memory  float64 // bytes
	Network float64 // bytes per second
}

// Costs are of what the runtime does: of a calibration.
type Costs struct {
	// LocalCall, NodeCall, RemoteCall and ZoneCall are the time a message takes within a
	// server, a node, a zone, and beyond.
	LocalCall, NodeCall, RemoteCall, ZoneCall time.Duration
	// Serialize is the processor's time that a message to another server costs, at both ends.
	Serialize time.Duration
	// MovePause is how long an actor stands still when it moves, MovePerMiB what each MiB of
	// its state adds; MoveCPU the processor's time at both ends.
	MovePause, MovePerMiB, MoveCPU time.Duration
	// Start is how long a new server takes until it serves, Stop until it has gone, Resize
	// until a server has its new limit.
	Start, Stop, Resize time.Duration
}

// Type is a type of actors: its functions by name. One actor runs one turn at a time.
type Type struct {
	Functions map[string]Function
}

// Function is what a turn does: it uses the processor, then calls, then answers. Answers of
// calls that are waited for come before its own.
type Function struct {
	Service Service
	Calls   []Call
	Bytes   float64 // of the message that calls it
}

// Service is the processor's time of a turn, on one core.
type Service struct {
	Mean time.Duration
	// Shape is "exponential" (if it is ""), "constant" or "lognormal", and Sigma lognormal's.
	Shape string
	Sigma float64
}

// Call is a message that a turn sends to actors its actor has references to.
type Call struct {
	Property string // of the references
	Function string
	// All calls all of the property's actors, else one that is drawn.
	All bool
	// Probability is how likely it is; 0 stands for 1.
	Probability float64
	// Wait for the answer; the turn has ended, and what its caller waits for has not.
	Wait bool
}

// Actor is an actor at the beginning, or one that is born.
type Actor struct {
	ID, Type string
	// Server is where it is at first: an index, or -1 for the least used.
	Server int
	State  float64 // bytes
	Memory float64 // bytes that it uses
	// Scale multiplies the time of its turns; 0 stands for 1.
	Scale float64
	// Refs are IDs by property; they may be of actors that are born later.
	Refs  map[string][]string
	Fixed bool
}

// Stream is a load from clients: Poisson arrivals of Rate, of a function of actors of a type.
type Stream struct {
	Type, Function string
	// Rate is per second over time, all targets together: straight between its points.
	Rate []Point
	// Targets are how likely each is, by ID; nil for all of the type alike. They can change.
	Targets []Target
	// Arrivals are used instead of Rate and Targets if there are any: a trace.
	Arrivals []Arrival
}

// Point is a value at a time.
type Point struct {
	At    time.Duration
	Value float64
}

// Target is how likely an actor is called, beside the others of the stream.
type Target struct {
	ID     string
	Weight []Point // steps: each holds from its time on
}

// Arrival is a call of a trace.
type Arrival struct {
	At time.Duration
	ID string
}

// Event is what happens at a time: just one of its fields is given.
type Event struct {
	At time.Duration
	// Born is an actor that comes, Dies the ID of one that goes.
	Born *Actor
	Dies string
	// Fails is a node or server that ends without warning: by the node's ID, or "server N"
	// of the N-th that was started, from 0 on. Its actors are at others after Recover.
	Fails   string
	Recover time.Duration
	// Refs replaces the references of an actor.
	Refs *Refs
}

// Refs are an actor's new references, by property.
type Refs struct {
	ID   string
	Refs map[string][]string
}
