package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeModules are the modules of a kernel that exists in files without content, and what
// they depend on.
func fakeModules(t *testing.T) *modules {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "modules.builtin"), "kernel/fs/ext4/ext4.ko\nkernel/lib/crc32-c.ko\n")
	for _, path := range []string{
		"kernel/fs/xfs/xfs.ko", "kernel/lib/libcrc32c.ko", "kernel/net/vxlan/vxlan.ko",
		"kernel/net/udp_tunnel.ko", "kernel/net/ip6-udp-tunnel.ko", "kernel/broken.ko", "modules.order",
	} {
		writeFile(t, filepath.Join(dir, path), "")
	}
	m, err := openModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	depends := map[string][]string{
		"xfs":    {"libcrc32c", "crc32_c"},
		"vxlan":  {"ip6_udp_tunnel", "udp_tunnel"},
		"broken": {"absent"},
	}
	m.depends = func(path string) ([]string, error) { return depends[moduleName(path)], nil }
	return m
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLoadOrder(t *testing.T) {
	m := fakeModules(t)
	for names, want := range map[string]string{
		"xfs":                       "libcrc32c.ko xfs.ko",
		"vxlan xfs":                 "ip6-udp-tunnel.ko udp_tunnel.ko vxlan.ko libcrc32c.ko xfs.ko",
		"xfs libcrc32c xfs":         "libcrc32c.ko xfs.ko",
		"ext4":                      "",
		"ip6-udp-tunnel udp-tunnel": "ip6-udp-tunnel.ko udp_tunnel.ko",
	} {
		paths, err := m.loadOrder(strings.Fields(names))
		if err != nil {
			t.Errorf("%s: %v", names, err)
			continue
		}
		var got []string
		for _, path := range paths {
			got = append(got, filepath.Base(path))
		}
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: got %q, want %q", names, got, want)
		}
	}
}

func TestLoadOrderOfWhatIsNotThere(t *testing.T) {
	for name, want := range map[string]string{
		"absent": "no module absent",
		"broken": "no module absent, which broken depends on",
	} {
		_, err := fakeModules(t).loadOrder([]string{name})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, want)
		}
	}
}

func TestParseDepends(t *testing.T) {
	for info, want := range map[string][]string{
		"license=GPL\x00depends=a,b-c\x00name=x\x00": {"a", "b-c"},
		"license=GPL\x00depends=\x00name=x\x00":      nil,
		"description=depends=no\x00":                 nil,
		"":                                           nil,
	} {
		if got := parseDepends([]byte(info)); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", info, got, want)
		}
	}
}

func TestModuleDependsRefusesOtherFiles(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := moduleDepends(self); err == nil || !strings.Contains(err.Error(), "not a kernel module") {
		t.Errorf("got %v for a program", err)
	}
	if _, err := moduleDepends("modules_test.go"); err == nil {
		t.Error("got no error for a text")
	}
}
