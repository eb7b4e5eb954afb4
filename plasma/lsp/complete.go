package lsp

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

// Kinds of items, as the protocol numbers them.
const (
	kindFunction = 3
	kindVariable = 6
	kindClass    = 7
	kindProperty = 10
	kindValue    = 12
	kindKeyword  = 14
)

type item struct {
	Label  string `json:"label"`
	Kind   int    `json:"kind"`
	Detail string `json:"detail,omitempty"`
}

// maxBefore is how much of the text before the cursor is looked at.
const maxBefore = 16 << 10

// What stands before the cursor, with the word that is being typed cut off.
var (
	typing    = regexp.MustCompile(`\w*$`)
	actorText = `(\w+)(?:\s*\(\s*(\w+)\s*\))?`
	inMetric  = regexp.MustCompile(actorText + `\s*\.\s*metric\s*\(\s*"[^"\n]*$`)
	inRef     = regexp.MustCompile(`\bref\s*\(\s*` + actorText + `\s*\.$`)
	inCall    = regexp.MustCompile(`\bcall\s*\(\s*` + actorText + `\s*\.$`)
	afterCall = regexp.MustCompile(`\bcall\s*\(\s*` + actorText + `\s*\.\s*\w+\s*\)\s*\.$`)
	ofFeature = regexp.MustCompile(`\.\s*(cpu|mem|net|latency|queue)\s*\.$`)
	ofEntity  = regexp.MustCompile(actorText + `\s*\.$`)
	inBraces  = regexp.MustCompile(`\bbalance\s*\(\s*\{[^}]*$`)
	resource  = regexp.MustCompile(`\b(?:balance\s*\(\s*\{[^}]*\}|reserve\s*\(\s*` + actorText + `)\s*,$`)
	inActors  = regexp.MustCompile(`\b(?:reserve|colocate|separate|pin|call|ref)\s*\((?:[^();]|\(\w*\))*$`)
	ofLevel   = regexp.MustCompile(`\)\s*at$`)
	behaved   = regexp.MustCompile(`\)$`)
	inLimits  = regexp.MustCompile(`\blimits\s*\{[^}]*$`)
	compared  = regexp.MustCompile(`(?:[<>=]\s*[\d.]+[A-Za-z]*|\b(?:over|for)\s+\w+)$`)
	binding   = regexp.MustCompile(`\b(\w+)\s*\(\s*(\w+)\s*\)`)
)

// complete gives the words that can stand at a place.
func (s *server) complete(p positionParams) ([]item, error) {
	d := s.documents[p.TextDocument.URI]
	if d == nil {
		return []item{}, nil
	}
	c := &completer{manifest: d.manifest, paper: s.language(d.uri) == epl.Paper, items: []item{}}
	if c.manifest == nil {
		c.manifest = &manifest.Manifest{}
	}
	offset := d.offset(p.Position)
	for _, o := range d.policy.Comments {
		if offset <= o.Pos.Offset {
			continue
		}
		// A comment to the end of the line goes on behind the spaces that end it.
		if offset < o.End.Offset || strings.HasPrefix(o.Text, "//") && !bytes.ContainsRune(d.text[o.End.Offset:offset], '\n') {
			return c.items, nil
		}
	}
	c.learn(d, offset)
	before := string(d.text[max(0, offset-maxBefore):offset])
	c.at(before)
	return c.items, nil
}

type completer struct {
	manifest *manifest.Manifest
	paper    bool
	types    map[string]string // of variables
	items    []item
}

// learn finds the variables of the rule at the offset: what has the form of Type(variable)
// since the last rule that ends before it.
func (c *completer) learn(d *document, offset int) {
	c.types = map[string]string{}
	from, to := max(0, offset-maxBefore), min(len(d.text), offset+maxBefore)
	for _, r := range d.policy.Rules {
		if r.End.Offset <= offset {
			from = max(from, r.Pos.Offset)
		} else if r.Pos.Offset > offset {
			to = min(to, r.Pos.Offset)
		}
	}
	for _, m := range binding.FindAllStringSubmatch(string(d.text[min(from, to):to]), -1) {
		if (epl.IsName(m[1]) || m[1] == epl.Any) && epl.IsName(m[2]) && m[1] != "ref" {
			c.types[m[2]] = m[1]
		}
	}
}

// at finds out where the cursor is, from what is before it.
func (c *completer) at(before string) {
	if m := inMetric.FindStringSubmatch(before); m != nil {
		c.metrics(m[1])
		return
	}
	before = strings.TrimRight(before[:typing.FindStringIndex(before)[0]], " \t\r\n")
	statement := before[strings.LastIndexByte(before, ';')+1:]
	switch {
	case strings.HasSuffix(before, "."):
		c.member(before)
	case inLimits.MatchString(before) && !strings.Contains(statement, "=>"):
		c.words(limits, kindKeyword)
	case ofLevel.MatchString(before):
		c.words(levels, kindValue)
	case resource.MatchString(before):
		c.words(resources, kindValue)
	case inBraces.MatchString(before):
		c.typeNames()
	case inActors.MatchString(statement):
		c.actors()
	case strings.HasSuffix(before, "=>"):
		c.words(behaviors, kindFunction)
	case before == "" || strings.HasSuffix(before, ";") || strings.HasSuffix(before, "}") || strings.HasSuffix(before, "*/"):
		c.words(behaviors, kindFunction)
		if !c.paper {
			c.words(statements, kindKeyword)
		}
		c.condition()
	case compared.MatchString(before):
		if !c.paper {
			c.words(times, kindKeyword)
		}
		c.words(connectives[:2], kindKeyword)
	case strings.HasSuffix(before, " in") || strings.HasSuffix(before, ")in"):
		c.words(references[1:], kindKeyword)
	case behaved.MatchString(before) && strings.Contains(statement, "=>"):
		c.words(others[2:3], kindKeyword)
	case behaved.MatchString(before):
		c.words(connectives[:2], kindKeyword)
		c.words(references[:1], kindKeyword)
	default:
		c.condition()
	}
}

// member completes what follows a dot.
func (c *completer) member(before string) {
	if m := inRef.FindStringSubmatch(before); m != nil {
		c.names(c.typ(m[1], m[2]), kindProperty, func(t manifest.Type) []string { return slices.Sorted(maps.Keys(t.Properties)) })
		return
	}
	if afterCall.MatchString(before) {
		c.words(callStats, kindValue)
		return
	}
	if m := inCall.FindStringSubmatch(before); m != nil {
		c.names(c.typ(m[1], m[2]), kindFunction, func(t manifest.Type) []string { return t.Functions })
		return
	}
	if m := ofFeature.FindStringSubmatch(before); m != nil {
		switch m[1] {
		case "latency":
			c.words(latencyStats, kindValue)
		case "queue":
			c.words(queueStats, kindValue)
		default:
			c.words(usageStats, kindValue)
		}
		return
	}
	m := ofEntity.FindStringSubmatch(before)
	if m == nil {
		return
	}
	if m[1] == "client" {
		c.words([]word{call}, kindFunction)
		return
	}
	c.words(resources, kindProperty)
	if !c.paper {
		c.words(features, kindProperty)
	}
	if m[1] != "server" {
		c.words([]word{call}, kindFunction)
	}
}

// typ gives the type of Type(variable), Type or variable.
func (c *completer) typ(name, variable string) string {
	if t, ok := c.types[name]; ok && variable == "" {
		return t
	}
	return name
}

func (c *completer) words(all []word, kind int) {
	for _, w := range all {
		c.items = append(c.items, item{w.name, kind, w.doc})
	}
}

// names gives names that a type has in the manifest, or any type.
func (c *completer) names(typ string, kind int, of func(manifest.Type) []string) {
	seen := map[string]bool{}
	for _, t := range slices.Sorted(maps.Keys(c.manifest.Types)) {
		if t != typ && typ != epl.Any {
			continue
		}
		for _, n := range of(c.manifest.Types[t]) {
			if !seen[n] {
				seen[n] = true
				c.items = append(c.items, item{n, kind, "of " + t})
			}
		}
	}
}

func (c *completer) metrics(entity string) {
	if entity == "server" {
		for _, m := range c.manifest.Server.Metrics {
			c.items = append(c.items, item{m, kindValue, "of servers"})
		}
		return
	}
	typ := c.typ(entity, "")
	if t, ok := c.types[entity]; ok {
		typ = t
	}
	c.names(typ, kindValue, func(t manifest.Type) []string { return t.Metrics })
}

func (c *completer) typeNames() {
	for _, t := range slices.Sorted(maps.Keys(c.manifest.Types)) {
		c.items = append(c.items, item{t, kindClass, c.manifest.Types[t].Doc})
	}
	c.words(others[:1], kindKeyword)
}

func (c *completer) actors() {
	for _, v := range slices.Sorted(maps.Keys(c.types)) {
		c.items = append(c.items, item{v, kindVariable, "a " + c.types[v]})
	}
	c.typeNames()
}

// condition completes the beginning of a condition.
func (c *completer) condition() {
	c.words(entities, kindKeyword)
	if c.paper {
		c.words(connectives[3:], kindKeyword)
	} else {
		c.words(connectives[2:], kindKeyword)
	}
	c.actors()
}
