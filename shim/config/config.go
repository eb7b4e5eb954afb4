// Package config reads the configuration of FlashCube: defaults, then the file, then a check
// of the whole. The daemon and the shims read the same file; without one all is as in
// [Default].
package config

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/peregrine-dev/peregrine/internal/tomlfile"
)

// DefaultPath is where the configuration is when nothing else is said. It need not
// exist.
const DefaultPath = "/etc/flashcube/config.toml"

// Config is the whole configuration.
type Config struct {
	// LogLevel is one of containerd's, for the daemon. Shims log as containerd does.
	LogLevel string `toml:"log_level" comment:"trace, debug, info, warn or error."`
	// Fallback is an OCI runtime, by name in PATH or by absolute path.
	Fallback string `toml:"fallback" comment:"The OCI runtime for containers that FlashCube can't run: a name in PATH or an absolute path."`

	Profiles Profiles `toml:"profiles"`
	Metrics  Metrics  `toml:"metrics"`
	Debug    Debug    `toml:"debug"`
}

// Profiles are the kinds of parts that are kept.
type Profiles struct {
	Default Profile `toml:"default"`
}

// Profile bounds how many parts of a kind are kept ready. Between Min and Max it is as
// many as recent starts needed.
type Profile struct {
	Min    int           `toml:"min" comment:"Parts that are ready when nothing was started for long."`
	Max    int           `toml:"max" comment:"Parts that are ready at most; 0 keeps none, every start is cold."`
	Memory tomlfile.Size `toml:"memory" comment:"What ready parts may take together; bounds min, too. Sizes: bytes, or 512MiB, 1GiB, ..."`
	MaxAge Duration      `toml:"max_age" comment:"A part that waits for longer is replaced by a new one. Times: 90s, 10m, 24h, ..."`
}

// Metrics serves Prometheus metrics.
type Metrics struct {
	Address string `toml:"address" comment:"host:port of Prometheus metrics at /metrics; empty: none."`
}

// Debug serves pprof.
type Debug struct {
	Address string `toml:"address" comment:"A unix socket for pprof; empty: none."`
}

// Default is the configuration without a file.
func Default() Config {
	return Config{
		LogLevel: "info",
		Fallback: "runc",
		Profiles: Profiles{Default: Profile{Min: 4, Max: 64, Memory: 512 << 20, MaxAge: Duration(24 * time.Hour)}},
	}
}

// Duration is a time span, written as [time.ParseDuration] reads it.
type Duration time.Duration

// UnmarshalText reads "90s" or "1h30m".
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no time, want a number with a unit such as 90s or 24h", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Load reads the file at path over the defaults. A missing file is an error only if
// required. Errors name the file, where it is known line and column, and what is allowed
// there; they are ErrInvalidArgument.
func Load(path string, required bool) (Config, error) {
	c := Default()
	err := tomlfile.Load(path, required, c.parse)
	return c, err
}

// parse reads text over c. The error starts with line and column, or with a key.
func (c *Config) parse(text []byte) error {
	if err := tomlfile.Decode(text, c); err != nil {
		return err
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf(" %w", err)
	}
	return nil
}

// Validate checks what defaults, file and flags amount to; ErrInvalidArgument.
func (c *Config) Validate() error {
	bad := func(key, format string, args ...any) error {
		return fmt.Errorf("%s: %s: %w", key, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	switch c.LogLevel {
	case "trace", "debug", "info", "warn", "error":
	default:
		return bad("log_level", "unknown level %q, want one of trace, debug, info, warn, error", c.LogLevel)
	}
	if c.Fallback == "" || strings.ContainsRune(c.Fallback, '\x00') || strings.Contains(c.Fallback, "/") && !filepath.IsAbs(c.Fallback) {
		return bad("fallback", "%q is no program, want a name in PATH, such as runc, or an absolute path", c.Fallback)
	}
	const most = 4096
	p := c.Profiles.Default
	switch {
	case p.Max < 0 || p.Max > most:
		return bad("profiles.default.max", "%d is out of bounds, want 0 to %d", p.Max, most)
	case p.Min < 0 || p.Min > p.Max:
		return bad("profiles.default.min", "%d is out of bounds, want 0 to max, which is %d", p.Min, p.Max)
	case p.Memory < 0:
		return bad("profiles.default.memory", "%d is no size", p.Memory)
	case time.Duration(p.MaxAge) < time.Minute:
		return bad("profiles.default.max_age", "%s is too short, want at least 1m", time.Duration(p.MaxAge))
	}
	if c.Metrics.Address != "" {
		_, port, err := net.SplitHostPort(c.Metrics.Address)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return bad("metrics.address", "%q is no host:port, want for example localhost:9501", c.Metrics.Address)
		}
	}
	if a := c.Debug.Address; a != "" && (!filepath.IsAbs(a) || len(a) > 107 || strings.ContainsRune(a, '\x00')) {
		return bad("debug.address", "%q is no socket, want an absolute path of at most 107 bytes", a)
	}
	return nil
}

// Write prints c as a file that Load reads, with a comment on each key.
func (c Config) Write() ([]byte, error) { return toml.Marshal(c) }
