package peers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/backoff"

	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

const twoNodes = `
[[node]]
name = "n1"
address = "192.0.0.1"
[[node.network]]
vni = 42
subnets = ["10.0.1.0/24"]

[[node]]
name = "n2"
address = "192.0.0.2"
[[node.network]]
vni = 42
subnets = ["10.0.2.0/24"]
`

func TestDecodeFile(t *testing.T) {
	nodes, bad, err := peers.DecodeFile([]byte(twoNodes))
	if err != nil || len(bad) != 0 || !same(nodes, []peers.Node{node(1), node(2)}) {
		t.Fatal(nodes, bad, err)
	}
	if nodes, bad, err := peers.DecodeFile([]byte("# none\n")); err != nil || len(nodes)+len(bad) != 0 {
		t.Fatal(nodes, bad, err)
	}
	for text, want := range map[string]string{
		"":                                      "1:1: the file is empty",
		"\n\n":                                  "1:1: the file is empty",
		"[[node]]\nname = \"a\"\nadress = \"\"": "3:1: unknown key \"node.adress\"",
		"[[nodes]]":                             "unknown key",
		"[[node]]\naddress = \"192.0.2\"":       "192.0.2",
		"[[node]]\nname = 7":                    "2:",
		"[[node]]\n[[node.network]]\nsubnets = [\"10.0.0.0\"]": "10.0.0.0",
		"[[node]]\n[[node.network]]\nvni = -1":                 "3:",
		"[[node":                                               "1:",
	} {
		_, _, err := peers.DecodeFile([]byte(text))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	nodes, bad, err = peers.DecodeFile([]byte(strings.Replace(twoNodes, "[[node.network]]", "[[node.network]]\nvni=42\nsubnets=[]\n[[node.network]]", 1)))
	if err != nil || !same(nodes, []peers.Node{node(2)}) || len(bad) != 1 || bad[0].Name != "n1" {
		t.Fatal(nodes, bad, err)
	}
}

func TestRecord(t *testing.T) {
	n := subnets(node(1), 42, "10.1.0.0/24", "fd00::/64")
	text := peers.EncodeRecord(n, "i")
	if want := `{"address":"192.0.0.1","networks":{"42":["10.1.0.0/24","fd00::/64"]},"instance":"i"}`; string(text) != want {
		t.Fatalf("got %s, want %s", text, want)
	}
	if got, err := peers.DecodeRecord("n1", text); err != nil || !got.Equal(n) {
		t.Fatal(got, err)
	}
	got, err := peers.DecodeRecord("n1", []byte(`{"address":"192.0.0.1","networks":{"42":["10.0.1.0/24"]},"later":[1]}`))
	if err != nil || !got.Equal(node(1)) {
		t.Fatal("a field of a later version:", got, err)
	}
	for _, text := range []string{
		"", "x", "[]", `{"address":7}`, `{"address":"a"}`, `{"networks":{"-1":[]}}`,
		`{"networks":{"1":["10.0.0.0"]}}`, `{"networks":[]}`, `{} {}`, strings.Repeat(" ", 200<<10) + "{}",
	} {
		if _, err := peers.DecodeRecord("n1", []byte(text)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.50q: %v", text, err)
		}
	}
}

func TestDelay(t *testing.T) {
	c := backoff.Config{BaseDelay: time.Second, Multiplier: 2, Jitter: 0.2, MaxDelay: 10 * time.Second}
	for failures, want := range map[int]time.Duration{0: time.Second, 1: 2 * time.Second, 3: 8 * time.Second, 4: 10 * time.Second, 1 << 40: 10 * time.Second} {
		for range 100 {
			if d := peers.Delay(c, failures); d < want*8/10-1 || d > want*12/10+1 {
				t.Fatalf("after %d failures %s, want about %s", failures, d, want)
			}
		}
	}
}

func TestEtcdConfig(t *testing.T) {
	ok := peers.EtcdConfig{Endpoints: []string{"https://192.0.2.1:2379", "https://[2001:db8::1]:2379"}}
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*peers.EtcdConfig){
		"no endpoints":          func(c *peers.EtcdConfig) { c.Endpoints = nil },
		"want http://":          func(c *peers.EtcdConfig) { c.Endpoints = []string{"192.0.2.1:2379"} },
		"with TLS and without":  func(c *peers.EtcdConfig) { c.Endpoints[1] = "http://192.0.2.1:2379" },
		"is without TLS though": func(c *peers.EtcdConfig) { c.Endpoints, c.CA = []string{"http://192.0.2.1:2379"}, "/ca" },
		"starts with a slash":   func(c *peers.EtcdConfig) { c.Prefix = "falcon" },
		"certificate and key":   func(c *peers.EtcdConfig) { c.Cert = "/c" },
		"user name and":         func(c *peers.EtcdConfig) { c.Username = "u" },
		"whole seconds":         func(c *peers.EtcdConfig) { c.TTL = 1500 * time.Millisecond },
		"live -1s":              func(c *peers.EtcdConfig) { c.TTL = -time.Second },
	} {
		c := ok
		c.Endpoints = append([]string{}, ok.Endpoints...)
		change(&c)
		err := c.Validate()
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if err := peers.Etcd(c).Run(t.Context(), node(1), nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Run: %v", err)
		}
	}
	for _, s := range []peers.Source{peers.Etcd(ok), peers.File("/nodes")} {
		if err := s.Run(t.Context(), peers.Node{Name: "a"}, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Run of a node without an address: %v", err)
		}
	}
}

func FuzzDecodeFile(f *testing.F) {
	f.Add([]byte(twoNodes))
	f.Add([]byte("[[node]]\nname=\"a\"\naddress=\"fe80::1%eth0\"\n[[node.network]]\nvni=0\nsubnets=[\"::/0\"]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		nodes, bad, err := peers.DecodeFile(text)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) || len(nodes)+len(bad) != 0 {
				t.Fatal(nodes, bad, err)
			}
			return
		}
		checkSelect(t, nodes)
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add("n1", peers.EncodeRecord(node(1), "instance"))
	f.Add("../x", []byte(`{"address":"::ffff:1.2.3.4","networks":{"0":null,"1":["0.0.0.0/0"]}}`))
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		n, err := peers.DecodeRecord(name, text)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatal(err)
			}
			return
		}
		checkSelect(t, []peers.Node{n})
		if n.Validate() != nil {
			return
		}
		again, err := peers.DecodeRecord(name, peers.EncodeRecord(n, ""))
		if err != nil || !again.Equal(n) {
			t.Fatalf("%v became %v, %v", n, again, err)
		}
	})
}

// checkSelect checks that whatever was decoded can be selected from.
func checkSelect(t *testing.T, nodes []peers.Node) {
	good, bad := peers.Select(node(0), nodes)
	if len(good)+len(bad) > len(nodes) {
		t.Fatal(good, bad)
	}
	for i, n := range good {
		if n.Validate() != nil || n.Name == "n0" || conflict(n, node(0)) {
			t.Fatal(n)
		}
		for _, m := range good[:i] {
			if n.Name == m.Name || conflict(n, m) {
				t.Fatal(n, m)
			}
		}
	}
}
