package manifest

import (
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// place is where a key is; both begin at 1.
type place struct{ line, column int }

// path is a key as the index of a map.
func path(key []string) string { return strings.Join(key, "\x00") }

// places finds the keys of a text that the decoder has understood.
func places(text []byte) map[string]place {
	found := map[string]place{}
	var p unstable.Parser
	p.Reset(text)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = note(&p, found, nil, e)
		case unstable.KeyValue:
			pair(&p, found, table, e)
		}
	}
	return found
}

// note notes the key of a node below another, and gives it whole.
func note(p *unstable.Parser, found map[string]place, above []string, n *unstable.Node) []string {
	key := slices.Clone(above)
	for it := n.Key(); it.Next(); {
		part := it.Node()
		key = append(key, string(part.Data))
		if _, ok := found[path(key)]; !ok {
			start := p.Shape(part.Raw).Start
			found[path(key)] = place{start.Line, start.Column}
		}
	}
	return key
}

// pair notes a key, and those of its value if that is a table.
func pair(p *unstable.Parser, found map[string]place, above []string, n *unstable.Node) {
	key := note(p, found, above, n)
	if v := n.Value(); v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			if child := it.Node(); child.Kind == unstable.KeyValue {
				pair(p, found, key, child)
			}
		}
	}
}
