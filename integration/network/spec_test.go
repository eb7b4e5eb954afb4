package network

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/version"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// versions are those that runtimes use.
var versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func atLeast(t *testing.T, v, least string) bool {
	t.Helper()
	ok, err := version.GreaterThanOrEqualTo(v, least)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// What runtimes do, by the library that they do it by.
func TestLibrary(t *testing.T) {
	n := node.New(t, 1)
	out := n.Outside()
	n.Start()
	echo4, echo6 := out.Echo("tcp", "192.0.2.254:0"), out.Echo("tcp", "[fd00:2::fe]:0")
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			ctx, list, c := t.Context(), n.List(v, node.Network("falcon")), n.Container("library-"+v)
			if err := n.Status(ctx, list); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			n.MustAdd(list, c)
			n.MustHold(c)
			for _, echo := range []string{echo4, echo6} {
				if err := c.NS.Try("tcp", echo, patience); err != nil {
					t.Error(err)
				}
			}
			if atLeast(t, v, "0.4.0") {
				if err := n.Check(ctx, list, c); err != nil {
					t.Errorf("CHECK: %v", err)
				}
			}
			if err := n.GC(ctx, list, c); err != nil {
				t.Errorf("GC: %v", err)
			}
			n.MustHold(c)
			for range 2 { // the second time it is gone already
				n.MustDel(list, c)
				n.MustHold()
			}
			if atLeast(t, v, "1.1.0") {
				n.MustAdd(list, c)
				if err := n.GC(ctx, list); err != nil {
					t.Errorf("GC: %v", err)
				}
				n.MustHold()
			}
		})
	}
}

// The same by hand: what falcon prints, to the letter where it matters.
func TestCommands(t *testing.T) {
	n := oneNode(t)
	text, _ := expect(t, n, variables{"COMMAND": "VERSION"}, []byte(`{"cniVersion":"1.1.0"}`), 0)
	var supported struct {
		CNIVersion        string
		SupportedVersions []string
	}
	if err := json.Unmarshal(text, &supported); err != nil || supported.CNIVersion == "" {
		t.Errorf("VERSION: %s: %v", text, err)
	}
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			if !strings.Contains(strings.Join(supported.SupportedVersions, " "), v) {
				t.Errorf("VERSION: %s", text)
			}
			c := n.Container("by-hand-" + v)
			added, _ := expect(t, n, of(n, "ADD", c), conf(n, v, set("dns", map[string]any{"nameservers": []string{"10.88.0.53"}})), 0)
			var result struct {
				CNIVersion string
				Interfaces []struct{ Name, Mac, Sandbox string }
				IPs        []struct {
					Version, Address, Gateway string
					Interface                 int
				}
				Routes []struct{ Dst, GW string }
				DNS    struct{ Nameservers []string }
			}
			if err := json.Unmarshal(added, &result); err != nil {
				t.Fatalf("ADD: %s: %v", added, err)
			}
			if result.CNIVersion != v || len(result.Interfaces) != 3 || len(result.IPs) != 2 || len(result.Routes) != 2 || len(result.DNS.Nameservers) != 1 {
				t.Fatalf("ADD: %s", added)
			}
			for i, gateway := range []string{"10.88.1.1", "fd00:88:0:1::1"} {
				ip := result.IPs[i]
				if in := result.Interfaces[ip.Interface]; in.Name != "eth0" || in.Sandbox != c.NS.Path() || len(in.Mac) != len("00:00:00:00:00:00") {
					t.Errorf("the address %s is of the interface %+v", ip.Address, in)
				}
				if _, _, err := net.ParseCIDR(ip.Address); err != nil || ip.Gateway != gateway {
					t.Errorf("ADD: %s", added)
				}
				if wantsFamily := !atLeast(t, v, "1.0.0"); wantsFamily != (ip.Version != "") {
					t.Errorf("an address of version %s has the family %q", v, ip.Version)
				}
			}
			previous := conf(n, v, set("prevResult", json.RawMessage(added)))
			if atLeast(t, v, "0.4.0") {
				if out, _ := expect(t, n, of(n, "CHECK", c), previous, 0); len(out) != 0 {
					t.Errorf("CHECK printed %s", out)
				}
			} else {
				expect(t, n, of(n, "CHECK", c), previous, 1)
			}
			if out, _ := expect(t, n, variables{"COMMAND": "STATUS"}, conf(n, v, nil), 0); len(out) != 0 {
				t.Errorf("STATUS printed %s", out)
			}
			valid := []map[string]string{{"containerID": c.ID, "ifname": c.IfName}}
			gc := variables{"COMMAND": "GC", "PATH": strings.Join(n.Path(), ":")}
			if out, _ := expect(t, n, gc, conf(n, v, set("cni.dev/valid-attachments", valid)), 0); len(out) != 0 {
				t.Errorf("GC printed %s", out)
			}
			if out, _ := expect(t, n, of(n, "DEL", c), previous, 0); len(out) != 0 {
				t.Errorf("DEL printed %s", out)
			}
			n.MustHold()
		})
	}
}

// DEL is for what is there no more, or never was, in whatever order things went.
func TestDelTakesWhatIsLeft(t *testing.T) {
	n := oneNode(t)
	list := n.List("1.1.0", node.Network("falcon"))
	plain := conf(n, "1.1.0", nil)

	never := n.Container("never")
	expect(t, n, of(n, "DEL", never), plain, 0)
	n.MustDel(list, never)
	n.MustHold()

	for name, v := range map[string]func(variables) variables{
		"no namespace":           func(v variables) variables { return v.with("NETNS", "") },
		"namespace gone":         func(v variables) variables { return v.with("NETNS", "/run/netns/gone") },
		"another's namespace":    func(v variables) variables { return v.with("NETNS", n.Container("other").NS.Path()) },
		"the node's namespace":   func(v variables) variables { return v.with("NETNS", n.NS.Path()) },
		"path is of other kind":  func(v variables) variables { return v.with("NETNS", "/dev/null") },
		"without what ADD said":  func(v variables) variables { return v },
		"arguments nobody knows": func(v variables) variables { return v.with("ARGS", "IgnoreUnknown=1;A=b") },
	} {
		t.Run(name, func(t *testing.T) {
			c := n.Container("deleted")
			n.MustAdd(list, c)
			expect(t, n, v(of(n, "DEL", c)), plain, 0)
			n.MustHold()
			expect(t, n, v(of(n, "DEL", c)), plain, 0)
		})
	}

	t.Run("another's interface stays", func(t *testing.T) {
		c := n.Container("stays")
		n.MustAdd(list, c)
		n.MustDel(list, c.Interface("eth1"), &node.Container{ID: "other", NS: c.NS, IfName: "eth0"})
		n.MustHold(c)
		if err := n.Check(t.Context(), list, c); err != nil {
			t.Error(err)
		}
		n.MustDel(list, c)
	})
	n.MustHold()
}
