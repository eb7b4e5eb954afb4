package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGoodFiles(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want func(*Config)
	}{
		"empty":    {"", func(*Config) {}},
		"fallback": {"fallback = '/opt/bin/crun'", func(c *Config) { c.Fallback = "/opt/bin/crun" }},
		"profile": {
			"[profiles.default]\nmin = 0\nmax = 128\nmemory = '1GiB'\nmax_age = '90m'",
			func(c *Config) { c.Profiles.Default = Profile{0, 128, 1 << 30, Duration(90 * time.Minute)} },
		},
		"no pool":        {"profiles.default = {min = 0, max = 0}", func(c *Config) { c.Profiles.Default.Min, c.Profiles.Default.Max = 0, 0 }},
		"bytes":          {"profiles.default.memory = 1234", func(c *Config) { c.Profiles.Default.Memory = 1234 }},
		"all the others": {"log_level = 'debug'\nmetrics.address = '[::1]:9501'\ndebug.address = '/run/d'", func(c *Config) { c.LogLevel, c.Metrics.Address, c.Debug.Address = "debug", "[::1]:9501", "/run/d" }},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Load(write(t, c.text), true)
			if err != nil {
				t.Fatal(err)
			}
			want := Default()
			if c.want(&want); got != want {
				t.Errorf("read\n%+v, want\n%+v", got, want)
			}
		})
	}
}

func TestBadFiles(t *testing.T) {
	for name, c := range map[string]struct{ text, at, says string }{
		"unknown key":     {"\n  fall = 1", ":2:3: ", "want one of log_level, fallback, profiles, metrics, debug"},
		"unknown profile": {"[profiles.python]\nmin = 1", ":1:2: ", "want one of default"},
		"unknown bound":   {"[profiles.default]\nmini = 1", ":2:1: ", "want one of min, max, memory, max_age"},
		"no number":       {"[profiles.default]\nmin = 'x'", ":2:7: ", "string"},
		"min above max":   {"[profiles.default]\nmin = 65", ": ", "profiles.default.min: 65 is out of bounds, want 0 to max, which is 64"},
		"negative":        {"[profiles.default]\nmin = -1", ": ", "out of bounds"},
		"max too large":   {"[profiles.default]\nmax = 5000", ": ", "want 0 to 4096"},
		"no size":         {"[profiles.default]\nmemory = 'lots'", ":", "is no size"},
		"negative size":   {"[profiles.default]\nmemory = -1", ":", "is no size"},
		"no time":         {"[profiles.default]\nmax_age = 'soon'", ":", "is no time"},
		"short":           {"[profiles.default]\nmax_age = '1s'", ": ", "at least 1m"},
		"log level":       {"log_level = 'loud'", ": ", "want one of trace"},
		"no fallback":     {"fallback = ''", ": ", "such as runc"},
		"relative":        {"fallback = 'bin/runc'", ": ", "an absolute path"},
		"metrics":         {"metrics.address = 'localhost'", ": ", "host:port"},
		"debug":           {"debug.address = 'localhost:1'", ": ", "absolute path"},
		"no TOML":         {"fallback =", ":1:", "expected value"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, c.text)
			_, err := Load(path, true)
			if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), path+c.at) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want it to begin with %s%s and to say %q", err, path, c.at, c.says)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.toml")
	if got, err := Load(path, false); err != nil || got != Default() {
		t.Errorf("not required: %+v, %v; want the defaults", got, err)
	}
	if _, err := Load(path, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("required: %v, want ErrNotExist", err)
	}
}

func roundTrip(t *testing.T, c Config) {
	t.Helper()
	text, err := c.Write()
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := back.parse(text); err != nil || back != c {
		t.Errorf("wrote %+v\nread  %+v, %v\n%s", c, back, err, text)
	}
}

func TestDefaultsReadBack(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c)
}

func FuzzParse(f *testing.F) {
	text, err := Default().Write()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(text), "profiles = {default = {max = 1, x = 1}}", "[profiles.default]\nmemory = true", "a.b.c = [1, {d = 2}]", "[[x]]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := Default()
		if err := c.parse([]byte(text)); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v is not ErrInvalidArgument", err)
			}
			return
		}
		roundTrip(t, c)
	})
}
