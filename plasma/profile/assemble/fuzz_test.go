package assemble

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func FuzzSnapshot(f *testing.F) {
	seed, err := proto.Marshal(profiled("n", time.Second, hosted("s-1", 1, &api.ReportRequest{
		Window: 1e9, Actors: []*api.ActorReport{{Actor: actor("A", "a"), Cpu: 5}},
		Calls: []*api.CallReport{{To: actor("A", "a"), Function: "f", Count: 1}},
	})))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, seed)
	f.Fuzz(func(t *testing.T, one, two []byte) {
		in := Input{Service: "s", Servers: []Server{{ID: "s-1", State: model.Up}, {ID: "s-2", State: model.Up, Plain: true}}}
		for _, text := range [][]byte{one, two} {
			var p api.ProfileResponse
			if proto.Unmarshal(text, &p) == nil {
				in.Profiles = append(in.Profiles, &p)
			}
		}
		check(t, in)
	})
}

// BenchmarkSnapshot is of 10,000 actors on 300 servers of 30 nodes.
func BenchmarkSnapshot(b *testing.B) {
	const actors, servers, nodes = 10_000, 300, 30
	in := Input{Service: "s", Window: 10 * time.Second, Owner: func(placement.Actor) (placement.Owner, bool) { return placement.Owner{}, false }}
	for n := range nodes {
		in.Nodes = append(in.Nodes, model.Node{ID: fmt.Sprint("n", n)})
		in.Profiles = append(in.Profiles, profiled(fmt.Sprint("n", n), 10*time.Second))
	}
	user := func(i int) *api.Actor { return actor("User", fmt.Sprintf("%05d", i%actors)) }
	for i := range servers {
		id, node := fmt.Sprint("s-", i), i%nodes
		in.Servers = append(in.Servers, Server{ID: id, Node: in.Nodes[node].ID, State: model.Up})
		r := &api.ReportRequest{Window: 1e10}
		for a := i; a < actors; a += servers {
			r.Actors = append(r.Actors, &api.ActorReport{
				Actor: user(a), Cpu: 1e8, State: 1000, Latency: &api.Latency{P99: 1},
				References: []*api.Reference{{Property: "friend", To: user(a + 1)}},
			})
			r.Calls = append(r.Calls, &api.CallReport{To: user(a), Function: "read", Count: 100}, &api.CallReport{From: user(a + 7), To: user(a), Function: "write", Count: 10})
		}
		in.Profiles[node].Servers = append(in.Profiles[node].Servers, hosted(id, 1, r))
	}
	for b.Loop() {
		if s := Snapshot(in); len(s.Actors) != actors || len(s.Calls) != 2*actors {
			b.Fatal(len(s.Actors), len(s.Calls))
		}
	}
}
