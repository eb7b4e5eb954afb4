package place

import (
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Member is a node with a plasmad.
type Member struct {
	Node     string          `json:"node"`
	Zone     string          `json:"zone,omitempty"`
	Address  string          `json:"address"` // of its gRPC, host:port
	Capacity model.Resources `json:"capacity"`
	// Identity is a random text that the plasmad keeps on disk. By it one that was started again
	// takes its own place, while the lease of before is still there; without it, it has to wait
	// for that lease's end.
	Identity string `json:"identity,omitempty"`
}

// Service is what a user has applied.
type Service struct {
	Name     string `json:"name"`
	Spec     string `json:"spec"` // TOML: see package service
	Policy   string `json:"policy,omitempty"`
	Manifest string `json:"manifest,omitempty"`
	Paused   bool   `json:"paused,omitempty"` // nothing is planned
	// Deleting is a service whose servers are to end; with DeleteState, what its actors have
	// stored goes too.
	Deleting    bool   `json:"deleting,omitempty"`
	DeleteState bool   `json:"deleteState,omitempty"`
	Certificate []byte `json:"certificate,omitempty"` // PEM, for hosts' connections between nodes
	Key         []byte `json:"key,omitempty"`         // PEM
	// Generation counts the changes that its containers have to be replaced for.
	Generation uint64 `json:"generation,omitempty"`
	// Version counts its changes: 1 is as it was created. A change names the version it is of.
	Version uint64 `json:"-"`
}

// Server is a container that is there or is to be there.
type Server struct {
	Service string          `json:"-"`
	ID      string          `json:"-"`
	Node    string          `json:"node"`
	State   model.State     `json:"state"` // starting, up or draining
	Limit   model.Resources `json:"limit"`
	Created time.Time       `json:"created"`
	// Stopping is a server that has nothing any more: its node ends and removes it.
	Stopping bool `json:"stopping,omitempty"`
	// Generation is of the service when the server was created.
	Generation uint64 `json:"generation,omitempty"`
	// Replaces is the server of an earlier generation that is drained once this one is up.
	Replaces string `json:"replaces,omitempty"`
	// Class is the network's class of a reserved server; empty is the usual.
	Class string `json:"class,omitempty"`
	// Version counts its changes, as a service's does.
	Version uint64 `json:"-"`
}

// Instance is a host that has registered: a process of a server. It is there as long as its
// node's lease.
type Instance struct {
	Service  string `json:"-"`
	Server   string `json:"-"`
	Node     string `json:"node"`
	Instance uint64 `json:"instance"`          // 1, 2, 3, ...
	Address  string `json:"address,omitempty"` // host:port of its listener; empty if it has none
	// Revision is etcd's when it registered: a placement of that revision or later shows all
	// that earlier instances did.
	Revision int64 `json:"-"`
}

// Move is an actor that is to move, until it has or can't.
type Move struct {
	ID      string          `json:"id"` // never used again, whatever comes of it
	Service string          `json:"-"`
	Actor   placement.Actor `json:"-"`
	From    string          `json:"from"`
	To      string          `json:"to"`
	Epoch   uint64          `json:"epoch"` // that the actor will have
	Rule    string          `json:"rule,omitempty"`
	Reason  string          `json:"reason,omitempty"`
	At      time.Time       `json:"at"`
}
