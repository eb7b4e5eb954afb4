package network

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// hostile are configurations that are wrong in ways that parsers are attacked by.
func hostile(n *node.Node) map[string][]byte {
	ipam := func(text string) []byte {
		return fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"list","type":"falcon","network":"falcon","ipam":%s}`, text)
	}
	local := func(text string) []byte {
		return ipam(fmt.Sprintf(`{"type":"host-local","dataDir":%q,%s}`, n.IPAM(), text))
	}
	return map[string][]byte{
		"deep arrays":                []byte(strings.Repeat("[", 500_000)),
		"deep objects":               []byte(strings.Repeat(`{"args":`, 100_000)),
		"deep and whole":             conf(n, "1.1.0", set("args", deep(20_000))),
		"NUL":                        []byte("{\"cniVersion\":\"1.1.0\",\"name\":\"a\x00b\",\"type\":\"falcon\"}"),
		"escaped NUL":                []byte(`{"cniVersion":"1.1.0","name":"a\u0000b","type":"falcon"}`),
		"not UTF-8":                  []byte("{\"cniVersion\":\"1.1.0\",\"name\":\"\xff\xfe\",\"type\":\"falcon\"}"),
		"null":                       []byte("null"),
		"only an end":                []byte("\x00"),
		"variables for the agent":    []byte("CNI_COMMAND=DEL\x00\x00{}"),
		"large number":               []byte(`{"cniVersion":1e999999999,"name":"list"}`),
		"members of the wrong kind":  []byte(`{"cniVersion":["1.1.0"],"name":{},"type":7,"ipam":[]}`),
		"name too long":              conf(n, "1.1.0", set("name", strings.Repeat("n", 100_000))),
		"network of markup":          conf(n, "1.1.0", set("network", `"},{"code":0,"`+"\n\x1b[2J")),
		"a plugin by its path":       ipam(`{"type":"/bin/sh"}`),
		"a plugin by a way up":       ipam(`{"type":"../../../../bin/sh"}`),
		"itself for IPAM":            ipam(`{"type":"falcon"}`),
		"no plugin of that name":     ipam(`{"type":"there-is-none"}`),
		"IPAM null":                  ipam(`{"type":null}`),
		"a null range":               local(`"ranges":[[null]]`),
		"a null set":                 local(`"ranges":[null]`),
		"a range upside down":        local(`"ranges":[[{"subnet":"10.88.1.0/24","rangeStart":"10.88.1.9","rangeEnd":"10.88.1.3"}]]`),
		"all of IPv6":                local(`"ranges":[[{"subnet":"::/0"}]]`),
		"all of IPv4":                local(`"ranges":[[{"subnet":"0.0.0.0/0","rangeStart":"11.0.0.0"}]]`),
		"another's subnet":           local(`"ranges":[[{"subnet":"192.0.2.0/24"}]]`),
		"the gateway as a container": local(`"ranges":[[{"subnet":"10.88.1.0/24","gateway":"10.88.1.254","rangeStart":"10.88.1.1","rangeEnd":"10.88.1.1"}]]`),
		"the broadcast address":      local(`"ranges":[[{"subnet":"10.88.0.0/16","rangeStart":"10.88.1.255","rangeEnd":"10.88.1.255"}]]`),
		"the subnet's own address":   local(`"ranges":[[{"subnet":"10.88.0.0/16","rangeStart":"10.88.1.0","rangeEnd":"10.88.1.0"}]]`),
		"a directory that can't be":  ipam(`{"type":"host-local","dataDir":"/dev/null/x"}`),
		"overlapping ranges":         local(`"ranges":[[{"subnet":"10.88.1.0/24"},{"subnet":"10.88.1.0/25"}]]`),
		"routes that are none":       local(`"ranges":[[{"subnet":"10.88.1.0/24"}]],"routes":[{"dst":"all"}]`),
		"a route nobody can reach":   local(`"ranges":[[{"subnet":"10.88.1.0/24"}]],"routes":[{"dst":"10.0.0.0/8","gw":"fd00::1"}]`),
		"a route that is there":      local(`"ranges":[[{"subnet":"10.88.1.0/24"}]],"routes":[{"dst":"10.1.0.0/16"},{"dst":"10.1.0.0/16"}]`),
		"a route by a stranger":      local(`"ranges":[[{"subnet":"10.88.1.0/24"}]],"routes":[{"dst":"10.1.0.0/16","gw":"127.0.0.1"}]`),
		"a MAC of all":               conf(n, "1.1.0", set("runtimeConfig", map[string]any{"mac": "ff:ff:ff:ff:ff:ff"})),
		"a MAC of none":              conf(n, "1.1.0", set("runtimeConfig", map[string]any{"mac": "00:00:00:00:00:00"})),
		"ips of the wrong kind":      conf(n, "1.1.0", set("runtimeConfig", map[string]any{"ips": 7})),
		"DNS of the wrong kind":      conf(n, "1.1.0", set("dns", []int{1})),
	}
}

func deep(n int) (value any) {
	for range n {
		value = []any{value}
	}
	return value
}

// Whatever is sent, the answer is an error of CNI, the agent lives, and nothing is left.
func TestHostileConfiguration(t *testing.T) {
	n := oneNode(t)
	c := n.Container("c")
	pid := n.Pid()
	for name, text := range hostile(n) {
		t.Run(name, func(t *testing.T) {
			out, failed := exec(t, n, of(n, "ADD", c), text)
			if failed == nil {
				t.Errorf("ADD succeeded: %s", out)
			}
			// DEL and GC may succeed, there being nothing to take away.
			exec(t, n, of(n, "DEL", c), text)
			exec(t, n, of(n, "GC", c), text)
			exec(t, n, of(n, "CHECK", c), text)
			exec(t, n, variables{"COMMAND": "STATUS"}, text)
			n.MustHold()
		})
	}
	// One byte of a good one changed, of which most are still good.
	random := rand.New(rand.NewPCG(1, 2))
	good := conf(n, "1.1.0", nil)
	for i := range 30 {
		bad := append([]byte(nil), good...)
		bad[random.IntN(len(bad))] = byte(random.IntN(256))
		if strings.Contains(string(bad), n.IPAM()) { // else it is a directory of somewhere
			if _, failed := exec(t, n, of(n, "ADD", c), bad); failed == nil {
				expect(t, n, of(n, "DEL", c), bad, 0)
			}
		}
		n.MustHold()
		if t.Failed() {
			t.Fatalf("change %d: %q", i, bad)
		}
	}
	if r, err := n.Report(); err != nil || n.Pid() != pid {
		t.Errorf("the agent: %+v, %v", r, err)
	}
	n.MustAdd(n.List("1.1.0", node.Network("falcon")), c)
	n.MustHold(c)
}
