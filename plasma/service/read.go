package service

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/peregrine-dev/peregrine/internal/tomlfile"
	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// How long a service's texts may be, in bytes.
const (
	maxService = 32 << 10 // as deep as the decoder then goes, its stack has room
	maxText    = 1 << 20
)

// Bundle is a service with the texts that its file names, as it is sent to a node that has none
// of these files.
type Bundle struct {
	Spec     *Spec
	Service  string // TOML: what Parse reads
	Policy   string // EPL; empty is none
	Manifest string // TOML; empty is none
}

// Read reads a service's file, and the policy and the manifest beside it. These are not looked
// into.
func Read(file string) (*Bundle, error) {
	text, err := readText(file, maxService)
	if err != nil {
		return nil, err
	}
	spec, err := Parse(file, []byte(text))
	if err != nil {
		return nil, err
	}
	b := &Bundle{Spec: spec, Service: text}
	for _, other := range []struct {
		key, name string
		into      *string
	}{{"policy", spec.Policy, &b.Policy}, {"manifest", spec.Manifest, &b.Manifest}} {
		if other.name == "" {
			continue
		}
		if *other.into, err = readText(Beside(file, other.name), maxText); err != nil {
			line, column := tomlfile.Position([]byte(text), other.key)
			return nil, fmt.Errorf("%s:%d:%d: %s: %w", file, line, column, other.key, err)
		}
	}
	return b, nil
}

// Beside is where a file is that a service's file names: relative names begin in its directory.
func Beside(file, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(file), name)
}

func readText(file string, most int64) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", err
	}
	if int64(len(text)) > most {
		return "", fmt.Errorf("%s is longer than the %d bytes it may have: %w", file, most, errdefs.ErrInvalidArgument)
	}
	return string(text), nil
}

// Error is one mistake in a service's file; it is errdefs.ErrInvalidArgument. Line and Column
// begin at 1.
type Error struct {
	File         string
	Line, Column int
	Message      string
}

// Error gives FILE:LINE:COLUMN: message.
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Unwrap classifies the error.
func (e *Error) Unwrap() error { return errdefs.ErrInvalidArgument }

// Parse reads the text of a service's file, fills in what it leaves out, and checks it. The name
// is the file's, for errors; an error has all mistakes, a line for each, of type *Error.
func Parse(name string, text []byte) (*Spec, error) {
	if len(text) > maxService {
		return nil, &Error{name, 1, 1, fmt.Sprintf("the file has %d bytes, it may have %d", len(text), maxService)}
	}
	s := &Spec{}
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(s); err != nil {
		return nil, placed(name, err)
	}
	s.fill()
	c := checker{name: name, text: text}
	c.check(s)
	slices.SortStableFunc(c.errs, func(a, b *Error) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
	var all []error
	for _, e := range c.errs {
		all = append(all, e)
	}
	if err := errors.Join(all...); err != nil {
		return nil, err
	}
	return s, nil
}

// fill sets what was left out.
func (s *Spec) fill() {
	if s.Adopt != nil {
		s.Adopt.Namespace = cmp.Or(s.Adopt.Namespace, "default")
		return // the containers are there already, as they are
	}
	s.Runtime = cmp.Or(s.Runtime, Auto)
	s.Snapshotter = cmp.Or(s.Snapshotter, Auto)
	s.Network = cmp.Or(s.Network, Host)
	s.Servers.Min = cmp.Or(s.Servers.Min, 1)
	s.Servers.Max = cmp.Or(s.Servers.Max, s.Servers.Min)
}

// placed gives the decoder's errors their places.
func placed(name string, err error) error {
	var missing *toml.StrictMissingError
	var one *toml.DecodeError
	switch {
	case errors.As(err, &missing):
		var all []error
		for _, e := range missing.Errors[:min(len(missing.Errors), maxErrors)] {
			line, column := e.Position()
			key := []string(e.Key())
			message := fmt.Sprintf("there is no key %q", strings.Join(key, "."))
			if near := epl.Nearest(key[len(key)-1], known(key[:len(key)-1])); near != "" {
				message += fmt.Sprintf(", did you mean %q?", near)
			}
			all = append(all, &Error{name, line, column, message})
		}
		return errors.Join(all...)
	case errors.As(err, &one):
		line, column := one.Position()
		return &Error{name, line, column, strings.TrimPrefix(one.Error(), "toml: ")}
	}
	return &Error{name, 1, 1, strings.TrimPrefix(err.Error(), "toml: ")}
}

// known are the keys that a table of a service's file may have.
func known(table []string) []string {
	t := reflect.TypeFor[Spec]()
	for _, name := range table {
		i := slices.Index(tags(t), name)
		if i < 0 {
			return nil
		}
		for t = t.Field(i).Type; t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer; {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return nil
		}
	}
	return tags(t)
}

func tags(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		names = append(names, t.Field(i).Tag.Get("toml"))
	}
	return names
}
