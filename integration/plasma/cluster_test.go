package plasma

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// bin is where make build puts the bundle.
const bin = "../../bin"

// cluster is a cluster of nodes that goes with the test, with an image for services.
func cluster(t *testing.T, n int, change func(*config.Config)) (*harness.Plasma, images.Image) {
	t.Helper()
	leaktest.Check(t)
	cache, err := harness.Cache()
	if err != nil {
		t.Fatal(err)
	}
	image, err := images.Busybox(t.Context(), cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := harness.StartPlasma(t.Context(), cache, bin, n, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range p.Nodes {
				t.Logf("%s:\n%s", n.Config.Node, n.Tail())
			}
		}
		if err := p.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err := p.Import(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	return p, image
}

// app is a service of the application for tests.
func app(t *testing.T, image images.Image, name, policy, more string) *service.Bundle {
	t.Helper()
	dir, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("name = %q\nimage = %q\ncommand = [\"/app/plasma-app\"]\n%s\n[[mounts]]\nsource = %q\ntarget = \"/app\"\nreadonly = true\n", name, image.Name, more, dir)
	spec, err := service.Parse(name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &service.Bundle{Spec: spec, Service: text, Policy: policy}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, patience time.Duration, is func(context.Context) error) {
	t.Helper()
	var last error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if last = is(t.Context()); last == nil {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("%s: %v", what, last)
}

// serviceOf asks a node how a service is.
func serviceOf(ctx context.Context, n *harness.PlasmaNode, name string) (*status.Service, error) {
	s, err := n.Status(ctx)
	if err != nil {
		return nil, err
	}
	for i := range s.Services {
		if s.Services[i].Name == name {
			return &s.Services[i], nil
		}
	}
	return nil, fmt.Errorf("there is no service %s", name)
}

// up waits until a service has so many servers that are up and share the shards.
func up(t *testing.T, n *harness.PlasmaNode, name string, servers int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d servers are up", servers), 60*time.Second, func(ctx context.Context) error {
		s, err := serviceOf(ctx, n, name)
		if err != nil {
			return err
		}
		count := 0
		for _, v := range s.Servers {
			if v.State == model.Up && v.Shards > 0 {
				count++
			}
		}
		if count != servers || len(s.Servers) != servers {
			return fmt.Errorf("%d of %d servers are up: %+v", count, len(s.Servers), s)
		}
		return nil
	})
}

func TestCluster(t *testing.T) {
	p, image := cluster(t, 3, nil)
	one := p.Nodes[0]
	if err := one.Apply(t.Context(), app(t, image, "app", "", "[servers]\nmin = 3\nmax = 3")); err != nil {
		t.Fatal(err)
	}
	up(t, one, "app", 3)
	// Any node calls any actor.
	for i := range 30 {
		for j := range 3 {
			got, err := p.Nodes[(i+j)%3].Call(t.Context(), "app", "Ledger", fmt.Sprint("l", i), "put", fmt.Sprint("me ", j+1))
			if err != nil || got != fmt.Sprint(j+1) {
				t.Fatalf("%q, %v", got, err)
			}
		}
	}
	for i := range 30 {
		got, err := one.Call(t.Context(), "app", "Ledger", fmt.Sprint("l", i), "read", "")
		if err != nil || strings.Contains(got, "wrong") || !strings.Contains(got, `"me":3`) {
			t.Errorf("%q, %v", got, err)
		}
	}
}
