// Package config reads the configuration of the BAOverlay snapshotter: defaults,
// then the file, then flags, then a check of the whole.
package config

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pelletier/go-toml/v2"

	"github.com/peregrine-dev/peregrine/internal/tomlfile"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
)

// DefaultPath is where the configuration is when nothing else is said. It need not
// exist.
const DefaultPath = "/etc/baoverlay/config.toml"

// Config is the whole configuration.
type Config struct {
	// Root is the directory for images, snapshots and the pool.
	Root string `toml:"root" comment:"Where snapshots and the pool are kept."`
	// Address is the unix socket that containerd connects to.
	Address string `toml:"address" comment:"The unix socket that containerd connects to."`
	// Engine is where the file system with reflinks comes from.
	Engine baoverlay.Engine `toml:"engine" comment:"auto, reflink-host, pool-device, pool-loop or overlay."`
	// LogLevel is one of containerd's.
	LogLevel string `toml:"log_level" comment:"trace, debug, info, warn or error."`

	// UpperdirLabel is the stock snapshotter's option of that name.
	UpperdirLabel bool `toml:"upperdir_label" comment:"Label snapshots with containerd.io/snapshot/overlay.upperdir."`

	Pool    Pool    `toml:"pool"`
	Metrics Metrics `toml:"metrics"`
	Debug   Debug   `toml:"debug"`
}

// Pool bounds the space that snapshots take. A size of 0 is chosen by the size of the
// host's file system.
type Pool struct {
	Device      string        `toml:"device" comment:"The block device of engine pool-device. It must be blank or a pool."`
	Size        tomlfile.Size `toml:"size" comment:"What a new image file starts with. Sizes: bytes, or 512MiB, 8GiB, ...; 0 fits the host."`
	MaxSize     tomlfile.Size `toml:"max_size" comment:"What the image file never exceeds; 0: as far as host_reserve allows."`
	Headroom    tomlfile.Size `toml:"headroom" comment:"With less free in the pool, it grows."`
	Reserve     tomlfile.Size `toml:"reserve" comment:"With less free in the pool, and nothing to grow by, no snapshot is prepared."`
	HostReserve tomlfile.Size `toml:"host_reserve" comment:"What growing leaves free on the host's file system."`
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
		Root:     "/var/lib/baoverlay",
		Address:  "/run/baoverlay/baoverlay.sock",
		Engine:   baoverlay.Auto,
		LogLevel: "info",
	}
}

// Load reads the file at path over the defaults. A missing file is an error only if
// required. Errors name file, line and column, and what is allowed there; they are
// ErrInvalidArgument.
func Load(path string, required bool) (Config, error) {
	c := Default()
	err := tomlfile.Load(path, required, c.parse)
	return c, err
}

// parse reads text over c. The error starts with line and column.
func (c *Config) parse(text []byte) error {
	if err := tomlfile.Decode(text, c); err != nil {
		return err
	}
	if bad := c.check(); bad != nil {
		row, col := tomlfile.Position(text, bad.key)
		return fmt.Errorf("%d:%d: %s: %w", row, col, bad.reason, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Validate checks what defaults, file and flags amount to; ErrInvalidArgument.
func (c *Config) Validate() error {
	if bad := c.check(); bad != nil {
		return fmt.Errorf("%s: %s: %w", bad.key, bad.reason, errdefs.ErrInvalidArgument)
	}
	return nil
}

// fault is a value that can't be.
type fault struct{ key, reason string }

func (c *Config) check() *fault {
	paths := []struct{ key, value string }{{"root", c.Root}, {"address", c.Address}}
	if c.Pool.Device != "" {
		paths = append(paths, struct{ key, value string }{"pool.device", c.Pool.Device})
	}
	if c.Debug.Address != "" {
		paths = append(paths, struct{ key, value string }{"debug.address", c.Debug.Address})
	}
	for _, p := range paths {
		if !filepath.IsAbs(p.value) || p.value == "/" {
			return &fault{p.key, fmt.Sprintf("%q is no absolute path below /", p.value)}
		}
		if strings.ContainsAny(p.value, `:,\"%`) || strings.ContainsFunc(p.value, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return &fault{p.key, fmt.Sprintf(`%q has one of : , \ " %% or white space, which mount options and systemd's units can't have`, p.value)}
		}
	}
	for _, s := range []struct{ key, path string }{{"address", c.Address}, {"debug.address", c.Debug.Address}} {
		if len(s.path) > 107 {
			return &fault{s.key, "a unix socket's path has at most 107 bytes"}
		}
	}
	if err := c.Engine.Check(); err != nil {
		return &fault{"engine", err.Error()}
	}
	switch c.LogLevel {
	case "trace", "debug", "info", "warn", "error":
	default:
		return &fault{"log_level", fmt.Sprintf("unknown level %q, want one of %s, %s, %s, %s, %s", c.LogLevel,
			log.TraceLevel, log.DebugLevel, log.InfoLevel, "warn", log.ErrorLevel)}
	}
	if c.Engine == baoverlay.PoolDevice && c.Pool.Device == "" {
		return &fault{"engine", "pool-device needs pool.device, the path of a block device"}
	}
	if c.Pool.Device != "" && c.Engine != baoverlay.PoolDevice && c.Engine != baoverlay.Auto {
		return &fault{"pool.device", fmt.Sprintf("engine %s uses no device; want engine pool-device or auto", c.Engine)}
	}
	if c.Metrics.Address != "" {
		_, port, err := net.SplitHostPort(c.Metrics.Address)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return &fault{"metrics.address", fmt.Sprintf("%q is no host:port, want for example localhost:9500", c.Metrics.Address)}
		}
	}
	return c.Pool.check()
}

func (p Pool) check() *fault {
	const smallest, largest = 512 << 20, 1 << 60
	for _, s := range []struct {
		key  string
		size tomlfile.Size
	}{{"size", p.Size}, {"max_size", p.MaxSize}, {"headroom", p.Headroom}, {"reserve", p.Reserve}, {"host_reserve", p.HostReserve}} {
		if s.size < 0 || s.size > largest {
			return &fault{"pool." + s.key, fmt.Sprintf("%d is no size, want 0 to 1EiB", s.size)}
		}
	}
	if p.Size > 0 && p.Size < smallest {
		return &fault{"pool.size", "a pool has at least 512MiB"}
	}
	if p.MaxSize > 0 && p.MaxSize < max(p.Size, smallest) {
		return &fault{"pool.max_size", "must be at least pool.size and 512MiB, or 0 for no bound"}
	}
	if p.Headroom > 0 && p.Headroom < p.Reserve {
		return &fault{"pool.headroom", "must be at least pool.reserve: growing has to come before refusing"}
	}
	return nil
}

// Limits returns the pool's limits on a host file system of total bytes.
func (c *Config) Limits(total int64) pool.Limits {
	l := pool.DefaultLimits(total)
	for _, o := range []struct {
		to   *int64
		from tomlfile.Size
	}{{&l.Initial, c.Pool.Size}, {&l.Headroom, c.Pool.Headroom}, {&l.Reserve, c.Pool.Reserve}, {&l.HostReserve, c.Pool.HostReserve}, {&l.Max, c.Pool.MaxSize}} {
		if o.from > 0 {
			*o.to = int64(o.from)
		}
	}
	// A reserve alone moves the headroom with it.
	l.Headroom = max(l.Headroom, l.Reserve)
	return l
}

// Write prints c as a file that Load reads, with a comment on each key.
func (c Config) Write() ([]byte, error) { return toml.Marshal(c) }
