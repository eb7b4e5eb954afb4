package model

import "time"

// Plan is what to do, in this order, and why.
type Plan struct {
	Version int `json:"version"`
	// Shadow is a plan that must not be carried out: the policy says mode shadow.
	Shadow    bool       `json:"shadow,omitempty"`
	Actions   []Action   `json:"actions"`
	Decisions []Decision `json:"decisions"`
	// Memory is to be given to the planner the next time.
	Memory Memory `json:"memory"`
}

// Verb is what an action does.
type Verb string

const (
	// Resize changes what a server may use.
	Resize Verb = "resize"
	// Move takes an actor to another server.
	Move Verb = "move"
	// ScaleOut starts a server. Actions of the same plan don't use it: the next plan does.
	ScaleOut Verb = "scale-out"
	// Drain takes a server out of service: nothing is put there, and once it is empty it ends.
	Drain Verb = "drain"
	// Stop ends a server that is draining and empty.
	Stop Verb = "stop"
	// Reserve keeps a server for an actor and those that are with it.
	Reserve Verb = "reserve"
	// Release ends that.
	Release Verb = "release"
)

// Action is one step. Indices are into the snapshot that was planned for; names are given,
// too, so that a plan can be read alone.
type Action struct {
	Verb Verb `json:"verb"`
	// Actor is what moves or has the reservation, -1 for none.
	Actor     int    `json:"actor"`
	ActorName string `json:"actorName,omitempty"`
	// From and To are servers, -1 for none: a move has both, resize, drain, stop, reserve and
	// release have To.
	From     int    `json:"from"`
	FromName string `json:"fromName,omitempty"`
	To       int    `json:"to"`
	ToName   string `json:"toName,omitempty"`
	// Node is where a scale-out starts a server, -1 for none.
	Node     int    `json:"node"`
	NodeName string `json:"nodeName,omitempty"`
	// Limit is what a resized or new server may use.
	Limit Resources `json:"limit,omitzero"`
	// Resource is what is reserved: cpu, mem or net.
	Resource string `json:"resource,omitempty"`
	// Rule asked for it: its name, or its place in the policy.
	Rule string `json:"rule"`
	// Reason is one sentence.
	Reason string `json:"reason"`
}

// Decision explains what a rule came to: an action, or that there is none.
type Decision struct {
	Rule string `json:"rule"`
	// Behavior is what the rule asked for, as EPL with names of actors.
	Behavior string `json:"behavior"`
	// Done says whether it was, or will be by this plan's actions.
	Done bool `json:"done"`
	// Code is why not, or how: for machines. See package plan.
	Code string `json:"code"`
	// Reason is one sentence.
	Reason string `json:"reason"`
	// Actions are indices into the plan's.
	Actions []int `json:"actions,omitempty"`
}

// Memory is what the planner has to know of before. The zero value is a beginning.
type Memory struct {
	// Began is when the first plan was made.
	Began *time.Duration `json:"began,omitempty"`
	// ScaledOut and ScaledIn are when the number of servers was last changed.
	ScaledOut *time.Duration `json:"scaledOut,omitempty"`
	ScaledIn  *time.Duration `json:"scaledIn,omitempty"`
	// Moves are the last of actors, by name, as long as they matter.
	Moves map[string]Moved `json:"moves,omitempty"`
	// Budget is what was moved within the limit's time: when, and how many.
	Budget []Spent `json:"budget,omitempty"`
	// Reserved are the servers that are kept, by the actor's name.
	Reserved map[string]Reservation `json:"reserved,omitempty"`
	// Held is since when a condition with "for" has held, by the rule, the term and the entity.
	Held map[string]time.Duration `json:"held,omitempty"`
	// Means is what conditions with "over" have seen, by the term and the entity.
	Means map[string][]Sample `json:"means,omitempty"`
	// Needed is how many servers were needed, within the time in which they must not become
	// fewer than that.
	Needed []Sample `json:"needed,omitempty"`
	// Loads are the sums of what servers used, by resource.
	Loads map[string]float64 `json:"loads,omitempty"`
	// Usage is what servers used, smoothed over the last snapshots, by name.
	Usage map[string]Resources `json:"usage,omitempty"`
	// Raised is what servers might use before their limits were raised, by name.
	Raised map[string]Resources `json:"raised,omitempty"`
}

// Moved is a move: when, and the server that the actor left.
type Moved struct {
	At   time.Duration `json:"at"`
	From string        `json:"from"`
}

// Spent is a part of the budget of moves that was used.
type Spent struct {
	At    time.Duration `json:"at"`
	Moves int           `json:"moves"`
}

// Reservation is a server that is kept for an actor.
type Reservation struct {
	Server   string        `json:"server"`
	Resource string        `json:"resource"`
	Rule     string        `json:"rule"`
	Since    time.Duration `json:"since"`
	// Last is when the rule last asked for it.
	Last time.Duration `json:"last"`
}

// Sample is a value at a time.
type Sample struct {
	At    time.Duration `json:"at"`
	Value float64       `json:"value"`
}
