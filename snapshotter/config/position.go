package config

import (
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// place is where a key stands in a file.
type place struct {
	path     []string // the whole key, tables first
	row, col int
	value    string // of a scalar
}

// places lists the keys that text sets and the tables it opens, in their order.
func places(text []byte) []place {
	var (
		p     unstable.Parser
		table []string
		all   []place
	)
	add := func(table []string, e *unstable.Node) *place {
		pl := place{path: slices.Clone(table)}
		for it := e.Key(); it.Next(); {
			if pl.row == 0 {
				start := p.Shape(it.Node().Raw).Start
				pl.row, pl.col = start.Line, start.Column
			}
			pl.path = append(pl.path, string(it.Node().Data))
		}
		all = append(all, pl)
		return &all[len(all)-1]
	}
	var set func(table []string, e *unstable.Node)
	set = func(table []string, e *unstable.Node) {
		pl := add(table, e)
		pl.value = string(e.Value().Data)
		if e.Value().Kind == unstable.InlineTable {
			path := pl.path
			for it := e.Value().Children(); it.Next(); {
				set(path, it.Node())
			}
		}
	}
	p.Reset(text)
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = add(nil, e).path
		case unstable.KeyValue:
			set(table, e)
		}
	}
	return all
}

// position finds where a dotted key is set in text, 1:1 if nowhere: the value is then
// a default's or follows from another's.
func position(text []byte, key string) (row, col int) {
	for _, pl := range places(text) {
		// The decoder takes keys in any case.
		if strings.EqualFold(strings.Join(pl.path, "."), key) {
			return pl.row, pl.col
		}
	}
	return 1, 1
}

// positionOfValue finds which size text sets to value, as written.
func positionOfValue(text []byte, value string) (row, col int) {
	for _, pl := range places(text) {
		if strings.EqualFold(pl.path[0], "pool") && pl.value == value {
			return pl.row, pl.col
		}
	}
	return 1, 1
}

// keyAt is the whole key at a position: what the decoder calls a key leaves out the
// table that an inline table is the value of.
func keyAt(text []byte, row, col int, key []string) []string {
	for _, pl := range places(text) {
		if pl.row == row && pl.col == col {
			return pl.path
		}
	}
	return key
}
