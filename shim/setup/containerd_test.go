package setup

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/peregrine-dev/peregrine/integration/harness"
)

// stock puts a containerd of a line on PATH.
// annotations are those that CRI passes on.
const annotations = "peregrine.dev/flashcube.*"

func stock(t *testing.T, version string) {
	t.Helper()
	cache, err := harness.Cache()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, map[string]string{"2.4": "containerd-2.4", "1.7": "containerd-1.7", "1.6": "debian/usr/bin"}[version])
	if _, err := os.Stat(filepath.Join(dir, "containerd")); err != nil {
		t.Fatalf("stock parts are missing (%v); run make stock", err)
	}
	t.Setenv("PATH", dir)
}

func TestDropIn(t *testing.T) {
	fallback := []string{annotations}
	for _, path := range []string{"", "/opt/bün/" + shimBinary} {
		text, err := DropIn(path)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Version int `toml:"version"`
			Plugins map[string]struct {
				Containerd struct {
					Runtimes map[string]struct {
						Type string `toml:"runtime_type"`
						Path string `toml:"runtime_path"`

						Pod       []string `toml:"pod_annotations"`
						Container []string `toml:"container_annotations"`
					} `toml:"runtimes"`
				} `toml:"containerd"`
			} `toml:"plugins"`
		}
		// All that is written is known here: nothing may be there by mistake.
		if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&got); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		r := got.Plugins["io.containerd.grpc.v1.cri"].Containerd.Runtimes["flashcube"]
		if got.Version != 2 || r.Type != Runtime || r.Path != path ||
			!slices.Equal(r.Pod, fallback) || !slices.Equal(r.Container, fallback) {
			t.Errorf("%+v in\n%s", got, text)
		}
		if s := section(text); !strings.HasPrefix(s, "[plugins.") || !strings.Contains(s, "runtime_type") {
			t.Errorf("its section is\n%s", s)
		}
	}
}

// TestMerges is why a drop-in is not written for every containerd.
func TestMerges(t *testing.T) {
	want := map[string]bool{"2.4": true, "1.7": false, "1.6": false}
	for _, version := range harness.Versions {
		t.Run(version, func(t *testing.T) {
			stock(t, version)
			for _, path := range []string{"", "/opt/bin/" + shimBinary} {
				text, err := DropIn(path)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := merges(t.Context(), "", text); err != nil || got != want[version] {
					t.Errorf("merges: %v, %v; want %v", got, err, want[version])
				}
			}
		})
	}
}

// TestAccepted has every containerd read what install writes or tells to write.
func TestAccepted(t *testing.T) {
	for _, version := range harness.Versions {
		t.Run(version, func(t *testing.T) {
			stock(t, version)
			text, err := DropIn("/opt/bin/" + shimBinary)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			dump, err := containerdConfig(t.Context(), "", "--config", file, "config", "dump")
			if err != nil {
				t.Fatal(err)
			}
			if all, err := handlers(dump); err != nil || !all[Name] {
				t.Errorf("knows %v, %v", all, err)
			}
			for _, text := range []string{"/opt/bin/" + shimBinary, Runtime, annotations} {
				if !bytes.Contains(dump, []byte(text)) {
					t.Errorf("lost %s:\n%s", text, dump)
				}
			}
		})
	}
}

func TestAdvise(t *testing.T) {
	advice := func(t *testing.T) string {
		t.Helper()
		var out bytes.Buffer
		if err := Advise(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for version, want := range map[string]string{
		"2.4": "have imports in /etc/containerd/config.toml name it",
		"1.7": "  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.flashcube]\n    runtime_type",
	} {
		t.Run(version, func(t *testing.T) {
			stock(t, version)
			if got := advice(t); !strings.Contains(got, want) {
				t.Errorf("said\n%s", got)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		program(t, nil)
		if got := advice(t); !strings.Contains(got, "there is no containerd yet") || !strings.Contains(got, "--runtime") {
			t.Errorf("said\n%s", got)
		}
	})
	t.Run("broken", func(t *testing.T) {
		program(t, map[string]string{"containerd": "echo no such key >&2; exit 1"})
		if got := advice(t); !strings.Contains(got, "no such key") {
			t.Errorf("said\n%s", got)
		}
	})
	t.Run("registered", func(t *testing.T) {
		program(t, map[string]string{"containerd": `echo '[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.flashcube]'`})
		if got := advice(t); strings.Contains(got, "CRI") {
			t.Errorf("said\n%s", got)
		}
	})
}

func TestHandlers(t *testing.T) {
	for text, want := range map[string]bool{
		"": false,
		`[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.flashcube]`:    true,
		`[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.flashcube]`: true,
		`[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]`:      false,
		`[plugins."io.containerd.cri.v1.runtime"]` + "\ncontainerd = 3":          false,
	} {
		if all, err := handlers([]byte(text)); err != nil || all[Name] != want {
			t.Errorf("%q: %v, %v", text, all, err)
		}
	}
	if _, err := handlers([]byte("[")); err == nil {
		t.Error("read what is no TOML")
	}
}

// TestBehind asks a daemon for its PATH, which is this process.
func TestBehind(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if got := behind(t.Context(), socket); got.running || got.path != usualPath {
		t.Errorf("nobody has %+v", got)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// The environment that a process began with; what it set since is not in /proc.
	text, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		t.Fatal(err)
	}
	got := behind(t.Context(), socket)
	if !got.running || !strings.Contains("\x00"+string(text), "\x00PATH="+got.path+"\x00") {
		t.Errorf("got %+v", got)
	}
}

func TestRuntimePath(t *testing.T) {
	bin := t.TempDir()
	for path, want := range map[string]string{
		"/usr/bin:" + bin: "",
		"/usr/bin":        filepath.Join(bin, shimBinary),
		"":                filepath.Join(bin, shimBinary),
	} {
		if got := runtimePath(bin, containerd{path: path}); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
