package network

import (
	"testing"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// What a runtime asks for by capabilities and arguments, and more than one interface.
func TestRuntimeConfig(t *testing.T) {
	n := oneNode(t)
	list := n.List("1.0.0", node.Network("falcon"))
	c := n.Container("c")
	c.Capabilities = map[string]any{"mac": "02:11:22:33:44:55", "ips": []string{"10.88.1.77/24", "fd00:88:0:1::77/64"}}
	r := n.MustAdd(list, c)
	if c.Address(0) != "10.88.1.77" || c.Address(1) != "fd00:88:0:1::77" || r.Interfaces[2].Mac != "02:11:22:33:44:55" {
		t.Errorf("%+v", r)
	}
	n.MustHold(c)
	if err := n.Check(t.Context(), list, c); err != nil {
		t.Error(err)
	}
	d := n.Container("d")
	d.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "d"}, {"IP", "10.88.1.88"}}
	n.MustAdd(list, d)
	if d.Address(0) != "10.88.1.88" {
		t.Errorf("%+v", d.Result)
	}
	if err := d.NS.Try("tcp", c.NS.Echo("tcp", "10.88.1.77:0"), patience); err != nil {
		t.Error(err)
	}

	// One that another has; one that is nobody's here; a MAC that is none.
	for name, capabilities := range map[string]map[string]any{
		"taken":        {"ips": []string{"10.88.1.77"}},
		"of elsewhere": {"ips": []string{"10.99.0.1"}},
		"gateway":      {"ips": []string{"10.88.1.1"}},
		"no address":   {"ips": []string{"ten"}},
		"no MAC":       {"mac": "ten"},
		"group's MAC":  {"mac": "01:00:5e:00:00:01"},
	} {
		t.Run(name, func(t *testing.T) {
			e := n.Container("e")
			e.Capabilities = capabilities
			if err := n.Add(t.Context(), list, e); err == nil {
				t.Errorf("%+v", e.Result)
			}
			n.MustHold(c, d)
		})
	}
	n.MustDel(list, c, d)
	n.MustHold()
}

func TestInterfacesOfOneContainer(t *testing.T) {
	n := node.New(t, 1)
	n.Outside()
	n.Config.Networks = append(n.Config.Networks, node.NewNetwork("green", 2, 1))
	n.Start()
	blue := n.NamedList("blue", "1.1.0", node.Network("falcon"))
	green := n.NamedList("green", "1.1.0", node.Network("green"))

	first := n.Container("c")
	second, third := first.Interface("eth1"), first.Interface("net0")
	n.MustAdd(blue, first)
	n.MustAdd(blue, second)
	n.MustAdd(green, third)
	n.MustHold(first, second, third)
	for _, a := range []struct {
		c    *node.Container
		list string
	}{{first, "blue"}, {second, "blue"}, {third, "green"}} {
		l := blue
		if a.list == "green" {
			l = green
		}
		if err := n.Check(t.Context(), l, a.c); err != nil {
			t.Errorf("CHECK of %s: %v", a.c.IfName, err)
		}
	}
	other := n.Container("other")
	n.MustAdd(green, other)
	if err := first.NS.Try("tcp", other.NS.Echo("tcp", other.Address(0)+":0"), patience); err != nil {
		t.Errorf("to the second network: %v", err)
	}

	n.MustDel(blue, second)
	n.MustHold(first, third, other)
	if err := n.GC(t.Context(), blue, first); err != nil {
		t.Error(err)
	}
	n.MustHold(first, third, other) // the other configuration's are none of its business
	if err := n.Check(t.Context(), green, third); err != nil {
		t.Errorf("CHECK after another interface went: %v", err)
	}
	n.MustDel(blue, first)
	n.MustDel(green, third, other)
	n.MustHold()
}
