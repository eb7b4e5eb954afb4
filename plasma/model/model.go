// Package model is what the planner sees of the world, and what it answers: plain values that
// are written down as they are, so that a live system's decisions can be replayed.
package model

import "time"

// Version is of the written form of all types here.
const Version = 1

// Snapshot is what is known of a service at one moment. Relations between its parts are indices
// into its slices; -1 is none. It is read only once it was made, and may be shared.
type Snapshot struct {
	Version int `json:"version"`
	// At is the moment, since some fixed one: only differences count.
	At time.Duration `json:"at"`
	// Window is the time before At in which calls were counted and usage was averaged.
	Window  time.Duration `json:"window"`
	Nodes   []Node        `json:"nodes"`
	Servers []Server      `json:"servers"`
	Actors  []Actor       `json:"actors"`
	Calls   []Call        `json:"calls"`
}

// Resources are amounts: CPU in cores, Mem in bytes, Net in bytes per second.
type Resources struct {
	CPU float64 `json:"cpu"`
	Mem float64 `json:"mem"`
	Net float64 `json:"net"`
}

// Node is a machine that servers run on.
type Node struct {
	ID       string    `json:"id"`
	Zone     string    `json:"zone,omitempty"`
	Capacity Resources `json:"capacity"`
	// Down is a node that nothing may be put on.
	Down bool `json:"down,omitempty"`
}

// State is what a server is doing.
type State string

const (
	// Up serves.
	Up State = "up"
	// Starting will serve soon; nothing is moved there yet, and no other is started for the
	// same reason.
	Starting State = "starting"
	// Draining gives its actors away and then ends.
	Draining State = "draining"
	// Down does not answer. Its actors are the runtime's to recover, not the planner's.
	Down State = "down"
)

// Server is a container that hosts actors: what EPL calls a server.
type Server struct {
	ID    string `json:"id"`
	Node  int    `json:"node"`
	State State  `json:"state"`
	// Limit is what it may use, Usage what it used in the window.
	Limit Resources `json:"limit"`
	Usage Resources `json:"usage"`
	// Max is up to what Limit can be raised in place; less than Limit is as much as Limit.
	Max     Resources          `json:"max,omitzero"`
	Latency Latency            `json:"latency,omitzero"`
	Queue   float64            `json:"queue,omitempty"`
	Metrics map[string]float64 `json:"metrics,omitempty"`
}

// Latency is of requests, in milliseconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
}

// Actor is what moves: an actor, a partition, or a whole container of an application that
// knows nothing of this.
type Actor struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	Server int    `json:"server"`
	// Usage is what it used in the window.
	Usage   Resources          `json:"usage"`
	State   float64            `json:"state,omitempty"` // bytes that a move carries
	Latency Latency            `json:"latency,omitzero"`
	Queue   float64            `json:"queue,omitempty"` // messages that wait
	Refs    []Ref              `json:"refs,omitempty"`
	Metrics map[string]float64 `json:"metrics,omitempty"`
	// Fixed can't be moved at all, whatever a policy says.
	Fixed bool `json:"fixed,omitempty"`
	// Ends is one that is fixed and ends with its server: it keeps no server there.
	Ends bool `json:"ends,omitempty"`
	// Moving is on its way by an earlier plan, to Server.
	Moving bool `json:"moving,omitempty"`
}

// Ref is a reference that an actor holds in a property.
type Ref struct {
	Name string `json:"name"`
	To   int    `json:"to"`
}

// Client is the caller of calls that come from outside.
const Client = -1

// Call is how often From (Client, or an actor) called Function of To in the window.
type Call struct {
	From     int     `json:"from"`
	To       int     `json:"to"`
	Function string  `json:"function"`
	Count    float64 `json:"count"`
	Bytes    float64 `json:"bytes"`
}

// Get gives a resource by its name in EPL: cpu, mem or net.
func (r Resources) Get(name string) float64 {
	switch name {
	case "cpu":
		return r.CPU
	case "mem":
		return r.Mem
	}
	return r.Net
}

// Add gives the sum.
func (r Resources) Add(o Resources) Resources {
	return Resources{r.CPU + o.CPU, r.Mem + o.Mem, r.Net + o.Net}
}

// Sub gives the difference.
func (r Resources) Sub(o Resources) Resources {
	return Resources{r.CPU - o.CPU, r.Mem - o.Mem, r.Net - o.Net}
}
