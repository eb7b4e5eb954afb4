package network

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// reboot takes away what a reboot takes: all of the kernel's. change is what becomes of the
// directories.
func reboot(t *testing.T, n *node.Node, change func()) {
	t.Helper()
	n.Kill()
	change()
	n.NS = netnstest.New(t)
	n.Outside()
	n.Start()
}

// After a reboot containers' addresses are free again and their names too, whatever of the
// agent's directories is left.
func TestReboot(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *node.Node){
		"all is kept": func(t *testing.T, n *node.Node) {
			records, err := filepath.Glob(filepath.Join(n.Root(), "endpoints", "*.json"))
			if err != nil || len(records) == 0 {
				t.Fatalf("no records: %v", err)
			}
			boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range records {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				earlier := strings.Replace(string(text), strings.TrimSpace(string(boot)), "00000000-0000-4000-8000-000000000000", 1)
				if err := os.WriteFile(file, []byte(earlier), 0o600); err != nil || earlier == string(text) {
					t.Fatalf("%s: %v", text, err)
				}
			}
		},
		"what is in /run is gone": func(t *testing.T, n *node.Node) {
			if err := os.RemoveAll(n.Root()); err != nil {
				t.Fatal(err)
			}
		},
		"a record is damaged": func(t *testing.T, n *node.Node) {
			records, err := filepath.Glob(filepath.Join(n.Root(), "endpoints", "*.json"))
			if err != nil || len(records) < 2 {
				t.Fatalf("no records: %v", err)
			}
			// What the power's end left of them; the agent says so and goes on.
			for i, file := range records {
				if err := os.Truncate(file, int64(i*10)); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := node.New(t, 1)
			n.Outside()
			n.Start()
			list := n.List("1.1.0", node.Network("falcon"))
			before, other := n.Container("c"), n.Container("other")
			n.MustAdd(list, before)
			n.MustAdd(list, other)
			reboot(t, n, func() { change(t, n) })

			if name == "a record is damaged" {
				// Whose addresses are whose can't be told until it is gone.
				if err := n.GC(t.Context(), list, before); err == nil || !strings.Contains(err.Error(), "remove the file") {
					t.Errorf("GC: %v", err)
				}
				bad, _ := filepath.Glob(filepath.Join(n.Root(), "endpoints", "*.json"))
				for _, file := range bad {
					if err := os.Remove(file); err != nil {
						t.Fatal(err)
					}
				}
				n.Stop()
				n.Start()
			}
			// A runtime that knows nothing of them collects, one that does deletes.
			if err := n.GC(t.Context(), list, before); err != nil {
				t.Errorf("GC: %v", err)
			}
			if err := n.Del(t.Context(), list, before); err != nil {
				t.Errorf("DEL: %v", err)
			}
			n.MustHold()
			c := n.Container("c")
			n.MustAdd(list, c)
			n.MustHold(c)
			if err := n.Check(t.Context(), list, c); err != nil {
				t.Error(err)
			}
			n.MustDel(list, c)
			n.MustHold()
		})
	}
}
