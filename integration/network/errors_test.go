package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// Each code of the specification by what brings it about, and nothing left after any.
func TestErrors(t *testing.T) {
	n := oneNode(t)
	c := n.Container("c")
	add, good := of(n, "ADD", c), conf(n, "1.1.0", nil)
	no := func(key string, value any) []byte { return conf(n, "1.1.0", set(key, value)) }
	file := filepath.Join(n.Dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range []struct {
		name string
		v    variables
		conf []byte
		code uint
		says string
	}{
		{"no version", add, conf(n, "1.1.0", func(c map[string]any) { delete(c, "cniVersion") }), types.ErrIncompatibleCNIVersion, "0.1.0"},
		{"an old version", add, conf(n, "0.2.0", nil), types.ErrIncompatibleCNIVersion, "0.2.0"},
		{"a version to come", add, conf(n, "9.0.0", nil), types.ErrIncompatibleCNIVersion, "9.0.0"},
		{"unknown key", add, no("isGateway", true), types.ErrUnsupportedField, "isGateway"},
		{"unknown container", of(n, "CHECK", c), no("prevResult", map[string]any{"cniVersion": "1.1.0"}), types.ErrUnknownContainer, "c"},

		{"no command", add.with("COMMAND", ""), good, types.ErrInvalidEnvironmentVariables, "CNI_COMMAND"},
		{"unknown command", add.with("COMMAND", "MEND"), good, types.ErrInvalidEnvironmentVariables, "CNI_COMMAND"},
		{"command of the agent's own", add.with("COMMAND", "add"), good, types.ErrInvalidEnvironmentVariables, "CNI_COMMAND"},
		{"no container", add.with("CONTAINERID", ""), good, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		{"a container like a path", add.with("CONTAINERID", "../c"), good, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		{"no interface", add.with("IFNAME", ""), good, types.ErrInvalidEnvironmentVariables, "CNI_IFNAME"},
		{"an interface like a path", add.with("IFNAME", "a/b"), good, types.ErrInvalidEnvironmentVariables, "CNI_IFNAME"},
		{"an interface too long", add.with("IFNAME", "interface0123456"), good, types.ErrInvalidEnvironmentVariables, "CNI_IFNAME"},
		{"no path", add.with("PATH", ""), good, types.ErrInvalidEnvironmentVariables, "CNI_PATH"},
		{"no namespace", add.with("NETNS", ""), good, types.ErrInvalidEnvironmentVariables, "CNI_NETNS"},
		{"an interface that is there", add.with("IFNAME", "lo"), good, types.ErrInvalidEnvironmentVariables, "lo"},

		{"no configuration", add, nil, types.ErrDecodingFailure, ""},
		{"a configuration cut short", add, good[:len(good)-2], types.ErrDecodingFailure, ""},
		{"two configurations", add, append(bytes.Clone(good), good...), types.ErrDecodingFailure, ""},
		{"a previous result that is none", of(n, "DEL", c), no("prevResult", 7), types.ErrDecodingFailure, "prevResult"},
		{"2 MiB", add, no("args", strings.Repeat("x", 2<<20)), types.ErrDecodingFailure, "large"},
		{"2 MiB of spaces", add, append(bytes.Repeat([]byte(" "), 2<<20), good...), types.ErrDecodingFailure, "large"},

		{"no name", add, conf(n, "1.1.0", func(c map[string]any) { delete(c, "name") }), types.ErrInvalidNetworkConfig, "name"},
		{"a name like a path", add, no("name", "../../x"), types.ErrInvalidNetworkConfig, "name"},
		{"unknown network", add, no("network", "blue"), types.ErrInvalidNetworkConfig, "blue"},
		{"a previous result for the first plugin", add, no("prevResult", map[string]any{"cniVersion": "1.1.0"}), types.ErrInvalidNetworkConfig, "prevResult"},
		{"CHECK without one", of(n, "CHECK", c), good, types.ErrInvalidNetworkConfig, "prevResult"},
		{"GC without a list", variables{"COMMAND": "GC", "PATH": "/"}, good, types.ErrInvalidNetworkConfig, "valid-attachments"},

		{"a namespace that is not there", add.with("NETNS", "/run/netns/gone"), good, types.ErrInvalidNetNS, "/run/netns/gone"},
		{"a file for a namespace", add.with("NETNS", file), good, types.ErrInvalidNetNS, file},
		{"a directory", add.with("NETNS", "/"), good, types.ErrInvalidNetNS, "network namespace"},
		{"a namespace of other kind", add.with("NETNS", "/proc/self/ns/uts"), good, types.ErrInvalidNetNS, "network namespace"},
		{"the node's own", add.with("NETNS", n.NS.Path()), good, types.ErrInvalidNetNS, "own"},

		{"unknown network for STATUS", variables{"COMMAND": "STATUS"}, no("network", "blue"), types.ErrPluginNotAvailable, "blue"},
	} {
		t.Run(e.name, func(t *testing.T) {
			out, failed := expect(t, n, e.v, e.conf, e.code)
			if !strings.Contains(string(out), e.says) {
				t.Errorf("%s does not tell %q", out, e.says)
			}
			if failed != nil && failed.CNIVersion != "1.1.0" {
				t.Errorf("the error is of version %s", failed.CNIVersion)
			}
			n.MustHold()
		})
	}
	t.Run("version of errors", func(t *testing.T) {
		if _, failed := expect(t, n, add, conf(n, "0.4.0", set("network", "blue")), types.ErrInvalidNetworkConfig); failed.CNIVersion != "0.4.0" {
			t.Errorf("the error is of version %s", failed.CNIVersion)
		}
	})
	t.Run("input that can't be read", func(t *testing.T) {
		dir, err := os.Open("/")
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd := osexec.Command(filepath.Join(n.Bin, "falcon"))
		cmd.Env, cmd.Stdin = append(add.environ(), "FALCON_ROOT="+n.Root()), dir
		out, err := cmd.Output()
		var failed failure
		if e := json.Unmarshal(out, &failed); err == nil || e != nil || failed.Code != types.ErrIOFailure {
			t.Errorf("%s: %v", out, err)
		}
	})
	t.Run("attached already", func(t *testing.T) {
		list := n.List("1.1.0", node.Network("falcon"))
		n.MustAdd(list, c)
		defer n.MustDel(list, c)
		expect(t, n, add, good, types.ErrInvalidEnvironmentVariables)
		// By another configuration, into another namespace: the interface is the container's.
		expect(t, n, add.with("NETNS", n.Container("d").NS.Path()), no("name", "other"), types.ErrInvalidEnvironmentVariables)
		// By another's name.
		expect(t, n, add.with("CONTAINERID", "d"), good, types.ErrInvalidEnvironmentVariables)
		n.MustHold(c)
		if err := n.Check(t.Context(), list, c); err != nil {
			t.Error(err)
		}
	})
	n.MustHold()
}

// Without the agent what waits can wait, and what has to be taken away is taken away.
func TestWithoutAgent(t *testing.T) {
	n := oneNode(t)
	list := n.List("1.1.0", node.Network("falcon"))
	c, d, e := n.Container("c"), n.Container("d"), n.Container("e")
	n.MustAdd(list, c)
	n.MustAdd(list, d)
	n.MustAdd(list, e)
	n.Kill()
	good := conf(n, "1.1.0", nil)
	expect(t, n, of(n, "ADD", n.Container("f")), good, types.ErrTryAgainLater)
	expect(t, n, of(n, "CHECK", c), good, types.ErrTryAgainLater)
	expect(t, n, variables{"COMMAND": "STATUS"}, good, types.ErrPluginNotAvailable)
	if err := n.Status(t.Context(), list); err == nil {
		t.Error("STATUS succeeded")
	}
	if err := d.NS.Try("udp", e.NS.Echo("udp", e.Address(0)+":0"), patience); err != nil {
		t.Errorf("traffic without the agent: %v", err)
	}
	n.MustDel(list, c)
	n.MustDel(list, c)
	n.MustHold(d, e)
	if err := n.GC(t.Context(), list, e); err != nil {
		t.Errorf("GC: %v", err)
	}
	n.MustHold(e)
	n.Start()
	n.MustHold(e)
	if err := n.Check(t.Context(), list, e); err != nil {
		t.Error(err)
	}
	n.MustDel(list, e)
	n.MustHold()
}

func TestAddressesRunOut(t *testing.T) {
	for name, subnets := range map[string][]netip.Prefix{
		"IPv4":      {netip.MustParsePrefix("10.88.1.0/29"), netip.MustParsePrefix("fd00:88:0:1::/64")},
		"IPv6":      {netip.MustParsePrefix("10.88.1.0/24"), netip.MustParsePrefix("fd00:88:0:1::/125")},
		"IPv4 only": {netip.MustParsePrefix("10.88.1.0/30")},
	} {
		t.Run(name, func(t *testing.T) {
			n := node.New(t, 1)
			n.Outside()
			n.Config.Networks[0].Subnets = subnets
			n.Start()
			list := n.List("1.1.0", node.Network("falcon"))
			var attached []*node.Container
			for {
				c := n.Container("c" + string(rune('0'+len(attached))))
				err := n.Add(t.Context(), list, c)
				var coded *types.Error
				if errors.As(err, &coded) && strings.Contains(err.Error(), "no IP addresses available") {
					break
				}
				if err != nil || len(attached) > 8 {
					t.Fatalf("ADD %d: %v", len(attached), err)
				}
				attached = append(attached, c)
			}
			if len(attached) == 0 {
				t.Fatal("there were no addresses")
			}
			n.MustHold(attached...)
			n.MustDel(list, attached[0])
			n.MustAdd(list, attached[0])
			n.MustHold(attached...)
			n.MustDel(list, attached...)
			n.MustHold()
		})
	}
}
