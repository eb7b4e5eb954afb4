package plan_test

import (
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// The first servers of a service go to different nodes, so that not all are lost with one: with
// limits, without any, and when one node has more room than the others.
func TestServersSpread(t *testing.T) {
	t.Parallel()
	for name, capacity := range map[string][]float64{"alike": {2, 2, 2}, "one is larger": {16, 2, 2}} {
		s := &model.Snapshot{At: time.Second}
		for i, cpu := range capacity {
			s.Nodes = append(s.Nodes, model.Node{ID: string(rune('a' + i)), Capacity: model.Resources{CPU: cpu}})
		}
		p := planner(t, `limits { servers 3..6; }`).Plan(s, model.Memory{})
		nodes := map[string]int{}
		for _, a := range p.Actions {
			if a.Verb == model.ScaleOut {
				nodes[a.NodeName]++
			}
		}
		if len(nodes) != 3 {
			t.Errorf("%s: three servers start on %v", name, nodes)
		}
	}
}
