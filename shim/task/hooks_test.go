package task_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestHookNamespaces: createRuntime hooks find the container's namespaces, of new ones
// and of a cube made ahead, for they set up its network.
func TestHookNamespaces(t *testing.T) {
	for name, ahead := range map[string]bool{"new": false, "made ahead": true} {
		t.Run(name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "log")
			s := newShim(t)
			if ahead {
				if err := s.Native.Prepare(); err != nil {
					t.Fatal(err)
				}
			}
			script := `pid=$(grep -o '"pid":[0-9]*' | cut -d: -f2); for n in net ipc uts mnt pid; do readlink /proc/$pid/ns/$n; done >` + log
			s.run("c", bundle(t, "true", func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}}}
			}))
			s.wait("c", "")
			s.end("c")
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			seen := strings.Fields(string(text))
			if len(seen) != 5 {
				t.Fatalf("the hook saw %q", seen)
			}
			for _, ns := range seen {
				kind, _, _ := strings.Cut(ns, ":")
				if own, err := os.Readlink("/proc/self/ns/" + kind); err != nil || own == ns {
					t.Errorf("the hook saw the host's %s, %v", ns, err)
				}
			}
		})
	}
}
