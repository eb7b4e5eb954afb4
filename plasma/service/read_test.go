package service_test

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

const good = `name = "counter"
image = "docker.io/library/counter:1"
command = ["/counter"]
env = ["GREETING=hello"]
policy = "counter.epl"
manifest = "counter.manifest.toml"
network = "web"
metrics = "127.0.0.1:9100/metrics"

[servers]
min = 2
max = 8

[limit]
cpu = 1.0
memory = "256MiB"

[most]
cpu = 2
memory = "512MiB"

[[mounts]]
source = "/srv/data"
target = "/data"

[sidecar]
port = 8080
`

const adopting = `name = "counter"
[adopt]
labels = { app = "counter" }
`

func TestParse(t *testing.T) {
	s, err := service.Parse("s.toml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if s.Runtime != service.Auto || s.Snapshotter != service.Auto || s.Network != "web" || s.Servers != (service.Servers{Min: 2, Max: 8}) || s.Sidecar.Port != 8080 {
		t.Errorf("%+v", s)
	}
	if got := s.Most.Resources(); got != (model.Resources{CPU: 2, Mem: 512 << 20}) {
		t.Errorf("most is %+v", got)
	}
	if s, err := service.Parse("s.toml", []byte(adopting)); err != nil || s.Adopt.Namespace != "default" || s.Runtime != "" {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := service.Parse("s.toml", []byte("name = 'a'\nimage = 'r.example/b:c'\nservers.min = 3")); err != nil ||
		s.Servers != (service.Servers{Min: 3, Max: 3}) || s.Network != service.Host || s.Limit.Resources() != (model.Resources{}) {
		t.Errorf("%+v, %v", s, err)
	}
}

// Each mistake is told with its place, and what to do.
func TestRefused(t *testing.T) {
	for _, test := range []struct{ old, new, want string }{
		{`name = "counter"`, ``, `s.toml:1:1: name: give the service a name`},
		{`"counter"`, `"a--b"`, `s.toml:1:1: name: "a--b" can't be`},
		{`"counter"`, `"` + strings.Repeat("x", 51) + `"`, `can't be: use at most 50`},
		{`docker.io/library/counter:1`, `counter:1`, `s.toml:2:1: image: "counter:1" is no image`},
		{`docker.io/library/counter:1`, `docker.io/library/counter`, `s.toml:2:1: image:`},
		{`docker.io/library/counter:1`, ``, `s.toml:2:1: image:`},
		{`command = ["/counter"]`, `command = ["", "a"]`, `s.toml:3:1: command:`},
		{`"GREETING=hello"`, `"GREETING"`, `s.toml:4:1: env: "GREETING" sets no variable`},
		{`"GREETING=hello"`, `"PLASMA_STATE=/x"`, `s.toml:4:1: env: PLASMA_STATE is set by the runtime`},
		{`network = "web"`, `network = "../web"`, `s.toml:7:1: network:`},
		{`network = "web"`, `runtime = "/bin/sh"`, `s.toml:7:1: runtime:`},
		{`network = "web"`, `snapshotter = ""`, ``},
		{`network = "web"`, `snapshotter = "a b"`, `s.toml:7:1: snapshotter:`},
		{`9100/metrics`, `metrics`, `s.toml:8:1: metrics:`},
		{`127.0.0.1:9100/metrics`, `http://127.0.0.1:9100/metrics`, `s.toml:8:1: metrics:`},
		{`min = 2`, `min = -1`, `s.toml:11:1: servers.min:`},
		{`max = 8`, `max = 1`, `s.toml:12:1: servers.max: 1 servers can't be: want 2`},
		{`cpu = 1.0`, `cpu = nan`, `s.toml:15:1: limit.cpu:`},
		{`cpu = 1.0`, `cpu = 0.001`, `s.toml:15:1: limit.cpu:`},
		{`cpu = 1.0`, `cpu = 4`, `s.toml:19:1: most.cpu:`},
		{`cpu = 1.0`, ``, `s.toml:19:1: most.cpu:`},
		{`"256MiB"`, `"a lot"`, `s.toml:16:1: limit.memory:`},
		{`"256MiB"`, `"1GiB"`, `s.toml:20:1: most.memory:`},
		{`"256MiB"`, `"1MiB"`, `s.toml:16:1: limit.memory:`},
		{`"/srv/data"`, `"srv/data"`, `s.toml:23:1: mounts[0].source: "srv/data" must begin with /`},
		{`"/data"`, `"/data/../etc"`, `s.toml:24:1: mounts[0].target: "/data/../etc" may not contain ".."`},
		{`"/data"`, `"/run//plasma/x"`, `s.toml:24:1: mounts[0].target: /run/plasma is the runtime's`},
		{`"/data"`, `"/run/plasma-peers"`, `/run/plasma-peers is the runtime's`},
		{`"/data"`, `"/var/lib/plasma/."`, `/var/lib/plasma is the runtime's`},
		{`"/data"`, `"/run/plasma-x"`, ``},
		{`"/data"`, `"/"`, `s.toml:24:1: mounts[0].target: the root is the image's`},
		{"target = \"/data\"\n", "target = \"/data\"\n[[mounts]]\nsource = '/a'\ntarget = '/data/'\n", `s.toml:27:1: mounts[1].target: /data is the target of another mount`},
		{`port = 8080`, ``, `s.toml:26:2: sidecar.port:`},
		{`port = 8080`, `prt = 8080`, `s.toml:27:1: there is no key "sidecar.prt", did you mean "port"?`},
		{`port = 8080`, `port = 80800`, `s.toml:27:`},
		{`target = "/data"`, `targe = "/data"`, `s.toml:24:1: there is no key "mounts.targe", did you mean "target"?`},
		{`image =`, `imag =`, `s.toml:2:1: there is no key "imag", did you mean "image"?`},
		{`image =`, `image`, `s.toml:2:`},
		{`[sidecar]`, `[adopt]`, `s.toml:27:1: there is no key "adopt.port"`},
		{"[sidecar]\nport = 8080", "[adopt]\nlabels = {a = 'b'}", `s.toml:2:1: image: containers that are adopted are not started`},
	} {
		text := strings.Replace(good, test.old, test.new, 1)
		s, err := service.Parse("s.toml", []byte(text))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%.40s: %v", test.new, err)
		case test.want != "" && (s != nil || err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%.40s: %v; want %q", test.new, err, test.want)
		case test.want != "" && !errdefs.IsInvalidArgument(err):
			t.Errorf("%.40s: %v is not classified", test.new, err)
		}
	}
	for _, text := range []string{"name = 'a'\n[adopt]", "name = 'a'\n[adopt]\nlabels = {a='b'}\nnamespace='../x'", strings.Repeat("#", 1<<17)} {
		if _, err := service.Parse("s.toml", []byte(text)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.40s: %v", text, err)
		}
	}
}

// All mistakes are told at once, in the order of the file.
func TestAll(t *testing.T) {
	_, err := service.Parse("s.toml", []byte("image = 'x'\nname = '-'\nnetwork = ' '\n"))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "s.toml:1:1: image") || !strings.HasPrefix(lines[2], "s.toml:3:1: network") {
		t.Errorf("%v", err)
	}
	var one *service.Error
	if !errors.As(err, &one) || one.Line != 1 {
		t.Errorf("%v", one)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "counter.toml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := service.Read(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	write("counter.toml", good)
	write("counter.epl", "the policy")
	if _, err := service.Read(file); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), file+":6:1: manifest: ") {
		t.Errorf("no manifest: %v", err)
	}
	write("counter.manifest.toml", "the manifest")
	b, err := service.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.Service != good || b.Policy != "the policy" || b.Manifest != "the manifest" || b.Spec.Name != "counter" {
		t.Errorf("%+v", b)
	}
	write("counter.epl", strings.Repeat("#", 1<<20+1))
	if _, err := service.Read(file); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a long policy: %v", err)
	}
	write("counter.toml", strings.Repeat("#", 1<<17))
	if _, err := service.Read(file); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a long file: %v", err)
	}
	if got := service.Beside(file, "/etc/x"); got != "/etc/x" {
		t.Errorf("an absolute name is %s", got)
	}
}

func TestServerID(t *testing.T) {
	for id, want := range map[string]struct {
		service string
		n       int
	}{"a-0": {"a", 0}, "a-1-12": {"a-1", 12}, "a.b_c-3": {"a.b_c", 3}} {
		if s, n, ok := service.SplitServerID(id); !ok || s != want.service || n != want.n || service.ServerID(s, n) != id {
			t.Errorf("%s is %s, %d, %v", id, s, n, ok)
		}
	}
	for _, id := range []string{"", "a", "-1", "a-", "a-x", "a-01", "a--1", "a-+1", "../a-1", "a/b-1"} {
		if s, n, ok := service.SplitServerID(id); ok {
			t.Errorf("%s is %s, %d", id, s, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(adopting))
	f.Add([]byte("[[mounts]]\n[[mounts]]\nsource = '/'\n[sidecar]\nx = {y = 1}"))
	f.Add([]byte("limit = {cpu = inf, memory = '-1'}\nadopt = {labels = {'' = ''}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := service.Parse("s.toml", text)
		if (s == nil) == (err == nil) {
			t.Fatalf("%v, %v", s, err)
		}
		if err != nil {
			var one *service.Error
			if !errdefs.IsInvalidArgument(err) || !errors.As(err, &one) || one.Line < 1 || one.Column < 1 {
				t.Errorf("%v has no class or place", err)
			}
			return
		}
		if err := identifiers.Validate(service.ServerID(s.Name, 9999)); err != nil {
			t.Error(err)
		}
		for _, r := range []model.Resources{s.Limit.Resources(), s.Most.Resources()} {
			if !(r.CPU >= 0 && r.Mem >= 0) || math.IsInf(r.CPU+r.Mem, 0) {
				t.Errorf("%+v", r)
			}
		}
	})
}
