package world

import (
	"bytes"
	"fmt"

	"github.com/pelletier/go-toml/v2"
)

// Write writes a valid world as TOML, so that Read gives the same again unless the text is longer
// than MaxText.
func Write(w *World) ([]byte, error) {
	out := file{
		Name: w.Name, Seed: w.Seed, Servers: w.Servers, Peak: w.Peak, Mean: w.Mean,
		Duration: span(w.Duration), Warmup: span(w.Warmup), Period: span(w.Period),
		Server: serverPart{w.Server.Cores, w.Server.Max, size(w.Server.Memory), size(w.Server.Network)},
		Costs: costsPart{
			span(w.Costs.LocalCall), span(w.Costs.NodeCall), span(w.Costs.RemoteCall), span(w.Costs.ZoneCall),
			span(w.Costs.Serialize), span(w.Costs.MovePause), span(w.Costs.MovePerMiB), span(w.Costs.MoveCPU),
			span(w.Costs.Start), span(w.Costs.Stop), span(w.Costs.Resize),
		},
		Types: make(map[string]typePart, len(w.Types)),
	}
	for _, n := range w.Nodes {
		out.Nodes = append(out.Nodes, nodePart{n.ID, n.Zone, n.Cores, size(n.Memory), size(n.Network)})
	}
	for name, t := range w.Types {
		typ := typePart{make(map[string]functionPart, len(t.Functions))}
		for f, in := range t.Functions {
			part := functionPart{
				Service: span(in.Service.Mean), Shape: in.Service.Shape,
				Sigma: in.Service.Sigma, Bytes: size(in.Bytes),
			}
			for _, c := range in.Calls {
				part.Calls = append(part.Calls, callPart(c))
			}
			typ.Functions[f] = part
		}
		out.Types[name] = typ
	}
	for i := range w.Actors {
		out.Actors = append(out.Actors, partOf(&w.Actors[i]))
	}
	for _, s := range w.Streams {
		part := streamPart{Type: s.Type, Function: s.Function, Rate: newPoints(s.Rate)}
		for _, t := range s.Targets {
			part.Targets = append(part.Targets, targetPart{t.ID, newPoints(t.Weight)})
		}
		if len(s.Arrivals) > 0 {
			part.Arrivals = string(writeTrace(s.Arrivals))
		}
		out.Streams = append(out.Streams, part)
	}
	for _, e := range w.Events {
		part := eventPart{At: span(e.At), Dies: e.Dies, Fails: e.Fails, Recover: span(e.Recover)}
		if e.Born != nil {
			a := partOf(e.Born)
			part.Born = &a
		}
		if e.Refs != nil {
			part.Refs = &refsPart{e.Refs.ID, e.Refs.Refs}
		}
		out.Events = append(out.Events, part)
	}
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(out); err != nil {
		return nil, fmt.Errorf("writing the world %s: %w", w.Name, err)
	}
	return b.Bytes(), nil
}

func partOf(a *Actor) actorPart {
	part := actorPart{
		ID: a.ID, Type: a.Type, State: size(a.State), Memory: size(a.Memory),
		Scale: a.Scale, Refs: a.Refs, Fixed: a.Fixed,
	}
	if a.Server >= 0 {
		part.Server = &a.Server
	}
	return part
}
