package world

import (
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// places are the lines of a file's tables: "actor 3" is of the fourth [[actor]], "type Folder
// open" of [type.Folder.function.open].
type places map[string]int

// findPlaces finds the tables of a text that is TOML.
func findPlaces(text []byte) places {
	found := places{}
	counts := map[string]int{}
	var p unstable.Parser
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.ArrayTable {
			continue
		}
		var keys []string
		line := 0
		for it := e.Key(); it.Next(); {
			if line == 0 {
				line = p.Shape(it.Node().Raw).Start.Line
			}
			keys = append(keys, string(it.Node().Data))
		}
		if e.Kind == unstable.ArrayTable && len(keys) == 1 {
			found[keys[0]+" "+strconv.Itoa(counts[keys[0]])] = line
			counts[keys[0]]++
			continue
		}
		if len(keys) >= 4 && keys[0] == "type" && keys[2] == "function" {
			keys = []string{"type", keys[1], keys[3]}
		}
		key := strings.Join(keys, " ")
		if _, ok := found[key]; !ok {
			found[key] = line
		}
	}
	return found
}
