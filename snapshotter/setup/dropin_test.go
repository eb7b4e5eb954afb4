package setup

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/pelletier/go-toml/v2"

	"github.com/peregrine-dev/peregrine/snapshotter/config"
)

func platform() string { return platforms.Format(platforms.DefaultSpec()) }

func ours() Unpack { return Unpack{Platform: platform(), Snapshotter: Name, Differ: "walking"} }

func TestDropIn(t *testing.T) {
	cfg := config.Default()
	cfg.Root, cfg.Address = "/data/bao'o", "/run/bäo/s.sock"
	stock := DefaultUnpack()[0]
	special := Unpack{Platform: "linux/arm64", Snapshotter: "native", Optional: true}
	old := Unpack{Platform: "linux/s390x", Snapshotter: Name, Differ: "old"}
	for name, c := range map[string]struct{ before, after []Unpack }{
		"stock":                {DefaultUnpack(), []Unpack{stock, ours()}},
		"nothing":              {nil, []Unpack{ours()}},
		"another":              {[]Unpack{stock, special}, []Unpack{stock, special, ours()}},
		"installed before":     {[]Unpack{stock, ours()}, []Unpack{stock, ours()}},
		"an older one of ours": {[]Unpack{old, stock}, []Unpack{stock, ours()}},
	} {
		t.Run(name, func(t *testing.T) {
			before := append([]Unpack(nil), c.before...)
			text, err := DropIn(cfg, c.before)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(append([]Unpack(nil), c.before...), before) {
				t.Errorf("changed what it was given to %+v", c.before)
			}
			var got struct {
				Version int `toml:"version"`
				Proxy   map[string]struct {
					Type         string            `toml:"type"`
					Address      string            `toml:"address"`
					Platform     string            `toml:"platform"`
					Capabilities []string          `toml:"capabilities"`
					Exports      map[string]string `toml:"exports"`
				} `toml:"proxy_plugins"`
				Plugins map[string]struct {
					Unpack []Unpack `toml:"unpack_config"`
				} `toml:"plugins"`
			}
			// All that is written is known here: nothing may be there by mistake.
			if err := toml.NewDecoder(strings.NewReader(string(text))).DisallowUnknownFields().Decode(&got); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			proxy := got.Proxy[Name]
			if got.Version != 2 || len(got.Proxy) != 1 || len(got.Plugins) != 1 ||
				proxy.Type != "snapshot" || proxy.Address != cfg.Address || proxy.Platform != platform() ||
				!reflect.DeepEqual(proxy.Capabilities, capabilities()) ||
				!reflect.DeepEqual(proxy.Exports, map[string]string{"root": cfg.Root}) {
				t.Errorf("%+v in\n%s", got, text)
			}
			if unpack := got.Plugins["io.containerd.transfer.v1.local"].Unpack; !reflect.DeepEqual(unpack, c.after) {
				t.Errorf("unpacks into %+v, want %+v", unpack, c.after)
			}
			// What is read back of it is what it would be given the next time.
			again, err := unpackOf(text)
			if err != nil || !reflect.DeepEqual(again, c.after) {
				t.Errorf("read back %+v, %v", again, err)
			}
		})
	}
}

func TestUnpackOf(t *testing.T) {
	const transfer = `[plugins."io.containerd.transfer.v1.local"]`
	for name, c := range map[string]struct {
		dump string
		want []Unpack
		bad  bool
	}{
		"empty":             {"", DefaultUnpack(), false},
		"no plugins":        {"version = 3\n", DefaultUnpack(), false},
		"no transfer":       {"[plugins.\"io.containerd.gc.v1.scheduler\"]\nx = 1\n", DefaultUnpack(), false},
		"no unpack_config":  {transfer + "\nmax_concurrent_downloads = 3\n", DefaultUnpack(), false},
		"null":              {transfer + "\nconfig_path = ''\n", DefaultUnpack(), false},
		"empty list":        {transfer + "\nunpack_config = []\n", nil, false},
		"an inline table":   {transfer + "\nunpack_config = [{platform = 'linux/amd64', snapshotter = 'btrfs', differ = 'x'}]\n", []Unpack{{Platform: "linux/amd64", Snapshotter: "btrfs", Differ: "x", Optional: false}}, false},
		"unknown keys":      {transfer + "\nunpack_config = [{platform = 'p', snapshotter = 's', limit = 3}]\n", []Unpack{{Platform: "p", Snapshotter: "s", Differ: "", Optional: false}}, false},
		"not TOML":          {"[", nil, true},
		"of another shape":  {transfer + "\nunpack_config = [3]\n", nil, true},
		"plugins is a word": {"plugins = 'x'", nil, true},
		"overlayfs, another snapshotter and a differ": {
			transfer + "\n[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = 'linux/amd64'\nsnapshotter = 'overlayfs'\ndiffer = ''\n" +
				"[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = 'linux/amd64'\nsnapshotter = 'erofs'\ndiffer = 'erofs'\noptional = true\n",
			[]Unpack{{Platform: "linux/amd64", Snapshotter: "overlayfs", Differ: "", Optional: false}, {Platform: "linux/amd64", Snapshotter: "erofs", Differ: "erofs", Optional: true}},
			false,
		},
		"ours already": {
			transfer + "\nunpack_config = [{platform = 'linux/amd64', snapshotter = 'baoverlay', differ = 'walking'}]\n",
			[]Unpack{{Platform: "linux/amd64", Snapshotter: Name, Differ: "walking"}},
			false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := unpackOf([]byte(c.dump))
			if (err != nil) != c.bad {
				t.Fatalf("error %v", err)
			}
			if err == nil && (len(got) > 0 || len(c.want) > 0) && !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// containerd puts a containerd on PATH that answers "config dump" by a script.
func containerd(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if script != "" {
		if err := os.WriteFile(filepath.Join(dir, "containerd"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestHostUnpack(t *testing.T) {
	t.Run("no containerd", func(t *testing.T) {
		containerd(t, "")
		if got, err := hostUnpack(t.Context()); err != nil || !reflect.DeepEqual(got, DefaultUnpack()) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("of before 1.7", func(t *testing.T) {
		containerd(t, "echo 'version = 2'")
		if got, err := hostUnpack(t.Context()); err != nil || !reflect.DeepEqual(got, DefaultUnpack()) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("whose configuration is broken", func(t *testing.T) {
		containerd(t, "exit 1")
		if _, err := hostUnpack(t.Context()); err == nil || !strings.Contains(err.Error(), "containerd config dump") {
			t.Errorf("got %v", err)
		}
	})
}
