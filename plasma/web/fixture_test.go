package web

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

const (
	reason = "Folder/home7 uses 61 % of files-1, which is at 96 %: it gets files-8 for itself"
	idle   = "files-4 is 12 % above the mean: less than what is worth a move"
)

// files is a cluster of three nodes with a service of eight servers and two hundred actors: one
// server is overloaded, one starts, one drains, one move is under way and others have ended.
func files() *status.Cluster {
	at := time.Date(2026, 3, 1, 14, 3, 20, 0, time.UTC)
	r := rand.New(rand.NewPCG(1, 2))
	c := &status.Cluster{Version: status.Version, At: at, Cluster: "plasma", Leader: "node-b"}
	for i, name := range []string{"node-a", "node-b", "node-c"} {
		c.Nodes = append(c.Nodes, status.Node{
			Name: name, Zone: fmt.Sprint("rack ", i/2+1), Capacity: model.Resources{CPU: 4, Mem: 8 << 30, Net: 1e9}, Up: true, Heard: at.Add(-time.Second),
		})
	}
	s := status.Service{
		Name: "files", Version: 3, Image: "docker.io/library/files:2", Policy: "rule level: server.cpu.perc < 60 or server.cpu.perc > 80 => balance({Folder, File}, cpu);\n",
		Total: 1280, Planned: at.Add(-2 * time.Second), Took: 1.4,
	}
	for i := range 8 {
		s.Servers = append(s.Servers, status.Server{
			ID: fmt.Sprint("files-", i+1), Node: c.Nodes[i%3].Name, State: model.Up, Version: 3, Limit: model.Resources{CPU: 1, Mem: 512 << 20},
			Usage: model.Resources{Mem: float64(90+r.IntN(200)) * (1 << 20)}, Latency: model.Latency{P50: 1.2, P95: 3.9, P99: 5 + 4*r.Float64()}, Shards: 512,
		})
	}
	types := []string{"Folder", "File", "File", "Session", "Index"}
	for i := range 200 {
		kind, server := types[i%len(types)], &s.Servers[r.IntN(7)]
		cpu := 0.004 * r.ExpFloat64()
		if kind == "Folder" {
			cpu *= 8
		}
		s.Actors = append(s.Actors, status.Actor{ID: fmt.Sprintf("%s/home%d", kind, i), Type: kind, Server: server.ID, Usage: model.Resources{CPU: cpu, Mem: 1 << 20}, State: 48 << 10})
		server.Usage.CPU += cpu
		server.Actors++
	}
	s.Actors = append(s.Actors, status.Actor{ID: "Folder/home7", Type: "Folder", Server: "files-1", Usage: model.Resources{CPU: 0.58, Mem: 9 << 20}, State: 3 << 20, Queue: 12})
	s.Servers[0].Usage.CPU, s.Servers[0].Queue, s.Servers[0].Latency.P99 = 0.96, 31, 84
	s.Servers[0].Actors += 160
	s.Servers[5].State, s.Servers[5].Why = model.Draining, "waits for Index/home19, which is pinned"
	s.Servers[7].State, s.Servers[7].Latency = model.Starting, model.Latency{}
	move := func(id int, actor, from, to, rule, why string, ago time.Duration) status.Move {
		return status.Move{ID: fmt.Sprint("m", id), Actor: actor, From: from, To: to, Rule: rule, Reason: why, Began: at.Add(-ago)}
	}
	s.Moves = []status.Move{move(9, "Folder/home7", "files-1", "files-8", "hot", reason, time.Second/2)}
	for i, ago := range []time.Duration{2, 3, 45, 46, 80, 200} {
		a := s.Actors[i*7+2]
		from := s.Servers[(i*3+1)%7].ID
		if from == a.Server {
			from = "files-7"
		}
		m := move(8-i, a.ID, from, a.Server, "level", fmt.Sprintf("the load of %s comes nearer to the mean of 58 %%", from), ago*time.Second)
		m.Took = 14.2
		if i == 3 {
			m.Refused = "files-2 has no room: its memory is at 97 %"
		}
		s.Recent = append(s.Recent, m)
	}
	s.Actions = []model.Action{{Verb: model.Move, ActorName: "Folder/home7", FromName: "files-1", ToName: "files-8", Rule: "hot", Reason: reason}}
	s.Decisions = []model.Decision{
		{Rule: "hot", Behavior: "reserve(Folder/home7, cpu)", Done: true, Code: "moved", Reason: reason, Actions: []int{0}},
		{Rule: "hot", Behavior: "colocate(Folder/home7, File/home11)", Code: "moved-lately", Reason: "File/home11 was moved 45 s ago: it stays for twelve periods"},
		{Rule: "level", Behavior: "balance({Folder, File}, cpu)", Code: "balanced", Reason: idle},
		{Rule: "level", Behavior: "balance({Folder, File}, cpu)", Code: "cooldown", Reason: "a server was started 3 s ago: the next one not before 14:03:25"},
		{Rule: "apart", Behavior: "separate(Index/home4, Index/home9)", Code: "apart-already", Done: true, Reason: "they are on files-2 and files-5"},
	}
	c.Services = []status.Service{s}
	return c
}

// moved is the same cluster when the move has ended.
func moved() *status.Cluster {
	c := files()
	c.At = c.At.Add(time.Second)
	s := &c.Services[0]
	s.Servers[7].State = model.Up
	s.Servers[7].Actors, s.Servers[7].Usage.CPU, s.Servers[0].Usage.CPU = 1, 0.58, 0.38
	s.Servers[0].Actors--
	s.Servers[7].Reserved = "Folder/home7"
	s.Actors[len(s.Actors)-1].Server = "files-8"
	m := s.Moves[0]
	m.Took = 21
	s.Moves, s.Recent = nil, append([]status.Move{m}, s.Recent...)
	return c
}
