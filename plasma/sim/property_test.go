package sim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// check finds what must never be so at the end of a run.
func (r *run) check() error {
	open := 0
	waiting := make(map[int32]int32) // answers under way, by frame
	held := 0
	count := func(m int32) {
		msg := &r.messages.all[m]
		held++
		if msg.client {
			open++
		}
		if msg.frame != none {
			waiting[msg.frame]++
		}
	}
	for _, e := range r.heap.events {
		switch e.kind() {
		case evDeliver:
			count(e.b)
		case evReply:
			waiting[e.a]++
		}
	}
	on := make([]int, len(r.servers))
	coming := make([]int, len(r.servers))
	busy := make([]int, len(r.servers))
	for i := range r.actors {
		a := &r.actors[i]
		n := int32(0)
		for m := a.head; m != none; m = r.messages.all[m].next {
			count(m)
			n++
		}
		if n != a.length {
			return fmt.Errorf("actor %d has %d messages, and counts %d", i, n, a.length)
		}
		if a.current != none {
			count(a.current)
		}
		if a.status == running {
			busy[a.server]++
		} else if a.current != none {
			return fmt.Errorf("actor %d has a turn, and doesn't run", i)
		}
		if a.status == idle && n > 0 {
			return fmt.Errorf("actor %d rests with %d messages", i, n)
		}
		if a.target != none {
			coming[a.target]++
		}
		if a.typ != none && a.status != unborn {
			on[a.server]++
		}
		if a.status == unborn && (n > 0 || a.current != none || a.target != none) {
			return fmt.Errorf("dead actor %d has something", i)
		}
	}
	for i := range r.servers {
		s := &r.servers[i]
		if on[i] != s.actors || coming[i] != s.incoming || busy[i] != s.busy {
			return fmt.Errorf("%s counts %d actors, %d incoming, %d busy: there are %d, %d, %d", s.id, s.actors, s.incoming, s.busy, on[i], coming[i], busy[i])
		}
		if s.busy < s.slots && s.state != model.Down {
			for k := range s.ready.n {
				e := s.ready.ring[(s.ready.head+k)&(len(s.ready.ring)-1)]
				if a := &r.actors[e.actor]; a.status == queued && a.token == e.token {
					return fmt.Errorf("%s has a free core and a ready actor", s.id)
				}
			}
		}
		if s.stopping && (on[i] > 0 || coming[i] > 0) {
			return fmt.Errorf("%s was stopped with actors", s.id)
		}
	}
	cores := make([]float64, len(r.nodes))
	for i := range r.servers {
		if s := &r.servers[i]; !s.gone && s.state != model.Down {
			cores[s.node] += s.pending.CPU
		}
	}
	for i := range r.nodes {
		if math.Abs(cores[i]-r.nodes[i].cores) > 1e-6 || cores[i] > r.nodes[i].Cores+1e-6 {
			return fmt.Errorf("node %d counts %v cores of %v: there are %v", i, r.nodes[i].cores, r.nodes[i].Cores, cores[i])
		}
	}
	if held != r.messages.inUse {
		return fmt.Errorf("%d messages are in use, and %d are somewhere", r.messages.inUse, held)
	}
	free := make(map[int32]bool)
	for f := r.frames.free; f != none; f = r.frames.all[f].next {
		free[f] = true
	}
	for f := range r.frames.all {
		if free[int32(f)] {
			if waiting[int32(f)] > 0 {
				return fmt.Errorf("frame %d is free, and answers to it are under way", f)
			}
			continue
		}
		if r.frames.all[f].client {
			open++
		}
		if p := r.frames.all[f].parent; p != none {
			waiting[p]++
		}
	}
	for f := range r.frames.all {
		if !free[int32(f)] && waiting[int32(f)] != r.frames.all[f].pending {
			return fmt.Errorf("frame %d waits for %d answers, and %d are to come", f, r.frames.all[f].pending, waiting[int32(f)])
		}
	}
	res := r.result
	if open != r.window.open || res.Requests != res.Answered+res.Failed+uint64(open) {
		return fmt.Errorf("%d requests came: %d answered, %d failed, %d open (and %d counted)", res.Requests, res.Answered, res.Failed, open, r.window.open)
	}
	return nil
}

const randomWorlds = 150 / slower

// TestNothingGetsLost runs random worlds with a wild planner, and looks at each end whether all
// messages, frames, requests, actors and cores are where they should be; and that no message
// overtakes another of the same sender to the same receiver.
func TestNothingGetsLost(t *testing.T) {
	var moves, failures, forwarded, lost, bounced int
	for seed := range uint64(randomWorlds) {
		w := randomWorld(seed)
		o := Options{}
		if seed%5 == 0 {
			o.MaxMessages, o.MaxWaits = 20, 10
		}
		o = o.defaults(w)
		r, err := prepare(w, newWild(seed), o)
		if err != nil {
			t.Fatalf("world %d: %v", seed, err)
		}
		last := map[[2]int32]int64{}
		r.onStart = func(to, from int32, sent int64) {
			if from == none {
				return
			}
			pair := [2]int32{from, to}
			if sent < last[pair] {
				t.Errorf("world %d: a message from %s to %s sent at %d was overtaken by one of %d", seed, r.names[from], r.names[to], sent, last[pair])
			}
			last[pair] = sent
		}
		if err := r.loop(context.Background()); err != nil {
			t.Fatalf("world %d: %v", seed, err)
		}
		if err := r.check(); err != nil {
			t.Errorf("world %d: %v", seed, err)
		}
		res := r.finish()
		moves += res.Moves
		failures += res.Failures
		forwarded += int(res.Forwarded)
		lost += int(res.Lost)
		bounced += res.AbortedMoves
		if t.Failed() {
			return
		}
	}
	t.Logf("%d worlds: %d moves, %d aborted, %d failures, %d messages forwarded, %d lost", randomWorlds, moves, bounced, failures, forwarded, lost)
	if moves < 1000/slower || failures < 50/slower || forwarded < 20/slower || lost < 100/slower {
		t.Error("these worlds try too little: make them wilder")
	}
}

// TestOrderWhileMoving moves actors to and fro between zones as fast as it goes, while they
// send each other messages that are seldom further apart than the way takes.
func TestOrderWhileMoving(t *testing.T) {
	w := queueWorld(1, 4, 4000, world.Service{Mean: 50 * time.Microsecond}, 20*time.Second)
	w.Servers = 3
	w.Period = 5 * time.Millisecond
	for _, id := range []string{"n1", "n2"} {
		w.Nodes = append(w.Nodes, world.Node{ID: id, Zone: id, Cores: 4})
	}
	w.Nodes[0].Cores = 4
	w.Costs = world.Costs{
		LocalCall: time.Microsecond, NodeCall: 30 * time.Microsecond, RemoteCall: 100 * time.Microsecond,
		ZoneCall: 4 * time.Millisecond, Serialize: 5 * time.Microsecond, MovePause: time.Millisecond,
	}
	w.Types["Q"].Functions["serve"] = world.Function{
		Service: world.Service{Mean: 50 * time.Microsecond},
		Calls:   []world.Call{{Property: "r", Function: "work"}, {Property: "r", Function: "work", All: true, Wait: true}},
	}
	w.Types["R"] = world.Type{Functions: map[string]world.Function{"work": {Service: world.Service{Mean: 10 * time.Microsecond}}}}
	w.Actors[0].Refs = map[string][]string{"r": {"r0", "r1"}}
	w.Actors = append(w.Actors, world.Actor{ID: "r0", Type: "R"}, world.Actor{ID: "r1", Type: "R"})
	r, err := prepare(w, newWild(5), Options{}.defaults(w))
	if err != nil {
		t.Fatal(err)
	}
	r.planner = mover{newWild(5)}
	last := map[[2]int32]int64{}
	r.onStart = func(to, from int32, sent int64) {
		if pair := [2]int32{from, to}; from != none {
			if sent < last[pair] {
				t.Fatalf("a message sent at %d was overtaken by one of %d", sent, last[pair])
			}
			last[pair] = sent
		}
	}
	if err := r.loop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.check(); err != nil {
		t.Error(err)
	}
	res := r.finish()
	t.Logf("%d moves, %d messages forwarded", res.Moves, res.Forwarded)
	if res.Moves < 1000 || res.Forwarded < 1000 {
		t.Error("too little was moved and forwarded to tell")
	}
}

// mover moves an actor to anywhere.
type mover struct{ wild }

func (p mover) Plan(s *model.Snapshot, m model.Memory) model.Plan {
	i := p.d.IntN(len(s.Actors))
	return model.Plan{Actions: []model.Action{{Verb: model.Move, Actor: i, From: s.Actors[i].Server, To: p.d.IntN(len(s.Servers))}}}
}

// TestSame checks that a run is a function of its input, and that its snapshots make sense.
func TestSame(t *testing.T) {
	for seed := range uint64(20 / slower) {
		var results [2]*Result
		for k := range results {
			var err error
			o := Options{Record: func(s *model.Step) error { return s.Snapshot.Validate() }}
			if results[k], err = Run(context.Background(), randomWorld(seed), newWild(seed), o); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(results[0], results[1]) {
			t.Errorf("world %d: two runs differ", seed)
		}
		o := Options{Seed: 12345}
		other, err := Run(context.Background(), randomWorld(seed), newWild(seed), o)
		if err != nil {
			t.Fatal(err)
		}
		if other.Requests > 100 && other.Latency == results[0].Latency {
			t.Errorf("world %d: another seed changes nothing", seed)
		}
	}
}

// TestSameLoad checks that the load doesn't depend on the planner.
func TestSameLoad(t *testing.T) {
	w := randomWorld(3)
	a, err := Run(context.Background(), w, still{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Run(context.Background(), w, newWild(1), Options{Servers: w.Servers + 2})
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Windows {
		if a.Windows[i].Requests != b.Windows[i].Requests {
			t.Fatalf("window %d has %d requests with one planner, %d with another", i, a.Windows[i].Requests, b.Windows[i].Requests)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	w := queueWorld(1, 1, 500, world.Service{Mean: time.Millisecond}, 24*time.Hour)
	w.Period = time.Second
	o := Options{Progress: func(at, of time.Duration) {
		if at >= 10*time.Second {
			cancel()
		}
	}}
	if _, err := Run(ctx, w, still{}, o); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run gives %v", err)
	}
}
