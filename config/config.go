// Package config holds the files that peregrine install writes, as templates in
// directories that mirror the host's.
package config

import (
	"bytes"
	"embed"
	"fmt"
	"strings"
	"text/template"
)

//go:embed etc
var files embed.FS

// Render fills in the template of the host's file at path, an absolute path. It
// panics where there is no such template: that is a mistake in the program.
func Render(path string, values any) ([]byte, error) {
	text, err := files.ReadFile(strings.TrimPrefix(path, "/"))
	if err != nil {
		panic(err)
	}
	t, err := template.New(path).Option("missingkey=error").Parse(string(text))
	if err != nil {
		panic(err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, values); err != nil {
		return nil, fmt.Errorf("fill in %s: %w", path, err)
	}
	return out.Bytes(), nil
}
