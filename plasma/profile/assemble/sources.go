package assemble

import (
	"maps"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

// Sources is the schema of what is measured now: a policy that names something else waits for
// what nobody reports. It has what was called lately, not all that could be. Plain says that the
// service's containers have no hosts.
func Sources(service string, plain bool, profiles []*api.ProfileResponse) manifest.Manifest {
	s := sources{}
	server := map[string]bool{}
	for _, response := range profiles {
		for _, p := range response.GetServers() {
			if p.GetService() != service || !p.GetRunning() {
				continue
			}
			note(server, p.GetMetrics())
			if plain {
				if t := s.of(service); t != nil {
					t.functions[Connection] = true
					note(t.metrics, p.GetMetrics())
				}
				continue
			}
			note(server, p.GetReport().GetMetrics())
			s.report(p.GetReport())
		}
	}
	m := manifest.Manifest{Name: service, Types: map[string]manifest.Type{}}
	m.Server.Metrics = slices.Sorted(maps.Keys(server))
	for name, t := range s {
		for property, to := range t.properties {
			if s[to] == nil {
				t.properties[property] = epl.Any
			}
		}
		m.Types[name] = manifest.Type{
			Functions: slices.Sorted(maps.Keys(t.functions)), Properties: t.properties, Metrics: slices.Sorted(maps.Keys(t.metrics)),
		}
	}
	return m
}

type sources map[string]*source

type source struct {
	functions, metrics map[string]bool
	properties         map[string]string
}

// of gives a type, or nil if a policy can't name it.
func (s sources) of(name string) *source {
	t := s[name]
	if t == nil && epl.IsName(name) {
		t = &source{map[string]bool{}, map[string]bool{}, map[string]string{}}
		s[name] = t
	}
	return t
}

func (s sources) report(r *api.ReportRequest) {
	for _, a := range r.GetActors() {
		t := s.of(a.GetActor().GetType())
		if t == nil {
			continue
		}
		note(t.metrics, a.GetMetrics())
		for _, ref := range a.GetReferences() {
			if property, to := ref.GetProperty(), ref.GetTo().GetType(); epl.IsMember(property) {
				if known, ok := t.properties[property]; ok && known != to {
					to = epl.Any
				}
				t.properties[property] = to
			}
		}
	}
	for _, c := range r.GetCalls() {
		if t := s.of(c.GetTo().GetType()); t != nil && epl.IsMember(c.GetFunction()) {
			t.functions[c.GetFunction()] = true
		}
	}
}

func note(names map[string]bool, metrics map[string]float64) {
	for name := range metrics {
		if !names[name] && epl.IsMetric(name) {
			names[name] = true
		}
	}
}
