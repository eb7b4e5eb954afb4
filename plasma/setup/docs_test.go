package setup

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// block is a fenced block of Markdown in TOML.
var block = regexp.MustCompile("(?s)```toml\n(.*?)```\n")

// TestDocs has every example of a file in the documentation read by what will read it.
func TestDocs(t *testing.T) {
	for file, want := range map[string]struct{ configs, services int }{
		"plasmad.md":  {2, 1},
		"tutorial.md": {0, 2},
	} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../../docs/plasma", file))
			if err != nil {
				t.Fatal(err)
			}
			configs, services := 0, 0
			for _, b := range block.FindAllStringSubmatch(string(text), -1) {
				if example := b[1]; strings.Contains(example, "image = ") {
					services++
					if _, err := service.Parse(file, []byte(example)); err != nil {
						t.Errorf("%v in\n%s", err, example)
					}
				} else {
					configs++
					path := filepath.Join(t.TempDir(), "config.toml")
					if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
						t.Fatal(err)
					}
					if _, err := config.Load(path, true); err != nil {
						t.Errorf("%v in\n%s", err, example)
					}
				}
			}
			if configs < want.configs || services < want.services {
				t.Errorf("found %d configurations and %d services, want %+v", configs, services, want)
			}
		})
	}
}

// TestReference has each key of the configuration in the reference.
func TestReference(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, reference, found := strings.Cut(string(text), "`"+config.DefaultPath+"`")
	if !found {
		t.Fatalf("the reference has no section on %s", config.DefaultPath)
	}
	defaults, err := config.Default().Write()
	if err != nil {
		t.Fatal(err)
	}
	table := ""
	for line := range strings.Lines(string(defaults)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			table = strings.TrimSuffix(name, "]") + "."
		}
		key, _, ok := strings.Cut(line, " = ")
		if ok && !strings.HasPrefix(line, "#") && !strings.Contains(reference, "`"+table+key+"`") {
			t.Errorf("the reference doesn't tell of %s%s", table, key)
		}
	}
}
