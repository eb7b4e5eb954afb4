package assemble

import (
	"cmp"
	"slices"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// entry is an actor and who reports it.
type entry struct {
	name     placement.Actor
	id       string
	report   *api.ActorReport // nil: a container without a host
	reporter int32
	home     int32 // where it is
	told     bool  // that it is there, by its move or its owner
	moving   bool
}

// actors gathers those that are reported, each once.
func (b *builder) actors() {
	shares, n := make([]share, len(b.known)), 0
	for _, i := range b.arrived {
		n += len(b.profile[i].GetReport().GetActors())
	}
	b.index = make(map[placement.Actor]int32, n)
	b.entries = make([]*entry, 0, n)
	for _, i := range b.arrived {
		if b.known[i].Plain {
			b.plain(i)
		}
	}
	for _, i := range b.arrived {
		if b.known[i].Plain {
			continue
		}
		p, sum, messages := &b.profile[i], 0.0, 0.0
		for _, a := range p.GetReport().GetActors() {
			sum += p.used(a).CPU
			messages += float64(a.GetLatency().GetCount())
			b.reported(i, a)
		}
		shares[i] = share{scale: 1}
		switch usage := b.snapshot.Servers[i].Usage.CPU; {
		case sum > usage:
			shares[i].scale = usage / sum
		case messages > 0:
			shares[i].message = (usage - sum) / messages
		}
	}
	slices.SortFunc(b.entries, func(x, y *entry) int { return cmp.Compare(x.id, y.id) })
	b.snapshot.Actors = make([]model.Actor, len(b.entries))
	for i, e := range b.entries {
		b.index[e.name] = int32(i)
		b.fill(&b.snapshot.Actors[i], e, shares[e.reporter])
	}
}

// share is how a server's usage of the processor is divided among its actors. What their turns used
// is theirs; the rest, for receiving, storing and answering, is that of their messages: with an
// actor that moves, it moves too.
type share struct {
	scale   float64 // of what turns used
	message float64 // cores for each message of the report
}

// plain adds a container without a host, as an actor that can't be moved. When it drains there
// is nothing to wait for.
func (b *builder) plain(i int32) {
	name := placement.Actor{Type: b.Service, Key: b.known[i].ID}
	if b.known[i].State == model.Up && valid(name) {
		b.add(&entry{name: name, id: name.String(), reporter: i, home: i})
	}
}

// reported adds an actor unless it is there with more right.
func (b *builder) reported(server int32, a *api.ActorReport) {
	name := placement.Of(a.GetActor())
	if !valid(name) {
		return
	}
	at, known := b.index[name]
	if !known {
		_, moving := b.Moves[name]
		e := &entry{name: name, id: name.String(), report: a, reporter: server, moving: moving}
		if e.home, e.told = b.home(name, moving); !e.told {
			e.home = server
		}
		b.add(e)
		return
	}
	e := b.entries[at]
	if e.report == nil || e.told && e.reporter == e.home && server != e.home {
		return
	}
	e.report, e.reporter = a, server
	if !e.told {
		e.home = server
	}
}

func (b *builder) add(e *entry) {
	if len(b.entries) < model.MaxActors {
		b.index[e.name] = int32(len(b.entries))
		b.entries = append(b.entries, e)
	}
}

// home is where an actor is, or will be as it is on its way there, if anything but reports says.
func (b *builder) home(name placement.Actor, moving bool) (int32, bool) {
	if moving {
		if to, ok := b.numbers[b.Moves[name].To]; ok {
			return to, true
		}
	}
	if b.Owner != nil {
		if o, ok := b.Owner(name); ok {
			at, ok := b.numbers[o.Server]
			return at, ok
		}
	}
	return 0, false
}

// valid tells whether an actor's name is one: with a slash in their types two actors could have
// the same.
func valid(name placement.Actor) bool { return name.Type != "" && !strings.Contains(name.Type, "/") }

func (b *builder) fill(a *model.Actor, e *entry, part share) {
	a.ID, a.Type, a.Server, a.Moving = e.id, e.name.Type, int(e.home), e.moving
	r := e.report
	if r == nil {
		s := &b.snapshot.Servers[e.home]
		a.Usage, a.Metrics, a.Fixed, a.Ends = s.Usage, s.Metrics, true, true
		return
	}
	a.Usage = b.profile[e.reporter].used(r)
	a.Usage.CPU = a.Usage.CPU*part.scale + part.message*float64(r.GetLatency().GetCount())
	a.State = float64(r.GetState())
	if a.State == 0 && b.Manifest != nil {
		a.State = float64(manifest.Bytes(b.Manifest.Types[e.name.Type].State))
	}
	a.Latency, a.Queue = latency(r.GetLatency()), amount(r.GetQueue())
	a.Metrics = metrics(r.GetMetrics())
}

// references gives references as numbers: those to actors that nobody reports lead nowhere.
func (b *builder) references() {
	for i := range b.entries {
		refs := b.entries[i].report.GetReferences()
		if len(refs) == 0 {
			continue
		}
		made := make([]model.Ref, 0, len(refs))
		for _, r := range refs {
			if to, ok := b.index[placement.Of(r.GetTo())]; ok && r.GetProperty() != "" {
				made = append(made, model.Ref{Name: r.GetProperty(), To: int(to)})
			}
		}
		slices.SortFunc(made, func(x, y model.Ref) int {
			return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.To, y.To))
		})
		b.snapshot.Actors[i].Refs = slices.Compact(made)
	}
}
