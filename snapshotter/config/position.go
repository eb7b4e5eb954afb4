package config

import (
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// position finds where a dotted key is set in text, 1:1 if nowhere: the value is then
// a default's or follows from another's.
func position(text []byte, key string) (row, col int) {
	var (
		p     unstable.Parser
		table []string
	)
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		var (
			path  []string
			where unstable.Range
		)
		for it := e.Key(); it.Next(); {
			path = append(path, string(it.Node().Data))
			where = it.Node().Raw
		}
		switch e.Kind {
		case unstable.Table:
			table = path
		case unstable.KeyValue:
			if strings.Join(append(table[:len(table):len(table)], path...), ".") == key {
				start := p.Shape(where).Start
				return start.Line, start.Column
			}
		}
	}
	return 1, 1
}
