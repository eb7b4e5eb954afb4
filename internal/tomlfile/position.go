package tomlfile

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// place is where a key stands in a file.
type place struct {
	path []string // the whole key, tables first
	// key is path as [Position] takes it: dotted, and with the number of the table in a
	// list of them.
	key      string
	row, col int
	values   []string // of a scalar, or of the scalars in a list
}

// reader collects the places of a text.
type reader struct {
	unstable.Parser
	all []place
	// lists counts the tables that each list of tables has so far, by the list's key.
	lists map[string]int
}

// places lists the keys that text sets and the tables it opens, in their order. Where text
// is no TOML, it ends.
func places(text []byte) []place {
	r := reader{lists: map[string]int{}}
	r.Reset(text)
	var top place
	for r.NextExpression() {
		switch e := r.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			top = r.add(place{}, e)
		case unstable.KeyValue:
			r.set(top, e)
		}
	}
	return r.all
}

// add adds the place of the key that e has, in a table.
func (r *reader) add(table place, e *unstable.Node) place {
	pl := place{path: slices.Clone(table.path), key: table.key}
	for it := e.Key(); it.Next(); {
		if pl.row == 0 {
			start := r.Shape(it.Node().Raw).Start
			pl.row, pl.col = start.Line, start.Column
		}
		name := string(it.Node().Data)
		pl.path = append(pl.path, name)
		if pl.key != "" {
			pl.key += "."
		}
		pl.key += name
		if e.Kind == unstable.ArrayTable && it.IsLast() {
			r.lists[pl.key]++
		}
		// What is below a list is below the last of its tables.
		if n := r.lists[pl.key]; n > 0 {
			pl.key = element(pl.key, n-1)
		}
	}
	r.all = append(r.all, pl)
	return pl
}

// element is the key of a table in a list.
func element(list string, n int) string { return fmt.Sprintf("%s[%d]", list, n) }

// set adds the key that e sets in a table, and those in its value.
func (r *reader) set(table place, e *unstable.Node) {
	pl := r.add(table, e)
	i := len(r.all) - 1
	switch v := e.Value(); v.Kind {
	case unstable.InlineTable:
		r.inline(pl, v)
	case unstable.Array:
		tables := 0
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.InlineTable {
				r.inline(place{path: pl.path, key: element(pl.key, tables)}, it.Node())
				tables++
				continue
			}
			r.all[i].values = append(r.all[i].values, string(it.Node().Data))
		}
	default:
		r.all[i].values = []string{string(v.Data)}
	}
}

func (r *reader) inline(table place, v *unstable.Node) {
	for it := v.Children(); it.Next(); {
		r.set(table, it.Node())
	}
}

// Position finds where key is set in text: keys of tables in it are joined by dots, and the
// second of a list of tables is network[1]. For what is not set it is where its table or list
// begins, and 1:1 if that isn't there either: the value is then a default's or follows from
// another's.
func Position(text []byte, key string) (row, col int) {
	all := places(text)
	for {
		for _, pl := range all {
			// The decoder takes keys in any case.
			if strings.EqualFold(pl.key, key) {
				return pl.row, pl.col
			}
		}
		i := strings.LastIndexAny(key, ".[")
		if i < 0 {
			return 1, 1
		}
		key = key[:i]
	}
}

// positionOfRefused finds the first value in text that the type of its key refuses.
func positionOfRefused(text []byte, top reflect.Type) (row, col int) {
	for _, pl := range places(text) {
		t := field(top, pl.path)
		if t == nil {
			continue
		}
		if t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		v, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler)
		if !ok {
			continue
		}
		for _, value := range pl.values {
			if v.UnmarshalText([]byte(value)) != nil {
				return pl.row, pl.col
			}
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
