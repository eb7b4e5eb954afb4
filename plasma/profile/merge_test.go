package profile

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

func TestMerge(t *testing.T) {
	a := func(key string, cpu int64, queue float64, state uint64) *api.ActorReport {
		return &api.ActorReport{
			Actor: &api.Actor{Type: "A", Key: key}, Cpu: cpu, Queue: queue, State: state, Received: 1,
			Latency: &api.Latency{Mean: queue, P99: 10 * queue, Count: uint64(queue)},
		}
	}
	call := func(key string, count uint64) *api.CallReport {
		return &api.CallReport{To: &api.Actor{Type: "A", Key: key}, Function: "f", Count: count, Bytes: 2 * count}
	}
	reports := []*api.ReportRequest{
		{Instance: 1, Window: 9e9, Actors: []*api.ActorReport{a("old", 99, 9, 9)}, Calls: []*api.CallReport{call("x", 99)}},
		{Instance: 2, Window: 1e9, Total: 2, Queue: 4, Actors: []*api.ActorReport{a("x", 5, 1, 1), a("y", 1, 0, 0)}, Calls: []*api.CallReport{call("x", 1)}},
		{Instance: 2, Window: 3e9, Total: 1, Queue: 8, Actors: []*api.ActorReport{a("x", 6, 3, 2)}, Calls: []*api.CallReport{call("x", 2), call("y", 1)}, Metrics: map[string]float64{"m": 1}},
		{Instance: 2, Window: 1e9, Total: 9, Queue: 2, Overloaded: true, Actors: []*api.ActorReport{a("z", 7, 0, 0)}},
	}
	var m merged
	for _, r := range reports {
		m.add(r)
	}
	x := a("x", 11, 2.5, 2)
	x.Received, x.Latency = 2, &api.Latency{Mean: 2.5, P99: 25, Count: 4}
	want := &api.ReportRequest{
		Instance: 2, Window: 5e9, Total: 9, Queue: 6, Overloaded: true,
		Actors: []*api.ActorReport{x, a("z", 7, 0, 0)}, Calls: []*api.CallReport{call("x", 3), call("y", 1)},
	}
	if got := m.report(); !proto.Equal(got, want) {
		t.Errorf("%v\nwant\n%v", got, want)
	}
}

func FuzzMerge(f *testing.F) {
	one, err := proto.Marshal(report(&api.ReportRequest{Total: 2}, 5, 6))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one, one)
	f.Fuzz(func(t *testing.T, one, two []byte) {
		var m merged
		names := map[string]bool{}
		for _, text := range [][]byte{one, two, one} {
			var r api.ReportRequest
			if proto.Unmarshal(text, &r) != nil {
				return
			}
			for _, a := range r.GetActors() {
				names[a.GetActor().String()] = true
			}
			m.add(&r)
		}
		if got := len(m.report().GetActors()); got > 2*len(names) {
			t.Errorf("%d actors of %d", got, len(names))
		}
	})
}

// BenchmarkReport takes in reports of 1,000 actors, for one subscriber.
func BenchmarkReport(b *testing.B) {
	s := New("n", 1e9, nil)
	s.Set([]Target{{ID: "s-1"}})
	sub := &subscription{wake: make(chan struct{}, 1), reports: map[*server]*merged{}}
	s.subscriptions[sub] = struct{}{}
	r := report(&api.ReportRequest{}, make([]int64, 1000)...)
	for b.Loop() {
		s.Report("s-1", r)
	}
}
