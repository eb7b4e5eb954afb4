package lsp

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

type hover struct {
	Contents markup    `json:"contents"`
	Range    textRange `json:"range"`
}

type markup struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// hover explains the word at a place; nil if there is nothing to explain.
func (s *server) hover(p positionParams) (*hover, error) {
	d := s.documents[p.TextDocument.URI]
	if d == nil {
		return nil, nil
	}
	offset := d.offset(p.Position)
	for _, c := range d.policy.Comments {
		if c.Pos.Offset <= offset && offset < c.End.Offset {
			return nil, nil
		}
	}
	from, to := offset, offset
	for from > 0 && wordByte(d.text[from-1]) {
		from--
	}
	for to < len(d.text) && wordByte(d.text[to]) {
		to++
	}
	name := string(d.text[from:to])
	text, ok := d.named(name, from)
	if !ok {
		if text, ok = lookup(name); !ok {
			return nil, nil
		}
		text = "**" + name + "**: " + text
	}
	return &hover{markup{"markdown", text}, textRange{d.position(from), d.position(to)}}, nil
}

func wordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// named explains a name of the application, or a variable, that begins at the offset.
func (d *document) named(name string, at int) (string, bool) {
	for _, r := range d.policy.Rules {
		if r.End.Offset <= at || at < r.Pos.Offset {
			continue
		}
		types := map[string]string{}
		var actors []*epl.Actor
		text := ""
		epl.Walk(r.When, func(x epl.Cond) { actors = append(actors, epl.Actors(x)...) })
		for _, b := range r.Do {
			actors = append(actors, b.Actors...)
		}
		for _, a := range actors {
			if a.Var != "" && a.Type != "" && types[a.Var] == "" {
				types[a.Var] = a.Type
			}
		}
		typ := func(a *epl.Actor) string {
			if a.Var != "" {
				return types[a.Var]
			}
			return a.Type
		}
		epl.Walk(r.When, func(x epl.Cond) {
			switch x := x.(type) {
			case *epl.In:
				if x.NameAt.Pos.Offset == at {
					text = fmt.Sprintf("**%s**: a property of %s%s", x.Name, typ(x.Of), d.refersTo(typ(x.Of), x.Name))
				}
			case *epl.Compare:
				if f := x.Feature; f.Kind == epl.Call && f.NameAt.Pos.Offset == at {
					text = fmt.Sprintf("**%s**: a function of %s", f.Name, typ(f.Entity))
				}
			}
		})
		for _, a := range actors {
			if a.Pos.Offset > at || at >= a.End.Offset {
				continue
			}
			if name == a.Type {
				text = d.describe(name)
			} else if name == a.Var {
				text = fmt.Sprintf("**%s**: a variable. %s", name, d.describe(typ(a)))
			}
		}
		return text, text != ""
	}
	return "", false
}

func (d *document) refersTo(typ, property string) string {
	if d.manifest == nil || d.manifest.Types[typ].Properties[property] == "" {
		return ""
	}
	return ", with references to " + d.manifest.Types[typ].Properties[property]
}

// describe says what the manifest does of a type.
func (d *document) describe(typ string) string {
	s := "**" + typ + "**: a type of actors"
	if typ == epl.Any {
		return "**any**: every type of actors"
	}
	if d.manifest == nil {
		return s
	}
	t, ok := d.manifest.Types[typ]
	if !ok {
		return s + " that the manifest hasn't got"
	}
	if t.Doc != "" {
		s = "**" + typ + "**: " + t.Doc
	}
	line := func(what, text string) {
		if text != "" {
			s += "\n- " + what + ": " + text
		}
	}
	var properties []string
	for _, p := range slices.Sorted(maps.Keys(t.Properties)) {
		properties = append(properties, p+" ("+t.Properties[p]+")")
	}
	line("functions", strings.Join(t.Functions, ", "))
	line("properties", strings.Join(properties, ", "))
	line("metrics", strings.Join(t.Metrics, ", "))
	line("state", t.State)
	line("durable", t.Durable)
	return s
}
