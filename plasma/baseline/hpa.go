package baseline

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// Autoscaler is the formula of Kubernetes' HorizontalPodAutoscaler:
//
//	desired = ceil(servers * usage / target)
//
// with nothing done within the tolerance, at most twice as many servers or four more at a time,
// and no fewer than the most that were desired within the last Stable periods. Actors are put on
// servers by rendezvous hashing: all at first, and then as few as that allows when servers come
// and go.
type Autoscaler struct {
	// Target is the share of their cores that servers are to use.
	Target float64
	// Tolerance is by how much usage over target may differ from 1.
	Tolerance float64
	// Stable is for how many periods fewer servers must have been desired. Kubernetes has 5
	// minutes of periods of 15 s: 20.
	Stable int
}

// DefaultAutoscaler has the values of Kubernetes, and 70 % as its target.
func DefaultAutoscaler() Autoscaler { return Autoscaler{Target: .7, Tolerance: .1, Stable: 20} }

const (
	hpaDesired = "hpa desired" // in Memory.Means: what was desired
	hpaKnown   = "hpa known "  // in Memory.Held: servers that have been given their actors
)

// Plan implements Planner.
func (b Autoscaler) Plan(s *model.Snapshot, m model.Memory) model.Plan {
	p := empty()
	var up []int
	starting, used := 0, 0.0
	for i := range s.Servers {
		switch v := &s.Servers[i]; v.State {
		case model.Up:
			up = append(up, i)
			used += v.Usage.CPU / v.Limit.CPU
		case model.Starting:
			starting++
		}
	}
	have := len(up) + starting
	desired := b.desired(have, used)
	// Not before Stable periods, but the more at once.
	samples := []model.Sample{}
	for _, old := range m.Means[hpaDesired] {
		if s.At-old.At < time.Duration(b.Stable)*s.Window {
			samples = append(samples, old)
		}
	}
	samples = append(samples, model.Sample{At: s.At, Value: float64(desired)})
	p.Memory.Means = map[string][]model.Sample{hpaDesired: samples}
	if desired < have {
		for _, old := range samples {
			desired = max(desired, int(old.Value))
		}
		desired = min(desired, have)
	}
	why := fmt.Sprintf("%d servers use %.0f %% of their cores, the target is %.0f %%: %d are desired", have, 100*used/math.Max(1, float64(have)), 100*b.Target, desired)
	free := newRoom(s)
	for range desired - have {
		if !scaleOut(s, &p, free, HPA, why) {
			break
		}
	}
	var leave []int
	if desired < have {
		// The newest go first.
		n := min(have-desired, len(up)-1)
		leave = slices.Clone(up[len(up)-max(n, 0):])
		up = up[:len(up)-len(leave)]
		for _, i := range leave {
			server(s, &p, model.Drain, i, HPA, why)
		}
	}
	b.place(s, &p, m, up, leave)
	stopEmpty(s, &p, HPA)
	return p
}

func (b Autoscaler) desired(have int, used float64) int {
	if have == 0 {
		return 1
	}
	ratio := used / (float64(have) * b.Target)
	if math.Abs(ratio-1) <= b.Tolerance {
		return have
	}
	n := int(math.Ceil(float64(have)*ratio - 1e-9))
	return max(1, min(n, max(2*have, have+4)))
}

// place moves the actors of servers that leave, and those that belong to servers that came.
func (b Autoscaler) place(s *model.Snapshot, p *model.Plan, m model.Memory, up, leave []int) {
	p.Memory.Held = make(map[string]time.Duration, len(up))
	isNew := make([]bool, len(s.Servers))
	leaves := make([]bool, len(s.Servers))
	for _, i := range up {
		id := s.Servers[i].ID
		_, known := m.Held[hpaKnown+id]
		isNew[i] = !known
		p.Memory.Held[hpaKnown+id] = s.At
	}
	for i := range s.Servers {
		leaves[i] = s.Servers[i].State == model.Draining
	}
	for _, i := range leave {
		leaves[i] = true
	}
	if len(up) == 0 || !slices.Contains(isNew, true) && !slices.Contains(leaves, true) {
		return
	}
	hashes := make([]uint64, len(up))
	for k, i := range up {
		hashes[k] = hash(s.Servers[i].ID)
	}
	for i := range s.Actors {
		if !movable(s, i) {
			continue
		}
		at := s.Actors[i].Server
		to := up[rendezvous(hash(s.Actors[i].ID), hashes)]
		if to != at && (leaves[at] || isNew[to]) {
			move(s, p, i, to, HPA, "the hash says so")
		}
	}
}

// stopEmpty adds stops of drained servers.
func stopEmpty(s *model.Snapshot, p *model.Plan, rule string) {
	has := make([]bool, len(s.Servers))
	for i := range s.Actors {
		if at := s.Actors[i].Server; at >= 0 {
			has[at] = true
		}
	}
	for i := range s.Servers {
		if s.Servers[i].State == model.Draining && !has[i] {
			server(s, p, model.Stop, i, rule, "it is empty")
		}
	}
}
