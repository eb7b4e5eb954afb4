package host

import "github.com/peregrine-dev/peregrine/plasma/host/lane"

// FailStore makes the host's transactions fail until it is called with nil.
func (h *Host) FailStore(err error) { h.store.Fail(err) }

// InMemory is how many actors are.
func (h *Host) InMemory() int { return int(h.count.Load()) }

// NewLaneID gives a lane's name.
func NewLaneID() lane.ID { return newLaneID() }
