package peers_test

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

func TestValidate(t *testing.T) {
	long := strings.Repeat("a", 254)
	for name, c := range map[string]struct {
		node peers.Node
		want string // part of the error, empty if there must be none
	}{
		"plain":              {node(1), ""},
		"no networks":        {peers.Node{Name: "a", Address: netip.MustParseAddr("192.0.2.1")}, ""},
		"IPv6":               {subnets(at(node(1), "2001:db8::1"), 1, "fd00::/64", "10.1.0.0/16"), ""},
		"smallest":           {subnets(node(1), 1<<24-1, "10.1.0.0/30", "fd00::/126"), ""},
		"host name":          {named(node(1), "a-1.Example_b"), ""},
		"no name":            {named(node(1), ""), "no name"},
		"slash":              {named(node(1), "a/b"), "no name"},
		"dot dot":            {named(node(1), ".."), "no name"},
		"new line":           {named(node(1), "a\n"), "no name"},
		"long name":          {named(node(1), long), "no name"},
		"no address":         {peers.Node{Name: "a"}, "no address"},
		"loopback":           {at(node(1), "127.0.0.1"), "can't be a node's address"},
		"unspecified":        {at(node(1), "::"), "can't be a node's address"},
		"multicast":          {at(node(1), "224.0.0.1"), "can't be a node's address"},
		"broadcast":          {at(node(1), "255.255.255.255"), "can't be a node's address"},
		"link-local":         {at(node(1), "fe80::1"), "can't be a node's address"},
		"zone":               {at(node(1), "2001:db8::1%eth0"), "can't be a node's address"},
		"mapped":             {at(node(1), "::ffff:192.0.2.1"), "can't be a node's address"},
		"VNI 0":              {subnets(node(1), 0, "10.1.0.0/24"), "VNI 0"},
		"VNI of 25 bits":     {subnets(node(1), 1<<24, "10.1.0.0/24"), "VNI 16777216"},
		"no subnets":         {subnets(node(1), 1), "has no subnets"},
		"host bits":          {subnets(node(1), 1, "10.1.0.1/24"), "want 10.1.0.0/24"},
		"everything":         {subnets(node(1), 1, "0.0.0.0/0"), "unicast"},
		"half of everything": {subnets(node(1), 1, "128.0.0.0/1"), "want a length of /8 to /30"},
		"no room":            {subnets(node(1), 1, "10.1.0.0/31"), "want a length of /8 to /30"},
		"no room, IPv6":      {subnets(node(1), 1, "fd00::/127"), "want a length of /8 to /126"},
		"multicast subnet":   {subnets(node(1), 1, "224.1.0.0/16"), "unicast"},
		"twice":              {subnets(node(1), 1, "10.1.0.0/24", "10.1.0.0/24"), "overlaps the subnet 10.1.0.0/24 of the same node"},
		"within":             {subnets(node(1), 1, "10.1.0.0/16", "10.1.7.0/24"), "overlaps the subnet 10.1.0.0/16"},
		"around":             {subnets(node(1), 1, "10.1.7.0/24", "10.1.0.0/16"), "overlaps the subnet 10.1.7.0/24"},
		"own address":        {subnets(at(node(1), "10.1.7.1"), 1, "10.1.0.0/16"), "overlaps the address 10.1.7.1"},
		"invalid prefix":     {peers.Node{Name: "a", Address: netip.MustParseAddr("192.0.2.1"), Networks: map[uint32][]netip.Prefix{1: {{}}}}, "no prefix"},
		"two networks": {peers.Node{Name: "a", Address: netip.MustParseAddr("192.0.2.1"), Networks: map[uint32][]netip.Prefix{
			1: {netip.MustParsePrefix("10.1.0.0/24")}, 2: {netip.MustParsePrefix("10.1.0.0/25")},
		}}, "subnet 10.1.0.0/25 of network 2 overlaps the subnet 10.1.0.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.node.Validate()
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an invalid argument with %q", err, c.want)
			}
		})
	}
}

func TestManySubnets(t *testing.T) {
	n := node(1)
	for i := range 1025 {
		n.Networks[42] = append(n.Networks[42], netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24))
	}
	if err := n.Validate(); !errdefs.IsInvalidArgument(err) {
		t.Fatalf("1026 subnets: %v", err)
	}
}

func TestSelect(t *testing.T) {
	self := node(0)
	for name, c := range map[string]struct {
		nodes []peers.Node
		want  []string          // names
		bad   map[string]string // parts of errors by name
	}{
		"none":                {nil, nil, nil},
		"sorted, without own": {[]peers.Node{node(2), node(0), node(1)}, []string{"n1", "n2"}, nil},
		"own with another address": {
			[]peers.Node{at(node(0), "192.0.9.9"), node(1)},
			[]string{"n1"},
			nil,
		},
		"own address":                   {[]peers.Node{at(node(1), "192.0.0.0"), node(2)}, []string{"n2"}, map[string]string{"n1": "overlaps the address 192.0.0.0 of node n0"}},
		"own subnet":                    {[]peers.Node{subnets(node(1), 42, "10.0.0.0/24"), node(2)}, []string{"n2"}, map[string]string{"n1": "the subnet 10.0.0.0/24 overlaps the subnet 10.0.0.0/24 of node n0"}},
		"part of own, another network":  {[]peers.Node{subnets(node(1), 7, "10.0.0.128/25")}, nil, map[string]string{"n1": "of node n0"}},
		"subnet around own address":     {[]peers.Node{subnets(node(1), 42, "192.0.0.0/30")}, nil, map[string]string{"n1": "overlaps the address 192.0.0"}},
		"subnet around another's":       {[]peers.Node{node(1), subnets(node(2), 42, "192.0.0.0/24")}, []string{"n1"}, map[string]string{"n2": "192.0.0."}},
		"address in another's subnet":   {[]peers.Node{node(1), at(node(2), "10.0.1.9")}, []string{"n1"}, map[string]string{"n2": "the address 10.0.1.9 overlaps the subnet 10.0.1.0/24 of node n1"}},
		"name twice: the first":         {[]peers.Node{node(1), named(node(2), "n1")}, []string{"n1"}, map[string]string{"n1": "another node of this name"}},
		"address twice: the first":      {[]peers.Node{node(2), at(node(1), "192.0.0.2")}, []string{"n2"}, map[string]string{"n1": "of node n2"}},
		"subnet twice: the first":       {[]peers.Node{node(2), subnets(node(1), 42, "10.0.2.0/24")}, []string{"n2"}, map[string]string{"n1": "of node n2"}},
		"who is left out takes nothing": {[]peers.Node{subnets(node(1), 42, "10.7.0.0/16", "10.0.0.0/24"), subnets(node(2), 42, "10.7.0.0/24")}, []string{"n2"}, map[string]string{"n1": "of node n0"}},
		"wrong in itself":               {[]peers.Node{named(node(1), ""), node(2)}, []string{"n2"}, map[string]string{"": "no name"}},
	} {
		t.Run(name, func(t *testing.T) {
			good, bad := peers.Select(self, c.nodes)
			if len(good) != len(c.want) {
				t.Fatalf("selected %v, want %v", good, c.want)
			}
			for i, n := range good {
				if n.Name != c.want[i] {
					t.Errorf("selected %v, want %v", good, c.want)
				}
			}
			if len(bad) != len(c.bad) {
				t.Fatalf("rejected %v, want %v", bad, c.bad)
			}
			for _, b := range bad {
				if want, ok := c.bad[b.Name]; !ok || !strings.Contains(b.Err.Error(), want) {
					t.Errorf("rejected %v, want %v", bad, c.bad)
				}
				if !errdefs.IsInvalidArgument(b.Err) && !errdefs.IsAlreadyExists(b.Err) {
					t.Errorf("%v has no type", b.Err)
				}
			}
		})
	}
}

// TestSelectDisjoint selects from nodes that are often in conflict, and compares with the
// plain way.
func TestSelectDisjoint(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		nodes := make([]peers.Node, random.IntN(30))
		for i := range nodes {
			nodes[i] = node(random.IntN(40))
			nodes[i].Networks = map[uint32][]netip.Prefix{}
			for range random.IntN(3) {
				nodes[i].Networks[uint32(random.IntN(3))] = []netip.Prefix{
					netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(10 + random.IntN(2)), byte(random.IntN(8)), byte(random.IntN(256)), 0}), 12+random.IntN(14)).Masked(),
				}
			}
		}
		self := node(100)
		good, bad := peers.Select(self, nodes)
		if len(good)+len(bad) != len(nodes) {
			t.Fatalf("%d selected and %d rejected of %d", len(good), len(bad), len(nodes))
		}
		selected := map[string]bool{}
		for i, n := range good {
			selected[n.Name] = true
			if i > 0 && good[i-1].Name >= n.Name {
				t.Fatalf("not sorted: %v", good)
			}
			if err := n.Validate(); err != nil {
				t.Fatal(err)
			}
			for _, m := range append(good[:i:i], self) {
				if conflict(n, m) {
					t.Fatalf("%v and %v were both selected", n, m)
				}
			}
		}
		// Nobody is left out without a reason.
		for i, n := range nodes {
			reason := n.Validate() != nil || conflict(n, self)
			for _, m := range nodes[:i] {
				reason = reason || n.Name == m.Name || conflict(n, m)
			}
			if !reason && !selected[n.Name] {
				t.Fatalf("%v was left out of %v", n, nodes)
			}
		}
	}
}

func conflict(a, b peers.Node) bool {
	for _, p := range space(a) {
		for _, q := range space(b) {
			if p.Overlaps(q) {
				return true
			}
		}
	}
	return false
}

func space(n peers.Node) []netip.Prefix {
	all := []netip.Prefix{netip.PrefixFrom(n.Address, n.Address.BitLen())}
	for _, p := range n.Networks {
		all = append(all, p...)
	}
	return all
}

func TestDiff(t *testing.T) {
	moved, grown := at(node(2), "192.0.9.9"), subnets(node(3), 42, "10.0.3.0/24", "10.9.0.0/24")
	for name, c := range map[string]struct {
		before, after []peers.Node
		joined, left  []peers.Node
		changed       []peers.Update
	}{
		"nothing":         {nil, nil, nil, nil, nil},
		"same":            {[]peers.Node{node(1)}, []peers.Node{node(1)}, nil, nil, nil},
		"other order":     {[]peers.Node{subnets(node(1), 1, "10.1.0.0/24", "10.2.0.0/24")}, []peers.Node{subnets(node(1), 1, "10.2.0.0/24", "10.1.0.0/24")}, nil, nil, nil},
		"first":           {nil, []peers.Node{node(1), node(2)}, []peers.Node{node(1), node(2)}, nil, nil},
		"last":            {[]peers.Node{node(1), node(2)}, nil, nil, []peers.Node{node(1), node(2)}, nil},
		"between":         {[]peers.Node{node(1), node(3)}, []peers.Node{node(1), node(2), node(3)}, []peers.Node{node(2)}, nil, nil},
		"one for another": {[]peers.Node{node(1)}, []peers.Node{node(2)}, []peers.Node{node(2)}, []peers.Node{node(1)}, nil},
		"changed":         {[]peers.Node{node(1), node(2), node(3)}, []peers.Node{node(1), moved, grown}, nil, nil, []peers.Update{{Old: node(2), New: moved}, {Old: node(3), New: grown}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := peers.Diff(c.before, c.after)
			if !same(d.Joined, c.joined) || !same(d.Left, c.left) || len(d.Changed) != len(c.changed) {
				t.Fatalf("got %+v", d)
			}
			for i, u := range d.Changed {
				if !u.Old.Equal(c.changed[i].Old) || !u.New.Equal(c.changed[i].New) {
					t.Errorf("got %+v, want %+v", u, c.changed[i])
				}
			}
			if d.Empty() != (len(c.joined)+len(c.left)+len(c.changed) == 0) {
				t.Errorf("Empty is %v", d.Empty())
			}
			d.Log(t.Context())
		})
	}
}

func BenchmarkSelect(b *testing.B) {
	nodes := make([]peers.Node, 5000)
	for i := range nodes {
		nodes[i] = node(i + 1)
	}
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	self := node(0)
	for b.Loop() {
		if good, _ := peers.Select(self, nodes); len(good) != len(nodes) {
			b.Fatal("nodes were left out")
		}
	}
}
