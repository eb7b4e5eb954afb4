// Package tomlfile reads the daemons' configuration files strictly: a key that is not known
// and a value that can't be are errors that say where they stand and what is allowed there.
package tomlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// Load hands what is in the file at path to parse, and puts path before its error. A missing
// file is an error only if required; otherwise parse is not called.
func Load(path string, required bool, parse func(text []byte) error) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := parse(text); err != nil {
		return fmt.Errorf("%s:%w", path, err)
	}
	return nil
}

// Decode reads text over into, a pointer to a struct whose fields, and those of the structs
// in it, have toml tags. Errors start with line and column and are ErrInvalidArgument.
func Decode(text []byte, into any) error {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(into)
	if err == nil {
		return nil
	}
	top := reflect.TypeOf(into).Elem()
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		e := unknown.Errors[0]
		row, col := e.Position()
		key := keyAt(text, row, col, e.Key())
		return fmt.Errorf("%d:%d: unknown key %q, want one of %s: %w", row, col, strings.Join(key, "."),
			strings.Join(keys(top, key[:len(key)-1]), ", "), errdefs.ErrInvalidArgument)
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, col := decode.Position()
		return fmt.Errorf("%d:%d: %s: %w", row, col, strings.TrimPrefix(decode.Error(), "toml: "), errdefs.ErrInvalidArgument)
	}
	// Of a value that its own type refuses and that is no string, the decoder doesn't say
	// where it is.
	row, col := positionOfRefused(text, top)
	return fmt.Errorf("%d:%d: %w: %w", row, col, err, errdefs.ErrInvalidArgument)
}

// field is the type of what a key names, nil if there is no such key.
func field(top reflect.Type, key []string) reflect.Type {
	t := top
	for _, name := range key {
		if t = table(t); t == nil {
			return nil
		}
		next := reflect.Type(nil)
		for i := range t.NumField() {
			// The decoder takes keys in any case.
			if f := t.Field(i); strings.EqualFold(f.Tag.Get("toml"), name) {
				next = f.Type
				break
			}
		}
		if next == nil {
			return nil
		}
		t = next
	}
	return t
}

// table is the struct that a table, or each of a list of tables, is read into; nil if t is
// for no table.
func table(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	return t
}

// keys lists what may stand in a table; in one that there can't be, what may stand in the
// nearest around it.
func keys(top reflect.Type, path []string) []string {
	for ; ; path = path[:len(path)-1] {
		t := field(top, path)
		if t == nil {
			continue
		}
		if t = table(t); t == nil {
			continue
		}
		var names []string
		for i := range t.NumField() {
			names = append(names, t.Field(i).Tag.Get("toml"))
		}
		return names
	}
}
