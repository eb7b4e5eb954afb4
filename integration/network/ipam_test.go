package network

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// at is the container's i-th address with a port.
func at(c *node.Container, i int, port string) string { return net.JoinHostPort(c.Address(i), port) }

// The stock host-local executed for the same files: what one reserved the other knows and
// releases.
func TestStockHostLocal(t *testing.T) {
	n := oneNode(t)
	// By another name it is a plugin like any other.
	dir := filepath.Join(n.Dir, "plugins")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(n.Stock, "usr/lib/cni/host-local"), filepath.Join(dir, "stock-local")); err != nil {
		t.Fatal(err)
	}
	config := func(kind string) []byte {
		return conf(n, "1.0.0", set("ipam", map[string]any{
			"type": kind, "dataDir": n.IPAM(),
			"ranges": []any{[]any{map[string]any{"subnet": "10.88.1.0/24"}}, []any{map[string]any{"subnet": "fd00:88:0:1::/64"}}},
		}))
	}
	call := func(command, kind string, c *node.Container, code uint) string {
		v := of(n, command, c)
		out, _ := expect(t, n, v.with("PATH", dir+":"+v["PATH"]), config(kind), code)
		return string(out)
	}
	c, d := n.Container("c"), n.Container("d")
	if out := call("ADD", "stock-local", c, 0); !strings.Contains(out, "10.88.1.2/24") || !strings.Contains(out, "fd00:88:0:1::2/64") {
		t.Errorf("stock: %s", out)
	}
	if out := call("ADD", "host-local", d, 0); !strings.Contains(out, "10.88.1.3/24") || !strings.Contains(out, "fd00:88:0:1::3/64") {
		t.Errorf("in process: %s", out)
	}
	held, err := n.Holdings()
	if err != nil || !strings.Contains(strings.Join(held, "\n"), "address 10.88.1.2 c eth0") {
		t.Errorf("%q, %v", held, err)
	}
	// The record knows how it was done, whatever DEL says.
	call("DEL", "host-local", c, 0)
	call("DEL", "stock-local", d, 0)
	n.MustHold()

	// What the agent forgot, as by a reboot, each takes away for the other.
	for _, kinds := range [][2]string{{"stock-local", "host-local"}, {"host-local", "stock-local"}} {
		call("ADD", kinds[0], c, 0)
		n.Stop()
		records, _ := filepath.Glob(filepath.Join(n.Root(), "endpoints", "*.json"))
		for _, file := range records {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
		n.Start()
		call("DEL", kinds[1], c, 0)
		n.MustHold()
	}
}

func TestStaticAddresses(t *testing.T) {
	n := oneNode(t)
	for _, s := range []struct {
		name      string
		addresses []string
		code      uint
		says      string
	}{
		{"both families", []string{"10.88.1.40/24", "fd00:88:0:1::40/64"}, 0, ""},
		{"a shorter prefix", []string{"10.88.1.41/16"}, 0, ""},
		{"two of one family", []string{"10.88.1.42/24", "10.88.1.43/24"}, 0, ""},
		{"of nobody's subnet", []string{"10.99.0.2/24"}, 7, "10.99.0.2"},
		{"one of two of nobody's", []string{"10.88.1.44/24", "2001:db8::1/64"}, 7, "2001:db8::1"},
		{"of another node's subnet", []string{"10.88.2.2/24"}, 7, "10.88.2.2"},
		{"the gateway's", []string{"10.88.1.1/24"}, 7, "10.88.1.1"},
		{"the subnet's", []string{"fd00:88:0:1::/64"}, 7, "fd00:88:0:1::"},
		{"the broadcast address", []string{"10.88.1.255/24"}, 7, "10.88.1.255"},
		{"none", nil, 7, "no address"},
	} {
		t.Run(s.name, func(t *testing.T) {
			addresses := []map[string]string{}
			for _, a := range s.addresses {
				addresses = append(addresses, map[string]string{"address": a})
			}
			p := maps.Clone(node.Network("falcon"))
			p["ipam"] = map[string]any{"type": "static", "addresses": addresses}
			c := n.Container("c")
			out, _ := expect(t, n, of(n, "ADD", c), conf(n, "1.0.0", set("ipam", p["ipam"])), s.code)
			if !strings.Contains(string(out), s.says) {
				t.Errorf("%s does not tell %q", out, s.says)
			}
			if s.code == 0 {
				for _, a := range s.addresses {
					ip, _, _ := strings.Cut(a, "/")
					if err := n.NS.Try("tcp", c.NS.Echo("tcp", net.JoinHostPort(ip, "0")), patience); err != nil {
						t.Error(err)
					}
				}
			}
			expect(t, n, of(n, "DEL", c), conf(n, "1.0.0", set("ipam", p["ipam"])), 0)
			n.MustHold()
		})
	}
}

// Without its plugin a container gets no address, and what it was to get it from later
// takes it back when it is there again.
func TestMissingIPAMPlugin(t *testing.T) {
	n := oneNode(t)
	ipam := set("ipam", map[string]any{"type": "static", "addresses": []any{map[string]string{"address": "10.88.1.40/24"}}})
	c := n.Container("c")
	nowhere := of(n, "ADD", c).with("PATH", n.Dir)
	if out, _ := expect(t, n, nowhere, conf(n, "1.0.0", ipam), 999); !strings.Contains(string(out), "static") {
		t.Errorf("ADD: %s", out)
	}
	n.MustHold()
	expect(t, n, of(n, "ADD", c), conf(n, "1.0.0", ipam), 0)
	// DEL goes by what ADD was given, in case the runtime's path has changed since.
	expect(t, n, of(n, "DEL", c).with("PATH", n.Dir), conf(n, "1.0.0", ipam), 0)
	n.MustHold()
}
