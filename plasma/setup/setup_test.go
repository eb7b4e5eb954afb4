package setup

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/internal/install"
	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// want fails the test if a probe found something else.
func want(t *testing.T, r check.Result, s check.Status, says string) {
	t.Helper()
	if r.Plugin != Name || r.Probe == "" || r.Status != s || !strings.Contains(r.Detail, says) {
		t.Errorf("%+v, want %s and %q", r, s, says)
	}
}

func TestPlugin(t *testing.T) {
	p, err := Plugin(t.Context(), "/opt/bin")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	var out strings.Builder
	if err := install.Do(t.Context(), &out, install.Plan(root, p), false); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(filepath.Join(root, config.DefaultPath), true); err != nil {
		t.Error(err)
	}
	for _, unit := range p.Units {
		text, err := os.ReadFile(filepath.Join(root, "/etc/systemd/system", unit))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"ExecStart=/opt/bin/plasmad", "Type=notify", "KillMode=process", "Restart=on-failure", "TimeoutStartSec=infinity",
			"RuntimeDirectory=plasma", "RuntimeDirectoryPreserve=yes", "StateDirectory=plasma",
		} {
			if !strings.Contains(string(text), "\n"+line+"\n") {
				t.Errorf("unit %s has no %s:\n%s", unit, line, text)
			}
		}
	}
	// What actors have stored stays; all else goes. Who uses it is this host's.
	stored := filepath.Join(root, "/var/lib/plasma/servers/a-1/state.db")
	for _, path := range []string{stored, filepath.Join(root, "/run/plasma/plasmad.sock")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.InUse = nil
	steps, err := install.PlanRemoval(t.Context(), root, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := install.Do(t.Context(), &out, steps, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stored); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/etc/plasma", "/run/plasma", "/etc/systemd/system/plasmad.service"} {
		if _, err := os.Lstat(filepath.Join(root, path)); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want it gone", path, err)
		}
	}
}

func TestInUse(t *testing.T) {
	run := t.TempDir()
	cfg := config.Default()
	cfg.Containerd = filepath.Join(run, "none.sock")
	if users, err := inUse(t.Context(), cfg, run); err != nil || len(users) > 0 {
		t.Errorf("in use by %q, %v", users, err)
	}
	for _, id := range []string{"b-1", "a-2"} {
		if err := os.MkdirAll(filepath.Join(run, "servers", id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if users, err := inUse(t.Context(), cfg, run); err != nil || !slices.Equal(users, []string{"server a-2", "server b-1"}) {
		t.Errorf("in use by %q, %v", users, err)
	}
}

func TestAdvise(t *testing.T) {
	for address, says := range map[string]string{"": "a cluster by itself", "192.0.2.1:7700": "start a service"} {
		var out strings.Builder
		cfg := config.Default()
		cfg.Address = address
		if err := advise(&out, cfg); err != nil || !strings.Contains(out.String(), says) || strings.Contains(out.String(), "note") != (address == "") {
			t.Errorf("%q: %v, %s", address, err, &out)
		}
	}
}

// fake is a plasmad that gives a status.
type fake struct {
	api.UnimplementedClusterServer
	text []byte
	wait bool
}

func (f *fake) Status(ctx context.Context, _ *api.StatusRequest) (*api.StatusResponse, error) {
	if f.wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &api.StatusResponse{Status: f.text}, nil
}

// serving gives the socket of a fake.
func serving(t *testing.T, f *fake) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	api.RegisterClusterServer(srv, f)
	var g errgroup.Group
	g.Go(func() error { return srv.Serve(l) })
	t.Cleanup(func() {
		srv.Stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return path
}

func sample() *status.Cluster {
	return &status.Cluster{
		Version: status.Version, Cluster: "c", Leader: "a",
		Nodes: []status.Node{{Name: "a", Up: true}},
		Services: []status.Service{
			{Name: "chat", Paused: true},
			{Name: "counter", Total: 9, Servers: []status.Server{{State: model.Up}, {State: model.Starting}}, Moves: []status.Move{{}}},
		},
	}
}

func encode(t *testing.T, c *status.Cluster) []byte {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestStatus(t *testing.T) {
	path := serving(t, &fake{text: encode(t, sample())})
	t.Setenv("PLASMA_SOCKET", path)
	r, err := Status(t.Context())
	if err != nil || !r.Daemon {
		t.Fatalf("%+v, %v", r, err)
	}
	var out strings.Builder
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	if want := "plasmad runs (" + path + `), cluster c, led by a
SERVICE  SERVERS  UP  ACTORS  MOVES  STATE
chat     0        0   0       0      paused
counter  2        1   9       1      ready
`; out.String() != want {
		t.Errorf("printed\n%s, want\n%s", &out, want)
	}
	want(t, answers(r), check.OK, "runs; nodes: 1, services: 2")
	r.Cluster.Nodes = append(r.Cluster.Nodes, status.Node{Name: "b"})
	r.Cluster.Services[1].Trouble = []string{"no room"}
	want(t, answers(r), check.Limited, "node b is down; counter: no room")
}

// TestStatusWithout plasmad is told, and is no error.
func TestStatusWithout(t *testing.T) {
	hurried, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	old := sample()
	old.Version++
	for name, c := range map[string]struct {
		ctx          context.Context
		socket, says string
	}{
		"none":    {t.Context(), filepath.Join(t.TempDir(), "none"), "plasmad doesn't run"},
		"silent":  {hurried, serving(t, &fake{wait: true}), "plasmad doesn't answer within"},
		"no JSON": {t.Context(), serving(t, &fake{text: []byte("x")}), "plasmad can't be asked: its status can't be read"},
		"newer":   {t.Context(), serving(t, &fake{text: encode(t, old)}), "plasmad can't be asked: its status is of version 2"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ask(c.ctx, c.socket)
			if r.Daemon || !strings.Contains(r.Problem, c.says) {
				t.Errorf("%+v, want %q", r, c.says)
			}
			want(t, answers(r), check.Missing, c.says)
			var out strings.Builder
			if err := r.Print(&out); err != nil || !strings.HasPrefix(out.String(), r.Problem) {
				t.Errorf("printed %q, %v", &out, err)
			}
		})
	}
}
