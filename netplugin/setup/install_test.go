package setup

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/internal/install"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }

// put writes a file below a directory, which it returns; a program if the text is a script.
func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	mode := os.FileMode(0o600)
	if strings.HasPrefix(text, "#!") {
		mode = 0o700
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

// portmap is a plugin that knows versions of CNI, given as JSON.
func portmap(versions string) string {
	return `#!/bin/sh
cat >/dev/null
echo '{"cniVersion":"1.0.0","supportedVersions":[` + versions + `]}'
`
}

func TestPlugin(t *testing.T) {
	p, err := plugin(t.Context(), config.Default(), "/opt/bin", t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	var out strings.Builder
	if err := install.Do(t.Context(), &out, install.Plan(root, p), false); err != nil {
		t.Fatal(err)
	}
	if cfg, err := config.Load(filepath.Join(root, config.DefaultPath), true); err != nil || !reflect.DeepEqual(cfg.Networks, config.Default().Networks) {
		t.Errorf("its configuration reads %+v, %v", cfg, err)
	}
	if to, err := os.Readlink(filepath.Join(root, "/opt/cni/bin/falcon")); err != nil || to != "/opt/bin/falcon" {
		t.Errorf("the plugin is a link to %q, %v", to, err)
	}
	for _, unit := range p.Units {
		text, err := os.ReadFile(filepath.Join(root, "/etc/systemd/system", unit))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"ExecStart=/opt/bin/falcond", "Type=notify", "KillMode=process", "Before=containerd.service", "Restart=on-failure", "RuntimeDirectoryPreserve=yes",
		} {
			if !strings.Contains(string(text), "\n"+line+"\n") {
				t.Errorf("unit %s has no %s:\n%s", unit, line, text)
			}
		}
	}
	list, err := libcni.ConfListFromFile(filepath.Join(root, "/etc/cni/net.d", listName))
	if err != nil || list.Name != "falcon" || list.Plugins[0].Network.Type != "falcon" {
		t.Errorf("the list is %+v, %v", list, err)
	}
	// The network is there only when all that it needs is.
	if last := p.Files[len(p.Files)-1].Path; filepath.Base(last) != listName {
		t.Errorf("the last file is %s", last)
	}
	if !slices.Equal(p.State, []string{"/run/falcon"}) {
		t.Errorf("removes %q", p.State)
	}
	// All of it goes. What the kernel holds, and who uses it, is this host's.
	p.Release, p.InUse = nil, nil
	steps, err := install.PlanRemoval(t.Context(), root, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := install.Do(t.Context(), &out, steps, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "/etc/falcon")); !os.IsNotExist(err) {
		t.Errorf("/etc/falcon: %v", err)
	}
	for _, f := range p.Files {
		if _, err := os.Lstat(filepath.Join(root, f.Path)); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want it gone", f.Path, err)
		}
	}
}

// TestPluginBesideAnother leaves pods the network that they have.
func TestPluginBesideAnother(t *testing.T) {
	conf := put(t, t.TempDir(), "10-flannel.conflist", "{}")
	p, err := plugin(t.Context(), config.Default(), "/opt/bin", conf, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range p.Files {
		if filepath.Base(f.Path) == listName {
			t.Errorf("writes\n%s", f.Text)
		}
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "not-there")} {
		if users, err := inUse(d); err != nil || len(users) > 0 {
			t.Errorf("in use by %q, %v", users, err)
		}
	}
	store, err := endpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []endpoint.Record{
		{ContainerID: "web", IfName: "eth0"},
		{ContainerID: "adopted", IfName: "eth0", Offer: "offer-1"},
		{ContainerID: "offer-2", IfName: "eth0", Offer: "offer-2"},
	} {
		if err := store.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir, "db.json", "not even JSON")
	want := []string{
		"container adopted, interface eth0", "container web, interface eth0",
		"what " + filepath.Join(dir, "db.json") + " is about, which can't be read",
	}
	if users, err := inUse(dir); err != nil || !slices.Equal(users, want) {
		t.Errorf("in use by %q, %v; want %q", users, err, want)
	}
	if users, err := inUse(filepath.Join(dir, "db.json")); err == nil {
		t.Errorf("a file is in use by %q", users)
	}
}
