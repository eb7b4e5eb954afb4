package network

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/dump"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// Parts of a list for the reference plugins.
var (
	portmap   = node.Plugin{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true}
	bandwidth = node.Plugin{"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 80_000_000, "egressBurst": 8_000_000}
	filter    = node.Plugin{"type": "firewall", "backend": "iptables"}
	tuning    = node.Plugin{"type": "tuning", "sysctl": map[string]string{"net.core.somaxconn": "1000"}, "mtu": 1300}
)

// rules is all of netfilter, without counters and handles.
func rules(t *testing.T, n *node.Node) []string {
	t.Helper()
	out, err := n.Run("nft", "-s", "list", "ruleset")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

// own are the chains of falcon's tables among rules.
func own(lines []string) (kept []string) {
	var falcon, chain bool
	for _, line := range lines {
		if strings.HasPrefix(line, "table ") {
			falcon = strings.HasSuffix(line, " falcon {")
		}
		if chain = chain || strings.HasPrefix(line, "chain "); falcon && chain {
			kept = append(kept, line)
		}
		chain = chain && line != "}"
	}
	return kept
}

// Every reference plugin that bundles chain with, by itself and all together.
func TestChains(t *testing.T) {
	for name, chain := range map[string][]node.Plugin{
		"portmap": {portmap}, "bandwidth": {bandwidth}, "firewall": {filter}, "tuning": {tuning},
		"all": {tuning, bandwidth, filter, portmap},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := node.New(t, 1)
			out := n.Outside()
			n.Start()
			plugins := []node.Plugin{node.Network("falcon")}
			for _, p := range chain {
				p := maps.Clone(p)
				// It keeps what the interface was like, for DEL.
				if p["type"] == "tuning" {
					p["dataDir"] = filepath.Join(n.Dir, "tuning")
				}
				plugins = append(plugins, p)
			}
			list := n.List("1.0.0", plugins...)
			plain := n.Container("plain")
			n.MustAdd(n.List("1.0.0", node.Network("falcon")), plain)
			before := rules(t, n)

			c := n.Container("c")
			has := func(plugin string) bool { return name == plugin || name == "all" }
			if has("portmap") {
				c.Capabilities = map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
			}
			n.MustAdd(list, c)
			checked := list
			if has("portmap") {
				// Of two families this version wants the rules of one among the other's:
				// a CHECK of what comes before it has to do.
				checked = n.List("1.0.0", plugins[:len(plugins)-1]...)
			}
			if err := n.Check(t.Context(), checked, c); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			works(t, n, out, c, plain)
			if has("tuning") {
				link, err := c.NS.Netlink().LinkByName("eth0")
				if err != nil || link.Attrs().MTU != 1300 || c.NS.Sysctl("net/core/somaxconn") != "1000" {
					t.Errorf("tuning: %+v, %v", link, err)
				}
			}
			if has("portmap") {
				service(t, n, out, c, plain)
			}
			if got := own(rules(t, n)); !slices.Equal(got, own(before)) {
				t.Errorf("the plugins changed falcon's rules:\n%s\nwere\n%s", strings.Join(got, "\n"), strings.Join(own(before), "\n"))
			}
			// The agent's restart leaves the others' rules as they are.
			n.Kill()
			n.Start()
			works(t, n, out, c, plain)
			if err := n.Check(t.Context(), checked, c); err != nil {
				t.Errorf("CHECK after a restart: %v", err)
			}

			n.MustDel(list, c)
			n.MustDel(list, c)
			n.MustHold(plain)
			for _, line := range rules(t, n) {
				if !slices.Contains(before, line) && mentions.MatchString(line) {
					t.Errorf("left in the firewall: %s", line)
				}
			}
			links, err := dump.All(n.NS.Netlink().LinkList)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range links {
				if _, ok := l.(*netlink.Ifb); ok {
					t.Errorf("left of bandwidth: %s", l.Attrs().Name)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(n.Dir, "tuning", "*")); len(left) > 0 {
				t.Errorf("left of tuning: %s", left)
			}
			works(t, n, out, plain, nil)
		})
	}
}

// mentions is what only rules of a container have: its address or ports, or a chain of its
// own.
var mentions = regexp.MustCompile(`10\.88\.1\.|fd00:88:|8080|CNI-(DN|SN|UNI|[0-9a-f]{8})`)

// works fails the test unless a container is reached, and reaches outside.
func works(t *testing.T, n *node.Node, out *netnstest.NS, c, from *node.Container) {
	t.Helper()
	for i, outside := range []string{"192.0.2.254:0", "[fd00:2::fe]:0"} {
		if err := c.NS.Try("tcp", out.Echo("tcp", outside), patience); err != nil {
			t.Errorf("%s to outside: %v", c.ID, err)
		}
		if from != nil {
			if err := from.NS.Try("tcp", c.NS.Echo("tcp", at(c, i, "0")), patience); err != nil {
				t.Errorf("%s to %s: %v", from.ID, c.ID, err)
			}
		}
	}
}

// service is portmap's: port 8080 of the node is the container's 80.
func service(t *testing.T, n *node.Node, out *netnstest.NS, c, plain *node.Container) {
	t.Helper()
	c.NS.Echo("tcp", at(c, 0, "80"))
	for who, from := range map[string]*netnstest.NS{
		"outside": out, "another container": plain.NS, "the container itself": c.NS, "the node": n.NS,
	} {
		if err := from.Try("tcp", "192.0.2.1:8080", patience); err != nil {
			t.Errorf("the service from %s: %v", who, err)
		}
	}
	// By its gateway's address it is the node's, too.
	if err := plain.NS.Try("tcp", "10.88.1.1:8080", patience); err != nil {
		t.Errorf("the service by the gateway: %v", err)
	}
}

func TestMissingPluginInTheChain(t *testing.T) {
	n := oneNode(t)
	list := n.List("1.0.0", node.Network("falcon"), node.Plugin{"type": "there-is-none"})
	c := n.Container("c")
	if err := n.Add(t.Context(), list, c); err == nil {
		t.Error("ADD succeeded")
	}
	// What a runtime does then; libcni stops at the missing one, and the agent's GC takes
	// the rest.
	_ = n.Del(t.Context(), list, c)
	if err := n.GC(t.Context(), n.List("1.1.0", node.Network("falcon"))); err != nil {
		t.Error(err)
	}
	n.MustHold()
	if _, err := os.Stat(n.Root()); err != nil {
		t.Error(err)
	}
}
