package host_test

import (
	"sync"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// reporter is an actor that says what policies ask for.
func reporter(c *host.Turn, _ *struct{}, function string, _ []byte) ([]byte, error) {
	c.References("files", placement.Actor{Type: "File", Key: "1"}, placement.Actor{Type: "File", Key: "2"})
	c.Metric("heat", 7)
	if function == "sleep" {
		<-time.After(150 * time.Millisecond) // what a turn does is its own affair
	}
	return nil, nil
}

func TestReport(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(o *host.Options) {
		o.Types = append(o.Types, host.Type{Name: "reporter", New: host.JSON(reporter)})
	}, "a1", "a2")
	a, caller := c.on("a1", "reporter", 0), c.on("a1", "none", 0)
	g := c.agents["a1"]
	calls, fromActor := uint64(0), false
	var actor *api.ActorReport
	for range 5 {
		c.must("a2", a, "look", []byte("12345"))
		c.must("a2", caller, "call", encode(forward{a, "look", nil}))
	}
	eventually(t, "a report of ten calls", func() bool {
		last := g.Take()
		for _, r := range last.GetActors() {
			if placement.Of(r.GetActor()) == a && r.GetCpu() > 0 {
				actor = r
			}
		}
		for _, r := range last.GetCalls() {
			if placement.Of(r.GetTo()) == a && r.GetFunction() == "look" {
				calls += r.GetCount()
				fromActor = fromActor || placement.Of(r.GetFrom()) == caller
			}
		}
		return calls == 10
	})
	if !fromActor || actor.GetCpu() <= 0 || actor.GetState() == 0 || len(actor.GetReferences()) != 2 ||
		actor.GetMetrics()["heat"] != 7 || actor.GetLatency().GetCount() == 0 {
		t.Errorf("%v, from an actor: %t", actor, fromActor)
	}

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { c.must("a2", a, "sleep", nil) })
	}
	eventually(t, "an alarm", func() bool { return g.Take().GetOverloaded() })
	wg.Wait()
}
