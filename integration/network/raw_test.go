package network

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/integration/network/node"
)

// variables are CNI's environment, without the prefix.
type variables map[string]string

// of are those for an attachment.
func of(n *node.Node, command string, c *node.Container) variables {
	return variables{
		"COMMAND": command, "CONTAINERID": c.ID, "NETNS": c.NS.Path(), "IFNAME": c.IfName, "PATH": strings.Join(n.Path(), ":"),
	}
}

// with is v with one changed, or without it if value is empty.
func (v variables) with(name, value string) variables {
	v = maps.Clone(v)
	if v[name] = value; value == "" {
		delete(v, name)
	}
	return v
}

func (v variables) environ() (env []string) {
	for _, name := range slices.Sorted(maps.Keys(v)) {
		env = append(env, "CNI_"+name+"="+v[name])
	}
	return env
}

// conf is falcon's own configuration, as libcni makes it of a list.
func conf(n *node.Node, version string, change func(map[string]any)) []byte {
	c := map[string]any{
		"cniVersion": version, "name": "list", "type": "falcon", "network": "falcon",
		"ipam": map[string]any{"type": "host-local", "dataDir": n.IPAM()},
	}
	if change != nil {
		change(c)
	}
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // of literals
	}
	return text
}

// set is a change of conf.
func set(key string, value any) func(map[string]any) {
	return func(c map[string]any) { c[key] = value }
}

// failure is an error of CNI, spec/SPEC.md section 5.
type failure struct {
	CNIVersion   string
	Code         uint
	Msg, Details string
}

// exec runs falcon; failed is nil if it succeeded.
func exec(t *testing.T, n *node.Node, v variables, config []byte) (out []byte, failed *failure) {
	t.Helper()
	out, ok, err := n.Exec(t.Context(), v.environ(), config)
	if err != nil {
		t.Fatalf("%v: %v", v, err)
	}
	if ok {
		return out, nil
	}
	failed = &failure{}
	if err := json.Unmarshal(out, failed); err != nil {
		t.Fatalf("%v printed %q, which is no error of CNI: %v", v, out, err)
	}
	if failed.Code == 0 || failed.Msg == "" || failed.CNIVersion == "" {
		t.Errorf("%v: %s lacks a code, a message or a version", v, out)
	}
	return out, failed
}

// expect runs falcon and wants a code, 0 for success.
func expect(t *testing.T, n *node.Node, v variables, config []byte, code uint) (out []byte, failed *failure) {
	t.Helper()
	out, failed = exec(t, n, v, config)
	switch {
	case failed == nil && code != 0:
		t.Errorf("%v succeeded: %s; want code %d", v, out, code)
		failed = &failure{}
	case failed != nil && failed.Code != code:
		t.Errorf("%v: %s; want code %d", v, out, code)
	}
	return out, failed
}

// oneNode is a running node with the network "falcon", and what is outside of it.
func oneNode(t *testing.T) *node.Node {
	t.Helper()
	n := node.New(t, 1)
	n.Outside()
	n.Start()
	return n
}
