package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// Each behavior, and what comes of it.
func TestBehaviors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, policy string
		world        func() *builder
		want         []string // actions
		code         string   // of a decision that must be there
	}{
		{
			"pin", `true => pin(Root(r)); server.cpu.perc > 80 => balance({any}, cpu);`,
			func() *builder {
				b := newBuilder(2)
				b.actor("root", "Root", 0, 0.6)
				b.actor("leaf", "Leaf", 0, 0.35)
				return b
			},
			[]string{"move leaf s0 s1"},
			"pinned",
		},
		{
			"colocate by a reference", `Session(s) in ref(p.session) and Player(p).cpu.perc >= 0 => colocate(p, s);`,
			func() *builder {
				b := newBuilder(2)
				b.actor("session", "Session", 0, 0.1)
				p := b.actor("player", "Player", 1, 0.1)
				b.ref(p, "session", 0)
				b.Actors[0].State = 1 << 24 // the smaller moves
				return b
			},
			[]string{"move player s1 s0"},
			"moved",
		},
		{
			"colocate by calls, the busiest first", `User(u).call(Room(r).say).count >= 10 => colocate(u, r);`,
			func() *builder {
				b := newBuilder(3)
				r1, r2 := b.actor("room1", "Room", 0, 0.3), b.actor("room2", "Room", 1, 0.3)
				u := b.actor("user", "User", 2, 0.1)
				b.Actors[r1].State, b.Actors[r2].State = 1<<24, 1<<24
				b.call(u, r1, "say", 20)
				b.call(u, r2, "say", 90)
				b.actor("other", "Other", 0, 0.5) // no room for both rooms
				b.actor("other2", "Other", 1, 0.2)
				return b
			},
			[]string{"move user s2 s1"},
			"moved-lately",
		},
		{
			"calls below the bound", `User(u).call(Room(r).say).count >= 10 => colocate(u, r);`,
			func() *builder {
				b := newBuilder(2)
				r, u := b.actor("room", "Room", 0, 0.1), b.actor("user", "User", 1, 0.1)
				b.call(u, r, "say", 9)
				return b
			},
			nil, "holds-nowhere",
		},
		{
			"separate", `Replica(a) in ref(b.peers) and Replica(b).mem.perc >= 0 => separate(a, b) at node;`,
			func() *builder {
				b := newBuilder(3)
				b.actor("r1", "Replica", 0, 0.2)
				r2 := b.actor("r2", "Replica", 0, 0.2)
				b.Actors[0].State = 1 << 24
				b.ref(r2, "peers", 0)
				b.actor("busy", "Other", 1, 0.5)
				return b
			},
			[]string{"move r2 s0 s2"},
			"moved",
		},
		{
			"separate goes before colocate",
			`Replica(a) in ref(b.peers) and Replica(b).mem.perc >= 0 => separate(a, b); Replica(c) in ref(d.peers) and Replica(d).mem.perc >= 0 => colocate(c, d);`,
			func() *builder {
				b := newBuilder(2)
				b.actor("r1", "Replica", 0, 0.2)
				b.ref(b.actor("r2", "Replica", 1, 0.2), "peers", 0)
				return b
			},
			nil, "separate",
		},
		{
			"balance", `server.cpu.perc > 80 => balance({Part}, cpu);`,
			func() *builder {
				b := newBuilder(2)
				for i := range 9 {
					b.actor(fmt.Sprintf("p%d", i), "Part", 0, 0.1)
				}
				return b
			},
			[]string{"move p0 s0 s1", "move p1 s0 s1", "move p2 s0 s1", "move p3 s0 s1"},
			"moved",
		},
		{
			"balance moves none of other types", `server.cpu.perc > 80 => balance({Part}, cpu);`,
			func() *builder {
				b := newBuilder(2)
				b.actor("p", "Part", 0, 0.2)
				b.actor("x", "Other", 0, 0.7)
				return b
			},
			[]string{"move p s0 s1"},
			"moved",
		},
		{
			"swap", `true => balance({Part}, cpu);`,
			func() *builder {
				b := newBuilder(2)
				b.actor("a", "Part", 0, 0.45)
				b.actor("b", "Part", 0, 0.45)
				b.actor("c", "Part", 1, 0.2)
				b.actor("d", "Part", 1, 0.2)
				return b
			},
			[]string{"move d s1 s0", "move a s0 s1"},
			"moved",
		},
		{
			"reserve sends the actor to an empty server",
			`server.cpu.perc > 80 and client.call(Folder(f).open).perc > 40 => reserve(f, cpu);`,
			func() *builder {
				b := newBuilder(3)
				hot, cold := b.actor("hot", "Folder", 0, 0.5), b.actor("cold", "Folder", 0, 0.4)
				b.call(model.Client, hot, "open", 70)
				b.call(model.Client, cold, "open", 30)
				b.actor("colder", "Folder", 0, 0)
				b.actor("third", "Folder", 1, 0.3)
				return b
			},
			[]string{"move hot s0 s2", "reserve hot s2"},
			"reserved",
		},
		{
			"reserve raises the limit if the node allows it",
			`server.cpu.perc > 80 and client.call(Folder(f).open).perc > 40 => reserve(f, cpu);`,
			func() *builder {
				b := newBuilder(2)
				b.call(model.Client, b.actor("hot", "Folder", 0, 0.9), "open", 70)
				b.Servers[0].Max = model.Resources{CPU: 2}
				return b
			},
			[]string{"resize s0"},
			"resized",
		},
		{
			"scale out", `limits { servers 1..4; } server.cpu.perc < 60 or server.cpu.perc > 80 => balance({Part}, cpu);`,
			func() *builder {
				b := newBuilder(2)
				for i := range 18 {
					b.actor(fmt.Sprintf("p%d", i), "Part", i%2, 0.1)
				}
				return b
			},
			[]string{"scale-out n0"},
			"scaled-out",
		},
		{
			"not beyond the limit", `limits { servers 1..2; } server.cpu.perc < 60 or server.cpu.perc > 80 => balance({Part}, cpu);`,
			func() *builder {
				b := newBuilder(2)
				for i := range 18 {
					b.actor(fmt.Sprintf("p%d", i), "Part", i%2, 0.1)
				}
				return b
			},
			nil, "max-servers",
		},
		{
			"scale in", `limits { servers 1..4; } server.cpu.perc < 60 or server.cpu.perc > 80 => balance({Part}, cpu);`,
			func() *builder {
				b := newBuilder(2)
				b.actor("a", "Part", 0, 0.2)
				b.actor("b", "Part", 0, 0.1)
				b.actor("c", "Part", 1, 0.2)
				return b
			},
			[]string{"drain s1", "move c s1 s0"},
			"scaled-in",
		},
		{
			"at least so many", `limits { servers 3..4; } server.cpu.perc > 80 => balance({Part}, cpu);`,
			func() *builder { return newBuilder(2) },
			[]string{"scale-out n0"},
			"scaled-out",
		},
		{
			"the limit on moves", `limits { moves 2 per 10s; } server.cpu.perc > 80 => balance({Part}, cpu);`,
			func() *builder {
				b := newBuilder(2)
				for i := range 9 {
					b.actor(fmt.Sprintf("p%d", i), "Part", 0, 0.1)
				}
				return b
			},
			[]string{"move p0 s0 s1", "move p1 s0 s1"},
			"moved",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := test.world()
			if err := b.Validate(); err != nil {
				t.Fatal(err)
			}
			got := planner(t, test.policy).Plan(&b.Snapshot, model.Memory{})
			if list := actions(got); !slices.Equal(list, test.want) {
				t.Errorf("actions are %q, want %q", list, test.want)
			}
			if !slices.ContainsFunc(got.Decisions, func(d model.Decision) bool { return d.Code == test.code }) {
				t.Errorf("no decision is %s: %s", test.code, describe(got))
			}
		})
	}
}

func describe(p model.Plan) string {
	var b strings.Builder
	for _, d := range p.Decisions {
		fmt.Fprintf(&b, "\n%s: %s: %s: %s", d.Rule, d.Behavior, d.Code, d.Reason)
	}
	return b.String()
}
