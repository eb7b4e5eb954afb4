// Package status is what plasmad tells of a cluster, as JSON: to plasmactl and to the web page.
package status

import (
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// Version is of the form of all types here.
const Version = 1

// Cluster is how everything is, as the global manager sees it.
type Cluster struct {
	Version  int       `json:"version"`
	At       time.Time `json:"at"`
	Cluster  string    `json:"cluster"`
	Leader   string    `json:"leader"` // the node of the global manager
	Nodes    []Node    `json:"nodes"`
	Services []Service `json:"services"`
}

// Node is a machine.
type Node struct {
	Name     string          `json:"name"`
	Zone     string          `json:"zone,omitempty"`
	Address  string          `json:"address,omitempty"`
	Capacity model.Resources `json:"capacity"`
	// Up is one whose plasmad has a lease.
	Up bool `json:"up"`
	// Heard is when its last profile came; zero: none has.
	Heard time.Time `json:"heard,omitzero"`
}

// Service is how a service is.
type Service struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"`
	Image   string `json:"image"`
	Policy  string `json:"policy"` // its text
	Paused  bool   `json:"paused,omitempty"`
	// Shadow is a policy in mode shadow: its plans are not carried out.
	Shadow  bool     `json:"shadow,omitempty"`
	Servers []Server `json:"servers"`
	// Actors are the busiest, at most MaxActors; Total is how many there are.
	Actors []Actor `json:"actors"`
	Total  int     `json:"total"`
	// Moves are those under way; Recent the last MaxRecent that ended, the newest first.
	Moves  []Move `json:"moves"`
	Recent []Move `json:"recent"`
	// Planned is when the last plan was made, Took how long making it took, in milliseconds, and
	// Actions and Decisions what it said.
	Planned   time.Time        `json:"planned,omitzero"`
	Took      float64          `json:"took,omitempty"`
	Actions   []model.Action   `json:"actions"`
	Decisions []model.Decision `json:"decisions"`
	// Trouble is what doesn't work, a sentence each; none if all does.
	Trouble []string `json:"trouble,omitempty"`
}

// MaxActors and MaxRecent bound lists.
const (
	MaxActors = 500
	MaxRecent = 100
)

// Server is a container.
type Server struct {
	ID      string          `json:"id"`
	Node    string          `json:"node"`
	State   model.State     `json:"state"`
	Version uint64          `json:"version"`
	Created time.Time       `json:"created,omitzero"` // when it was decided on
	Limit   model.Resources `json:"limit"`
	Usage   model.Resources `json:"usage"`
	Queue   float64         `json:"queue"`
	Latency model.Latency   `json:"latency"`
	Actors  int             `json:"actors"`
	Shards  int             `json:"shards"`
	// Reserved is the actor that it is kept for.
	Reserved string `json:"reserved,omitempty"`
	// Why is what it waits for, if it does: a drain that is blocked, a start that failed.
	Why string `json:"why,omitempty"`
}

// Actor is an actor, or a container of an application that knows nothing of actors.
type Actor struct {
	ID     string          `json:"id"`
	Type   string          `json:"type"`
	Server string          `json:"server"`
	Usage  model.Resources `json:"usage"`
	State  float64         `json:"state"` // bytes
	Queue  float64         `json:"queue"`
}

// Move is an actor on its way, or one that has ended it.
type Move struct {
	ID     string    `json:"id"`
	Actor  string    `json:"actor"`
	From   string    `json:"from"`
	To     string    `json:"to"`
	Rule   string    `json:"rule"`
	Reason string    `json:"reason"`
	Began  time.Time `json:"began"`
	// Took is until it ended, in milliseconds.
	Took float64 `json:"took,omitempty"`
	// Refused is why it did not take place; empty if it did, or is under way.
	Refused string `json:"refused,omitempty"`
}
