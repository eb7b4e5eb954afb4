package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/pelletier/go-toml/v2"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// What a manifest may have.
const (
	maxText  = 1 << 20
	maxDepth = 100 // of brackets
)

// The ways in which an actor's state outlives its server.
var durable = []string{"each-turn", "periodic", "none"}

// Error is one mistake in a manifest. Line and Column begin at 1; they are 0 if the mistake
// has no place.
type Error struct {
	File         string
	Line, Column int
	Message      string
}

// Error gives FILE:LINE:COLUMN: message.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Read reads a manifest and checks that its parts fit each other. The name is that of its
// file, for errors; an error has all mistakes, a line for each, of type *Error.
func Read(name string, text []byte) (*Manifest, error) {
	if len(text) > maxText {
		return nil, &Error{File: name, Message: fmt.Sprintf("the manifest has %d bytes, it may have %d", len(text), maxText)}
	}
	if err := shallow(name, text); err != nil {
		return nil, err
	}
	m := &Manifest{}
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, placed(name, err)
	}
	c := &checker{m: m, file: name, places: places(text)}
	c.check()
	slices.SortStableFunc(c.errs, func(a, b *Error) int { return a.Line - b.Line })
	var all []error
	for _, e := range c.errs {
		all = append(all, e)
	}
	if len(all) > 0 {
		return nil, errors.Join(all...)
	}
	return m, nil
}

// shallow refuses brackets in brackets without end, which would cost the decoder a stack.
func shallow(name string, text []byte) error {
	depth, line := 0, 1
	for _, c := range text {
		switch c {
		case '\n':
			line++
		case '[', '{':
			if depth++; depth > maxDepth {
				return &Error{File: name, Line: line, Column: 1, Message: fmt.Sprintf("brackets are more than %d deep", maxDepth)}
			}
		case ']', '}':
			depth = max(0, depth-1)
		}
	}
	return nil
}

// placed gives the decoder's errors their places.
func placed(name string, err error) error {
	var missing *toml.StrictMissingError
	var one *toml.DecodeError
	switch {
	case errors.As(err, &missing):
		var all []error
		for _, e := range missing.Errors {
			line, column := e.Position()
			keys := []string(e.Key())
			message := fmt.Sprintf("there is no key %q", strings.Join(keys, "."))
			if near := epl.Nearest(keys[len(keys)-1], known(keys)); near != "" {
				message += fmt.Sprintf(", did you mean %q?", near)
			}
			all = append(all, &Error{File: name, Line: line, Column: column, Message: message})
		}
		return errors.Join(all...)
	case errors.As(err, &one):
		line, column := one.Position()
		return &Error{File: name, Line: line, Column: column, Message: strings.TrimPrefix(one.Error(), "toml: ")}
	}
	return &Error{File: name, Message: strings.TrimPrefix(err.Error(), "toml: ")}
}

// known are the keys that can stand where this one does.
func known(keys []string) []string {
	switch {
	case keys[0] == "type" && len(keys) == 3:
		return []string{"doc", "functions", "properties", "metrics", "state", "durable"}
	case keys[0] == "server":
		return []string{"metrics", "memory"}
	case len(keys) == 1:
		return []string{"name", "type", "server"}
	}
	return nil
}

// checker finds what doesn't fit in a manifest.
type checker struct {
	m      *Manifest
	file   string
	places map[string]place
	errs   []*Error
}

// wrong notes a mistake at the key, or the nearest above it that has a place.
func (c *checker) wrong(key []string, format string, args ...any) {
	e := &Error{File: c.file, Message: strings.Join(key, ".") + ": " + fmt.Sprintf(format, args...)}
	for ; len(key) > 0; key = key[:len(key)-1] {
		if p, ok := c.places[path(key)]; ok {
			e.Line, e.Column = p.line, p.column
			break
		}
	}
	c.errs = append(c.errs, e)
}

func (c *checker) check() {
	types := slices.Sorted(maps.Keys(c.m.Types))
	for _, name := range types {
		t, at := c.m.Types[name], []string{"type", name}
		if !epl.IsName(name) {
			c.wrong(at, "a type is named with letters, digits and _, begins with a letter, and isn't a word of the language")
		}
		c.names(append(at, "functions"), t.Functions, "a function", epl.IsMember)
		c.names(append(at, "metrics"), t.Metrics, "a metric", epl.IsMetric)
		for _, property := range slices.Sorted(maps.Keys(t.Properties)) {
			key, to := append(at, "properties", property), t.Properties[property]
			if !epl.IsMember(property) {
				c.wrong(key, "a property is named with letters, digits and _, and begins with a letter")
			}
			if _, ok := c.m.Types[to]; !ok && to != epl.Any {
				c.wrong(key, "there is no type %q%s", to, meant(to, types))
			}
		}
		c.size(append(at, "state"), t.State)
		if t.Durable != "" && !slices.Contains(durable, t.Durable) {
			c.wrong(append(at, "durable"), "want one of %s, found %q", strings.Join(durable, ", "), t.Durable)
		}
	}
	c.names([]string{"server", "metrics"}, c.m.Server.Metrics, "a metric", epl.IsMetric)
	c.size([]string{"server", "memory"}, c.m.Server.Memory)
}

func meant(name string, candidates []string) string {
	if near := epl.Nearest(name, candidates); near != "" {
		return fmt.Sprintf(", did you mean %q?", near)
	}
	return ""
}

func (c *checker) names(key, names []string, what string, ok func(string) bool) {
	seen := map[string]bool{}
	for _, n := range names {
		if !ok(n) {
			c.wrong(key, "%q can't name %s in a policy", n, what)
		} else if seen[n] {
			c.wrong(key, "%q is given twice", n)
		}
		seen[n] = true
	}
}

func (c *checker) size(key []string, text string) {
	if n, err := units.RAMInBytes(text); text != "" && (err != nil || n <= 0) {
		c.wrong(key, "want a size such as 4KiB or 2GiB, found %q", text)
	}
}

// Bytes gives the size that a checked manifest has as text, and 0 if it has none.
func Bytes(size string) int64 {
	n, err := units.RAMInBytes(size)
	if err != nil {
		return 0
	}
	return n
}
