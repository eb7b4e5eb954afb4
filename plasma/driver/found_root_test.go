package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

func TestAdopted(t *testing.T) {
	l := newLab(t, "2.4")
	l.importImage(t)
	for id, label := range map[string]string{"one": "app=counter", "two": "app=other"} {
		if out, err := l.c.Ctr(t.Context(), "run", "--detach", "--label", label, l.image.Name, id, "sleep", "1000"); err != nil {
			t.Fatal(err, out)
		}
	}
	all, err := l.Adopted(t.Context(), &service.Adopt{Namespace: l.c.Namespace, Labels: map[string]string{"app": "counter"}})
	if err != nil || len(all) != 1 || all[0].ID != "one" || all[0].State != StateRunning || all[0].Cgroup == "" {
		t.Fatalf("%+v, %v", all, err)
	}
	if err := l.Update(namespaces.WithNamespace(t.Context(), all[0].Namespace), "one", model.Resources{CPU: 0.25}); err != nil {
		t.Error(err)
	}
	if cpu, _ := quota(t, all[0].Cgroup); cpu != "25000" {
		t.Errorf("it has %s µs", cpu)
	}
	if servers, err := l.List(t.Context()); err != nil || len(servers) > 0 {
		t.Errorf("they are servers: %+v, %v", servers, err)
	}
}

// TestProbe looks at each line of containerd, with FlashCube's shim and without.
func TestProbe(t *testing.T) {
	with := t.TempDir()
	shim := "#!/bin/sh\nexit 0\n"
	if err := os.WriteFile(filepath.Join(with, "containerd-shim-flashcube-v1"), []byte(shim), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		version string
		shims   []harness.Shim
		runtime string
	}{
		{"2.4", nil, runc},
		{"2.4", []harness.Shim{{Bin: with}}, flashcube},
		{"1.7", []harness.Shim{{Bin: with}}, flashcube},
		{"1.7", nil, runc},
		{"1.6", []harness.Shim{{Bin: with}}, runc}, // it can't be asked
	} {
		t.Run(fmt.Sprint(test.version, " ", len(test.shims)), func(t *testing.T) {
			l := newLab(t, test.version, test.shims...)
			f, err := l.Probe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if f.Runtime != test.runtime || f.Snapshotter != "overlayfs" || !slices.Contains(f.Snapshotters, "overlayfs") || f.Version == "" ||
				test.version != "1.6" && !slices.Contains(f.Runtimes, runc) {
				t.Errorf("%+v", f)
			}
		})
	}
}
