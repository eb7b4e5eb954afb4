package driver

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// parsed is a service with a few lines more.
func parsed(t *testing.T, more string) *service.Spec {
	t.Helper()
	s, err := service.Parse("s.toml", []byte("name = 'counter'\nimage = 'docker.io/library/counter:1'\n"+more))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ofImage is a specification as an image gives it.
func ofImage() *oci.Spec {
	return &oci.Spec{
		Process: &specs.Process{
			Args: []string{"/image"}, Env: []string{"PATH=/bin", "A=image"},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Linux:  &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}}},
		Mounts: []specs.Mount{{Destination: "/proc"}},
	}
}

func TestShape(t *testing.T) {
	d := New(nil, Options{Root: "/root", Run: "/r", Sidecar: "/opt/plasma-sidecar", Address: netip.MustParseAddr("192.0.2.1")})
	web := attachment{network: "web", netns: "/r/netns/web/counter-3", address: netip.MustParseAddr("10.0.0.7")}
	for name, test := range map[string]struct {
		more  string
		a     attachment
		check func(*testing.T, *oci.Spec)
	}{
		"as the image says": {"", attachment{}, func(t *testing.T, s *oci.Spec) {
			want := []string{
				"PATH=/bin", "A=image", "PLASMA_SERVICE=counter", "PLASMA_SERVER=counter-3", "PLASMA_AGENT=/run/plasma/agent.sock",
				"PLASMA_CONTROL=/run/plasma/host.sock", "PLASMA_PEERS=/run/plasma-peers", "PLASMA_STATE=/var/lib/plasma", "PLASMA_ADDRESS=192.0.2.1",
			}
			if !slices.Equal(s.Process.Args, []string{"/image"}) || !slices.Equal(s.Process.Env, want) || s.Hostname != "counter-3" || s.Process.Rlimits != nil {
				t.Errorf("%+v in %s", s.Process, s.Hostname)
			}
			if slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace }) {
				t.Error("it is in a network namespace")
			}
			wantMount(t, s, "/run/plasma", "/r/servers/counter-3", "rw")
			wantMount(t, s, "/run/plasma-peers", "/r/peers/counter", "rw")
			wantMount(t, s, "/var/lib/plasma", "/root/servers/counter-3", "rw")
			wantMount(t, s, "/etc/hosts", "/etc/hosts", "ro")
		}},
		"as the service says": {"command = ['/app', '-x']\nenv = ['A=service', 'B=']\n[[mounts]]\nsource = '/srv/./x'\ntarget = '/x/'\nreadonly = true", attachment{}, func(t *testing.T, s *oci.Spec) {
			if !slices.Equal(s.Process.Args, []string{"/app", "-x"}) || !slices.Equal(s.Process.Env[:3], []string{"PATH=/bin", "A=service", "B="}) {
				t.Errorf("%+v", s.Process)
			}
			wantMount(t, s, "/x", "/srv/x", "ro")
			if s.Mounts[1].Destination != "/x" {
				t.Errorf("the service's mounts aren't before the runtime's: %+v", s.Mounts)
			}
		}},
		"with a sidecar": {"[sidecar]\nport = 8080", attachment{}, func(t *testing.T, s *oci.Spec) {
			if want := []string{"/run/plasma-sidecar", "--port", "8080", "--", "/image"}; !slices.Equal(s.Process.Args, want) {
				t.Errorf("%q", s.Process.Args)
			}
			wantMount(t, s, "/run/plasma-sidecar", "/opt/plasma-sidecar", "ro")
		}},
		"alone": {"network = 'none'", attachment{}, func(t *testing.T, s *oci.Spec) {
			if s.Linux.Namespaces[1] != (specs.LinuxNamespace{Type: specs.NetworkNamespace}) || strings.Contains(strings.Join(s.Process.Env, " "), "PLASMA_ADDRESS") {
				t.Errorf("%+v %q", s.Linux.Namespaces, s.Process.Env)
			}
		}},
		"in a network": {"network = 'web'", web, func(t *testing.T, s *oci.Spec) {
			if s.Linux.Namespaces[1] != (specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: web.netns}) || !slices.Contains(s.Process.Env, "PLASMA_ADDRESS=10.0.0.7") {
				t.Errorf("%+v %q", s.Linux.Namespaces, s.Process.Env)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := ofImage()
			if err := d.shape(s, Server{Service: parsed(t, test.more), ID: "counter-3"}, test.a, []string{"/etc/hosts"}); err != nil {
				t.Fatal(err)
			}
			test.check(t, s)
		})
	}
	s := ofImage()
	s.Process.Args = nil
	if err := d.shape(s, Server{Service: parsed(t, ""), ID: "counter-3"}, attachment{}, nil); err == nil {
		t.Error("a container without a command")
	}
}

func wantMount(t *testing.T, s *oci.Spec, target, source, mode string) {
	t.Helper()
	for _, m := range s.Mounts {
		if m.Destination == target {
			if m.Source != source || m.Type != "bind" || !slices.Equal(m.Options, []string{"rbind", mode}) {
				t.Errorf("%+v, want %s, %s", m, source, mode)
			}
			return
		}
	}
	t.Errorf("nothing is mounted on %s", target)
}

func TestResources(t *testing.T) {
	for _, test := range []struct {
		r      model.Resources
		quota  int64
		shares uint64
		memory int64
	}{
		{model.Resources{}, -1, 1024, -1},
		{model.Resources{CPU: 1, Mem: 1 << 30}, 100_000, 1024, 1 << 30},
		{model.Resources{CPU: 0.25}, 25_000, 256, -1},
		{model.Resources{CPU: 1e-6}, 1_000, 2, -1},
		{model.Resources{CPU: 1000}, 100_000_000, 1 << 18, -1},
	} {
		got := resources(test.r)
		if *got.CPU.Quota != test.quota || *got.CPU.Period != 100_000 || *got.CPU.Shares != test.shares || *got.Memory.Limit != test.memory {
			t.Errorf("%+v: quota %d of %d, %d shares, %d bytes", test.r, *got.CPU.Quota, *got.CPU.Period, *got.CPU.Shares, *got.Memory.Limit)
		}
	}
	var s oci.Spec
	s.Linux = &specs.Linux{}
	if limit(&s, model.Resources{}); s.Linux.Resources.CPU != nil || s.Linux.Resources.Memory != nil {
		t.Errorf("a container without limits has %+v", s.Linux.Resources)
	}
	if limit(&s, model.Resources{CPU: 1, Mem: 5}); *s.Linux.Resources.Memory.Limit != 5 || *s.Linux.Resources.CPU.Quota != 100_000 {
		t.Errorf("%+v", s.Linux.Resources)
	}
}

func TestRefused(t *testing.T) {
	d := New(nil, Options{})
	for name, test := range map[string]struct {
		server Server
		is     func(error) bool
	}{
		"no service": {Server{ID: "counter-0"}, errdefs.IsInvalidArgument},
		"no ID":      {Server{Service: parsed(t, "")}, errdefs.IsInvalidArgument},
		"another's":  {Server{Service: parsed(t, ""), ID: "other-0"}, errdefs.IsInvalidArgument},
		"a path":     {Server{Service: parsed(t, ""), ID: "counter-0/.."}, errdefs.IsInvalidArgument},
		"no sidecar": {Server{Service: parsed(t, "[sidecar]\nport=1"), ID: "counter-0"}, errdefs.IsFailedPrecondition},
		"adopted":    {Server{Service: &service.Spec{Name: "counter", Adopt: &service.Adopt{}}, ID: "counter-0"}, errdefs.IsFailedPrecondition},
	} {
		if err := d.Start(t.Context(), test.server); !test.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.Delete(t.Context(), "../x", true); !errdefs.IsInvalidArgument(err) {
		t.Errorf("delete a path: %v", err)
	}
}

func TestLabelFilter(t *testing.T) {
	for _, labels := range []map[string]string{
		{"app": "counter"}, {"a.b/c": `quoted "x" and \`, "d": ""}, {"x y": "ü,==|"}, {LabelServer: "a-0"},
	} {
		text := labelFilter(labels)
		f, err := filters.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		with := func(labels map[string]string) filters.Adaptor {
			return filters.AdapterFunc(func(path []string) (string, bool) {
				v, ok := labels[strings.Join(path[1:], ".")]
				return v, ok
			})
		}
		if !f.Match(with(labels)) || f.Match(with(map[string]string{"app": "other"})) {
			t.Errorf("%s is wrong", text)
		}
	}
}

func TestCgroup(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "0::/plasma/a-0\n": "/plasma/a-0", "12:memory:/m\n3:cpu,cpuacct:/c\n0::/u\n": "/c",
		"3:cpuacct:/no\n1:name=systemd:/s\n0::/u:x\n": "/u:x", "nonsense": "", "0::relative": "",
	} {
		if got := cgroup(text); got != want {
			t.Errorf("%q is in %q, want %q", text, got, want)
		}
	}
}

func FuzzCgroup(f *testing.F) {
	f.Add("3:cpu,cpuacct:/c\n0::/u\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got := cgroup(text); got != "" && (!strings.HasPrefix(got, "/") || !strings.Contains(text, got)) {
			t.Errorf("%q is in %q", text, got)
		}
	})
}

func TestAddress(t *testing.T) {
	for text, want := range map[string]string{
		`{"cniVersion":"1.0.0"}`: "invalid IP",
		`{"cniVersion":"1.0.0","ips":[{"address":"fd00::2/64"},{"address":"10.0.0.2/24"}]}`: "10.0.0.2",
		`{"cniVersion":"1.0.0","ips":[{"address":"fd00::2/64"}]}`:                           "fd00::2",
	} {
		result, err := types100.NewResult([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := address(result.(*types100.Result)); got.String() != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func TestDecode(t *testing.T) {
	for _, test := range []struct {
		event any
		want  Event
		ok    bool
	}{
		{&eventsapi.TaskExit{ContainerID: "a-0", ID: "a-0", Pid: 7, ExitStatus: 137}, Event{Kind: Exited, ID: "a-0", Pid: 7, ExitStatus: 137}, true},
		{&eventsapi.TaskExit{ContainerID: "a-0", ID: "exec"}, Event{}, false},
		{&eventsapi.TaskOOM{ContainerID: "a-0"}, Event{Kind: OutOfMemory, ID: "a-0"}, true},
		{&eventsapi.TaskDelete{ContainerID: "a-0", Pid: 7}, Event{Kind: Deleted, ID: "a-0", Pid: 7}, true},
		{&eventsapi.TaskDelete{ContainerID: "a-0", ID: "exec"}, Event{}, false},
		{&eventsapi.TaskStart{ContainerID: "a-0"}, Event{}, false},
	} {
		v, err := typeurl.MarshalAny(test.event)
		if err != nil {
			t.Fatal(err)
		}
		e, ok, err := decode(&events.Envelope{Topic: "/t", Event: v})
		if err != nil || ok != test.ok || ok && e != test.want {
			t.Errorf("%v: %+v, %v, %v", test.event, e, ok, err)
		}
	}
	if _, ok, err := decode(&events.Envelope{Topic: marker}); ok || err != nil {
		t.Errorf("the marker is an event: %v", err)
	}
}

func TestLocks(t *testing.T) {
	var l locks
	ctx, cancel := context.WithCancel(t.Context())
	unlock, err := l.lock(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	go func() {
		_, err := l.lock(ctx, "a")
		waited <- err
	}()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("it waits although nobody wants it to: %v", err)
	}
	unlock()
	count := 0
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			unlock, err := l.lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			count++
			unlock()
		})
	}
	all.Wait()
	if count != 50 || len(l.held) != 0 {
		t.Errorf("%d had it, %d are left", count, len(l.held))
	}
}

// What a server had already isn't removed when it can't be started.
func TestDirs(t *testing.T) {
	dir := t.TempDir()
	d := New(nil, Options{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run")})
	n := d.dirs("counter-0")
	if err := os.MkdirAll(n.state, 0o700); err != nil {
		t.Fatal(err)
	}
	undo, err := n.make()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{n.run, n.peers, n.state} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", path, fi, err)
		}
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.state); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.run); !errors.Is(err, os.ErrNotExist) {
		t.Error("it is left")
	}
	if err := errors.Join(n.remove(true), n.remove(true)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.state); !errors.Is(err, os.ErrNotExist) {
		t.Error("the state is left")
	}
}
