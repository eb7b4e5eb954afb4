package manifest_test

import (
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

const good = `name = "metadata"

[type.Folder]
doc = "a directory"
functions = ["open", "list"]
properties = { files = "File" }
metrics = ["entries"]
state = "4KiB"
durable = "each-turn"

[type.File]
functions = ["read"]

[server]
metrics = ["http_inflight"]
`

func TestRead(t *testing.T) {
	m, err := manifest.Read("m.toml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	folder := m.Types["Folder"]
	if m.Name != "metadata" || len(m.Types) != 2 || folder.Properties["files"] != "File" || folder.State != "4KiB" || m.Server.Metrics[0] != "http_inflight" {
		t.Errorf("%+v", m)
	}
}

// Each mistake is told with its place.
func TestRefused(t *testing.T) {
	for _, test := range []struct{ old, new, want string }{
		{`functions = ["open", "list"]`, `function = ["open"]`, `m.toml:5:1: there is no key "type.Folder.function", did you mean "functions"?`},
		{`files = "File"`, `files = "Fil"`, `m.toml:6:`},
		{`"4KiB"`, `"4 potatoes"`, `m.toml:8:`},
		{`"each-turn"`, `"sometimes"`, `m.toml:9:`},
		{`["read"]`, `["read`, `m.toml:12:`},
		{`["open", "list"]`, `["open", "open"]`, `m.toml:5:`},
		{`["open", "list"]`, `["not a name"]`, `m.toml:5:`},
		{`name = "metadata"`, strings.Repeat("[", 200), `brackets are more than 100 deep`},
		{`name = "metadata"`, strings.Repeat("#", 1<<20+1), `it may have 1048576`},
	} {
		text := strings.Replace(good, test.old, test.new, 1)
		m, err := manifest.Read("m.toml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.40s: %v, %v; want %q", test.new, m, err, test.want)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("[type.A]\nproperties = { a = \"A\" }"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := manifest.Read("m.toml", text); (m == nil) == (err == nil) {
			t.Errorf("%v, %v", m, err)
		}
	})
}
