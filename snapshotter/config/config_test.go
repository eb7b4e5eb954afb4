package config

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/internal/tomlfile"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
)

const gib = 1 << 30

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
		"empty":             {"", func(*Config) {}},
		"comments":          {"# nothing\n\n", func(*Config) {}},
		"root":              {"root = '/data/bao'", func(c *Config) { c.Root = "/data/bao" }},
		"engine":            {"engine = \"overlay\"", func(c *Config) { c.Engine = baoverlay.Overlay }},
		"size as a string":  {"[pool]\nsize = \"1GiB\"", func(c *Config) { c.Pool.Size = gib }},
		"size as a number":  {"[pool]\nsize = 1073741824", func(c *Config) { c.Pool.Size = gib }},
		"size, grouped":     {"[pool]\nsize = 1_073_741_824", func(c *Config) { c.Pool.Size = gib }},
		"size, hexadecimal": {"[pool]\nsize = 0x40000000", func(c *Config) { c.Pool.Size = gib }},
		"size, short unit":  {"[pool]\nsize = \"2g\"", func(c *Config) { c.Pool.Size = 2 * gib }},
		"size, fraction":    {"[pool]\nsize = \"1.5GiB\"", func(c *Config) { c.Pool.Size = gib + gib/2 }},
		"size, no unit":     {"[pool]\nsize = \"1073741824\"", func(c *Config) { c.Pool.Size = gib }},
		"size, chosen":      {"[pool]\nsize = 0", func(*Config) {}},
		"inline table":      {"pool = {size = \"1GiB\", max_size = \"2GiB\"}", func(c *Config) { c.Pool.Size, c.Pool.MaxSize = gib, 2*gib }},
		"dotted keys":       {"pool.size = \"1GiB\"\nmetrics.address = \":9500\"", func(c *Config) { c.Pool.Size, c.Metrics.Address = gib, ":9500" }},
		"max_size is size":  {"[pool]\nsize = \"1GiB\"\nmax_size = \"1GiB\"", func(c *Config) { c.Pool.Size, c.Pool.MaxSize = gib, gib }},
		"device":            {"engine = \"pool-device\"\npool.device = \"/dev/vg/bao\"", func(c *Config) { c.Engine, c.Pool.Device = baoverlay.PoolDevice, "/dev/vg/bao" }},
		"device with auto":  {"pool.device = \"/dev/vg/bao\"", func(c *Config) { c.Pool.Device = "/dev/vg/bao" }},
		"IPv6":              {"metrics.address = \"[::1]:9500\"", func(c *Config) { c.Metrics.Address = "[::1]:9500" }},
		"longest address":   {"address = \"" + strings.Repeat("/a", 53) + "b\"", func(c *Config) { c.Address = strings.Repeat("/a", 53) + "b" }},
		"everything else": {
			"log_level = \"warn\"\nupperdir_label = true\n[pool]\nheadroom = \"8MiB\"\nreserve = \"8MiB\"\nhost_reserve = \"1GiB\"\n[debug]\naddress = \"/run/d\"",
			func(c *Config) {
				c.LogLevel, c.UpperdirLabel, c.Debug.Address = "warn", true, "/run/d"
				c.Pool.Headroom, c.Pool.Reserve, c.Pool.HostReserve = 8<<20, 8<<20, gib
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Load(write(t, c.text), true)
			if err != nil {
				t.Fatal(err)
			}
			want := Default()
			c.want(&want)
			if got != want {
				t.Errorf("read\n%+v, want\n%+v", got, want)
			}
		})
	}
}

func TestBadFiles(t *testing.T) {
	const (
		top   = "want one of root, address, engine, log_level, upperdir_label, pool, metrics, debug"
		table = "want one of device, size, max_size, headroom, reserve, host_reserve"
		size  = "want bytes or a number with a unit such as 512MiB"
	)
	for name, c := range map[string]struct {
		text, at string
		says     []string // what was found and what is allowed
	}{
		"unknown key":               {"\n  rot = 1", "2:3", []string{`"rot"`, top}},
		"unknown table":             {"[pol]\nsize = 1", "1:2", []string{`"pol"`, top}},
		"unknown dotted key":        {"a.b = 1", "1:1", []string{`"a.b"`, top}},
		"unknown in [pool]":         {"[pool]\n syze = 1", "2:2", []string{`"pool.syze"`, table}},
		"unknown in pool, dotted":   {"pool.syze = 1", "1:1", []string{`"pool.syze"`, table}},
		"unknown in pool, inline":   {"pool = {syze = 1}", "1:9", []string{`"pool.syze"`, table}},
		"unknown table in [pool]":   {"[pool.x]\ny = 1", "1:2", []string{`"pool.x"`, table}},
		"unknown in [metrics]":      {"[metrics]\nport = 1", "2:1", []string{`"metrics.port"`, "want one of address"}},
		"empty key":                 {"\"\" = 1", "1:1", []string{`""`, top}},
		"unknown engine":            {"root = \"/a\"\nengine = \"btrfs\"", "2:1", []string{`"btrfs"`, "want one of auto, reflink-host, pool-device, pool-loop, overlay"}},
		"engine is a number":        {"engine = 3", "1:10", []string{"integer", "baoverlay.Engine"}},
		"bad unit":                  {"[pool]\nsize = \"12XB\"", "2:8", []string{`"12XB"`, size}},
		"no number":                 {"[pool]\nreserve = \"lots\"", "2:11", []string{`"lots"`, size}},
		"size is too long a number": {"[pool]\nsize = 9223372036854775808", "2:8", []string{"too large"}},
		"size beyond any disk":      {"[pool]\nsize = 9223372036854775807", "2:1", []string{"9223372036854775807", "0 to 1EiB"}},
		"size overflows":            {"[pool]\nsize = \"99999999999GiB\"", "2:8", []string{`"99999999999GiB"`, size}},
		"negative size":             {"[pool]\nsize = -5", "2:1", []string{"-5", "0 to 1EiB"}},
		"negative, as a string":     {"[pool]\nsize = \"-5GiB\"", "2:8", []string{`"-5GiB"`, size}},
		"negative reserve":          {"pool = {host_reserve = -1}", "1:9", []string{"-1", "0 to 1EiB"}},
		"size is a boolean":         {"upperdir_label = true\n[pool]\nsize = true", "3:1", []string{`"true"`, size}},
		"size is infinite":          {"pool.size = inf", "1:1", []string{`"inf"`, size}},
		"size is an array":          {"[pool]\nsize = [1]", "2:8", []string{"array", "Pool.Size"}},
		"size is too small":         {"[pool]\nsize = \"100MiB\"", "2:1", []string{"at least 512MiB"}},
		"pool-device, no device":    {"engine = \"pool-device\"", "1:1", []string{"pool.device", "block device"}},
		"device with pool-loop":     {"engine = \"pool-loop\"\n[pool]\ndevice = \"/dev/x\"", "3:1", []string{"pool-loop", "pool-device or auto"}},
		"device, dotted":            {"engine = \"pool-loop\"\npool.device = \"/dev/x\"", "2:1", []string{"pool-device or auto"}},
		"device, inline":            {"engine = \"pool-loop\"\npool = {size = \"1GiB\", device = \"/dev/x\"}", "2:24", []string{"pool-device or auto"}},
		"max_size below size":       {"[pool]\nsize = \"2GiB\"\nmax_size = \"1GiB\"", "3:1", []string{"at least pool.size"}},
		"max_size below any pool":   {"[pool]\nmax_size = \"1MiB\"", "2:1", []string{"512MiB"}},
		"headroom below reserve":    {"[pool]\nheadroom = \"1MiB\"\nreserve = \"2MiB\"", "2:1", []string{"at least pool.reserve"}},
		"relative root":             {"root = \"var/lib\"", "1:1", []string{`"var/lib"`, "absolute path"}},
		"root is /":                 {"root = \"/\"", "1:1", []string{"below /"}},
		"empty root":                {"root = \"\"", "1:1", []string{"absolute path"}},
		"colon in root":             {"root = \"/a:b\"", "1:1", []string{`"/a:b"`, "can't have"}},
		"quote in root":             {"root = '/a\"b'", "1:1", []string{"can't have"}},
		"line break in root":        {"root = \"/a\\nb\"", "1:1", []string{"can't have"}},
		"NUL in address":            {"address = \"/a\\u0000b\"", "1:1", []string{"can't have"}},
		"blank in device":           {"pool.device = \"/dev/x y\"", "1:1", []string{"can't have"}},
		"key in capitals":           {"Root = \"var\"", "1:1", []string{"absolute path"}},
		"long address":              {"\naddress = \"" + strings.Repeat("/a", 54) + "\"", "2:1", []string{"at most 107 bytes"}},
		"long debug address":        {"[debug]\naddress = \"" + strings.Repeat("/a", 54) + "\"", "2:1", []string{"at most 107 bytes"}},
		"debug on TCP":              {"[debug]\naddress = \"localhost:6060\"", "2:1", []string{"absolute path"}},
		"log level":                 {"log_level = \"loud\"", "1:1", []string{`"loud"`, "want one of trace, debug, info, warn, error"}},
		"metrics without port":      {"[metrics]\naddress = \"localhost\"", "2:1", []string{`"localhost"`, "host:port"}},
		"metrics, port too high":    {"[metrics]\naddress = \":99999\"", "2:1", []string{`":99999"`, "host:port"}},
		"metrics, IPv6 bare":        {"metrics.address = \"::1\"", "1:1", []string{`"::1"`, "host:port"}},
		"no value":                  {"root =", "1:6", []string{"expected value"}},
		"no end of a string":        {"root = \"/a", "1:10", []string{"unterminated"}},
		"no equal sign":             {"\nroot", "2:4", []string{"'='"}},
		"array for a string":        {"root = [\"/a\"]", "1:8", []string{"array", "string"}},
		"number for a string":       {"root = 3", "1:8", []string{"integer", "string"}},
		"string for a boolean":      {"upperdir_label = \"yes\"", "1:18", []string{"string", "bool"}},
		"number for a table":        {"pool = 3", "1:8", []string{"integer", "config.Pool"}},
		"array of tables":           {"[[pool]]", "1:3", []string{"array table"}},
		"twice":                     {"root = \"/a\"\nroot = \"/b\"", "2:1", []string{"already defined"}},
		"no text":                   {"\xff\xfe", "1:1", []string{"invalid character"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, c.text)
			_, err := Load(path, true)
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("got %v, want ErrInvalidArgument", err)
			}
			if prefix := path + ":" + c.at + ": "; !strings.HasPrefix(err.Error(), prefix) {
				t.Errorf("%q doesn't start with %s", err, prefix)
			}
			for _, what := range c.says {
				if !strings.Contains(err.Error(), what) {
					t.Errorf("%q doesn't say %q", err, what)
				}
			}
			if n := strings.Count(err.Error(), errdefs.ErrInvalidArgument.Error()); n != 1 {
				t.Errorf("%q names its class %d times", err, n)
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

func TestDefaultsReadBack(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c)
}

// roundTrip writes c and reads it back over nothing.
func roundTrip(t *testing.T, c Config) {
	t.Helper()
	text, err := c.Write()
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := back.parse(text); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if back != c {
		t.Errorf("wrote %+v\nread  %+v\n%s", c, back, text)
	}
}

func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	size := func() tomlfile.Size {
		// Sizes of every magnitude, round ones among them.
		n := tomlfile.Size(r.Uint64()) >> (4 + r.IntN(60))
		switch r.IntN(3) {
		case 0:
			return 0
		case 1:
			return max(n&^(1<<20-1), 0)
		}
		return max(n, 0)
	}
	valid := 0
	for range 2000 {
		c := Default()
		c.Engine = baoverlay.Engines[r.IntN(len(baoverlay.Engines))]
		c.UpperdirLabel = r.IntN(2) == 0
		c.Root = []string{"/a", "/ä/ö", "/a/'b'", "/a/#b", "/a/../b/"}[r.IntN(5)]
		c.Metrics.Address = []string{"", ":1", "[::1]:9500"}[r.IntN(3)]
		c.Debug.Address = []string{"", "/run/debug"}[r.IntN(2)]
		c.Pool = Pool{Size: size(), MaxSize: size(), Headroom: size(), Reserve: size(), HostReserve: size()}
		if c.Engine == baoverlay.PoolDevice {
			c.Pool.Device = "/dev/x"
		}
		if c.Validate() == nil {
			valid++
			roundTrip(t, c)
		}
	}
	if valid < 100 {
		t.Errorf("only %d of the configurations were valid", valid)
	}
}

func TestValidateNamesTheKey(t *testing.T) {
	c := Default()
	c.Pool.Size = 1 // a flag could have set it: there is no line to name
	if err := c.Validate(); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "pool.size: ") {
		t.Errorf("got %v", err)
	}
}

func TestLimits(t *testing.T) {
	const total = 100 * gib
	def := pool.DefaultLimits(total)
	for name, c := range map[string]struct {
		pool Pool
		want pool.Limits
	}{
		"defaults": {Pool{}, def},
		"all given": {
			Pool{Size: 1 * gib, MaxSize: 2 * gib, Headroom: 3 << 20, Reserve: 2 << 20, HostReserve: 5 * gib},
			pool.Limits{Initial: gib, Max: 2 * gib, Headroom: 3 << 20, Reserve: 2 << 20, HostReserve: 5 * gib},
		},
		// Growing comes before refusing.
		"reserve above the default headroom": {
			Pool{Reserve: tomlfile.Size(def.Headroom + 1)},
			pool.Limits{Initial: def.Initial, Headroom: def.Headroom + 1, Reserve: def.Headroom + 1, HostReserve: def.HostReserve},
		},
		"headroom below the default reserve": {
			Pool{Headroom: 1},
			pool.Limits{Initial: def.Initial, Headroom: def.Reserve, Reserve: def.Reserve, HostReserve: def.HostReserve},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Pool: c.pool}
			if got := cfg.Limits(total); got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	text, err := Default().Write()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(text), "pool = {size = \"1GiB\", x = 1}", "[pool]\nsize = true", "a.b.c = [1, {d = 2}]", "[[x]]", "pool.size = -1",
	} {
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
		if err := c.Validate(); err != nil {
			t.Errorf("accepted, but %v", err)
		}
		roundTrip(t, c)
	})
}
