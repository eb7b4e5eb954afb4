package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "net"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, "net", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func wantOwners(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for name, of := range allocations(t, dir) {
		got[filepath.Base(name)] = of
	}
	if !maps.Equal(got, want) {
		t.Errorf("addresses are %q, want %q", got, want)
	}
}

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// The empty files that a power failure leaves are free addresses, and go.
func TestEmptyFiles(t *testing.T) {
	empty := map[string]string{"10.1.0.2": "", "10.1.0.3": "", "10.1.0.5": "", "10.1.0.4": "b\r\neth0", "README": ""}
	all := request("", "a", small)
	for name, do := range map[string]func(r Request) error{
		"ADD": func(r Request) error { r.Fresh = false; add(t, r); return Del(t.Context(), r) },
		"DEL": func(r Request) error { return Del(t.Context(), r) },
		"GC": func(r Request) error {
			return GC(t.Context(), r, []types.GCAttachment{{ContainerID: "b", IfName: "eth0"}})
		},
		"CHECK": func(r Request) error { _ = Check(t.Context(), r); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, empty)
			r := all
			r.Config = request(dir, "a", small).Config
			if err := do(r); err != nil {
				t.Error(err)
			}
			wantOwners(t, dir, map[string]string{"10.1.0.4": "b\r\neth0"})
			if _, err := os.Stat(filepath.Join(dir, "net/README")); err != nil {
				t.Errorf("what is no address' file: %v", err)
			}
		})
	}
	for _, fresh := range []bool{false, true} {
		for _, args := range []string{"", "IP=10.1.0.2"} {
			dir := t.TempDir()
			put(t, dir, empty)
			r := step{id: "a", args: args, config: config("1.0.0", small, "")}.request(dir)
			r.Fresh = fresh
			if got := add(t, r); !slices.Equal(got, prefixes("10.1.0.2/29")) {
				t.Errorf("fresh %t, %q: %v", fresh, args, got)
			}
			if got := allocations(t, dir)["net/10.1.0.2"]; got != "a\r\neth0" {
				t.Errorf("fresh %t, %q: the owner is %q", fresh, args, got)
			}
		}
	}
}

// garbage is an address' file that can't be read as a whole: whoever reads what every
// address is whose fails.
func garbage(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "net/10.9.9.9"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := request(dir, "x", dual)
	if _, err := Add(t.Context(), r); err == nil {
		t.Fatal("owners were read")
	}
}

// What the caller knows spares reading the others' files.
func TestKnownReadsNoOwners(t *testing.T) {
	dir := t.TempDir()
	garbage(t, dir)
	r := request(dir, "a", dual)
	r.Fresh = true
	got := add(t, r)
	if !slices.Equal(got, prefixes("10.1.0.2/24", "fd01::2/64")) {
		t.Error(got)
	}
	second := r
	second.IfName = "eth1"
	if got := add(t, second); !slices.Equal(got, prefixes("10.1.0.3/24", "fd01::3/64")) {
		t.Error(got)
	}
	// Not those of others, nor ones that are gone, nor by another form of the address.
	r.Addresses = []netip.Addr{
		netip.MustParseAddr("::ffff:10.1.0.2"), netip.MustParseAddr("fd01::2"),
		netip.MustParseAddr("10.1.0.3"), netip.MustParseAddr("fd01::3"), netip.MustParseAddr("10.1.0.77"),
	}
	for range 2 {
		if err := Del(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		left := map[string]string{}
		for name, of := range files(t, filepath.Join(dir, "net")) {
			if strings.HasSuffix(of, "eth0") || strings.HasSuffix(of, "eth1") {
				left[name] = of
			}
		}
		if want := map[string]string{"10.1.0.3": "a\r\neth1", "fd01::3": "a\r\neth1"}; !maps.Equal(left, want) {
			t.Errorf("left: %q, want %q", left, want)
		}
	}
}

func TestFreshFails(t *testing.T) {
	for name, test := range map[string]struct {
		ipam, args string
		taken      []string
		message    string
	}{
		"exhausted":                 {small, "", []string{"10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"}, "no IP addresses available"},
		"requested is taken":        {small, "IP=10.1.0.4", []string{"10.1.0.4"}, "requested IP address 10.1.0.4 is not available"},
		"requested is the gateway":  {small, "IP=10.1.0.1", nil, "gateway"},
		"requested is nowhere":      {dual, "IP=10.7.7.7", nil, "all requested IPs: 10.7.7.7"},
		"the second set is full":    {`"ranges":[[{"subnet":"fd01::/64"}],[{"subnet":"10.1.0.0/30"}]]`, "", []string{"10.1.0.2"}, "range 1: no IP addresses"},
		"of the second set, taken":  {dual, "IP=fd01::9", []string{"fd01::9"}, "requested IP address fd01::9"},
		"the third, 2 others given": {`"ranges":[[{"subnet":"fd01::/64"}],[{"subnet":"10.2.0.0/24"}],[{"subnet":"10.1.0.0/30"}]]`, "", []string{"10.1.0.2"}, "range 2"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			others := map[string]string{}
			for i, a := range test.taken {
				others[a] = fmt.Sprintf("c%d\r\neth0", i)
			}
			put(t, dir, others)
			r := step{id: "a", args: test.args, config: config("1.0.0", test.ipam, "")}.request(dir)
			r.Fresh = true
			if result, err := Add(t.Context(), r); err == nil || !strings.Contains(err.Error(), test.message) {
				t.Errorf("%v, %v", result, err)
			}
			wantOwners(t, dir, others) // what was got is given back
		})
	}
}

// Of a network that nobody knows any more the addresses are released by the name.
func TestDelOfUnknownNetwork(t *testing.T) {
	valid := []types.GCAttachment{{ContainerID: "b", IfName: "eth0"}}
	for name, ipam := range map[string]string{
		"no type":       `"ipam":{"dataDir":"$DIR"}`,
		"no range":      `"ipam":{"type":"host-local","dataDir":"$DIR"}`,
		"empty ranges":  `"ipam":{"type":"host-local","dataDir":"$DIR","ranges":[]},"runtimeConfig":{"ipRanges":[]}`,
		"ranges null":   `"ipam":{"type":"host-local","dataDir":"$DIR","ranges":null},"runtimeConfig":null`,
		"a wish for IP": `"ipam":{"type":"host-local","dataDir":"$DIR"},"runtimeConfig":{"ips":["10.1.0.2/24"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			bare := step{id: "a", config: `{"name":"net","cniVersion":"1.0.0",` + ipam + `}`}.request(dir)
			bare.NetNS = ""
			missing := func() {
				t.Helper()
				if err := Del(t.Context(), bare); err != nil {
					t.Error(err)
				}
				if err := GC(t.Context(), bare, valid); err != nil {
					t.Error(err)
				}
			}
			missing()
			if got := files(t, dir); len(got) != 0 {
				t.Errorf("made %q", got)
			}
			mine := map[string]string{"10.1.0.2": "a\r\neth0", "fd01::2": "a\r\neth0"}
			others := map[string]string{"10.1.0.3": "b\r\neth0", "10.1.0.4": "a\r\neth1"}
			put(t, dir, mine)
			put(t, dir, others)
			if err := Del(t.Context(), bare); err != nil {
				t.Error(err)
			}
			wantOwners(t, dir, others)
			bare.Addresses = []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3")}
			put(t, dir, map[string]string{"10.1.0.2": "a\r\neth0"})
			if err := Del(t.Context(), bare); err != nil {
				t.Error(err)
			}
			wantOwners(t, dir, others)
			missing()
			wantOwners(t, dir, map[string]string{"10.1.0.3": "b\r\neth0"})
			bare.NetNS = "/run/netns/a"
			if _, err := Add(t.Context(), bare); err == nil {
				t.Error("ADD without ranges")
			}
		})
	}
	// Without a section the files are where the stock plugin has them.
	name := fmt.Sprintf("falcon-test-%d", os.Getpid())
	for _, ipam := range []string{``, `,"ipam":null`, `,"ipam":{}`} {
		r := Request{ContainerID: "a", IfName: "eth0", Config: fmt.Appendf(nil, `{"name":%q%s}`, name, ipam)}
		if err := Del(t.Context(), r); err != nil {
			t.Error(err)
		}
		if err := GC(t.Context(), r, nil); err != nil {
			t.Error(err)
		}
		if c, err := decode(r.Config, false); err != nil || c.storeDir() != filepath.Join(dataDirectory, name) || c.hasStore() {
			t.Errorf("%+v, %v", c, err)
		}
	}
	// What is wrong still is.
	for _, text := range []string{`{"ipam":{}}`, `{"name":"../x"}`, `{"name":"n","cniVersion":"7"}`, `{`, `{"name":"n","ipam":{"type":"host-local","dataDir":"/nowhere","ranges":[[]]}}`} {
		if err := Del(t.Context(), Request{ContainerID: "a", IfName: "eth0", Config: []byte(text)}); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}
