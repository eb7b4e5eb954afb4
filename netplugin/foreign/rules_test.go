package foreign

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// limited are rules that need every packet.
var limited = [][]expression{{exp("limit"), {name: "immediate"}}}

func jump(to string) [][]expression { return [][]expression{{{name: "immediate", chain: to}}} }

func TestWhatIsOnThePath(t *testing.T) {
	places := []place{{"eth0", true}, {"fb1", false}, {"fv0123456789a", false}}
	base := func(family byte, hook int, devices ...string) table {
		return table{family: family, name: "t", chains: []*chain{{name: "c", kind: "filter", hook: hook, devices: devices, rules: limited}}}
	}
	for name, test := range map[string]struct {
		table table
		on    bool
	}{
		"prerouting":                  {base(unix.NFPROTO_IPV4, unix.NF_INET_PRE_ROUTING), true},
		"input, of outer packets":     {base(unix.NFPROTO_IPV6, unix.NF_INET_LOCAL_IN), true},
		"forward":                     {base(unix.NFPROTO_INET, unix.NF_INET_FORWARD), true},
		"output":                      {base(unix.NFPROTO_INET, unix.NF_INET_LOCAL_OUT), false},
		"postrouting":                 {base(unix.NFPROTO_IPV4, unix.NF_INET_POST_ROUTING), true},
		"no base chain":               {base(unix.NFPROTO_IPV4, noHook), false},
		"output of a bridge":          {base(unix.NFPROTO_BRIDGE, unix.NF_INET_LOCAL_OUT), true},
		"ARP":                         {base(unix.NFPROTO_ARP, 0), false},
		"unknown family":              {base(99, 0), true},
		"ingress of the NIC":          {base(unix.NFPROTO_NETDEV, 0, "eth0"), true},
		"egress of the NIC":           {base(unix.NFPROTO_NETDEV, netdevEgress, "eth0"), false},
		"egress of a container":       {base(unix.NFPROTO_NETDEV, netdevEgress, "lo", "fv0123456789a"), true},
		"ingress of another":          {base(unix.NFPROTO_NETDEV, 0, "eth1"), false},
		"ingress of some":             {base(unix.NFPROTO_NETDEV, 0, "fv*"), true},
		"ingress of inet":             {base(unix.NFPROTO_INET, inetIngress, "fb1"), true},
		"ingress of inet, of another": {base(unix.NFPROTO_INET, inetIngress, "br0"), false},
	} {
		t.Run(name, func(t *testing.T) {
			got := objectionOf([]table{test.table}, places)
			if (got != "") != test.on {
				t.Errorf("got %q", got)
			}
			test.table.idle = true
			if got := objectionOf([]table{test.table}, places); got != "" {
				t.Errorf("dormant: %q", got)
			}
		})
	}
}

func TestChainsThatAreReached(t *testing.T) {
	state := [][]expression{{exp("ct", unix.NFTA_CT_DREG, 1, unix.NFTA_CT_KEY, unix.NFT_CT_STATE)}}
	byMap := [][]expression{{exp("lookup", unix.NFTA_LOOKUP_SET, "m", unix.NFTA_LOOKUP_DREG, 0)}}
	forward := func(kind string, rules [][]expression) *chain {
		return &chain{name: "forward", kind: kind, hook: unix.NF_INET_FORWARD, rules: rules}
	}
	sub := func(name string, rules [][]expression) *chain { return &chain{name: name, hook: noHook, rules: rules} }
	for name, test := range map[string]struct {
		chains []*chain
		want   string
	}{
		"a policy alone":             {chains: []*chain{forward("filter", nil)}},
		"not reached":                {chains: []*chain{forward("filter", jump("a")), sub("a", nil), sub("b", limited)}},
		"reached from output alone":  {chains: []*chain{{name: "output", hook: unix.NF_INET_LOCAL_OUT, rules: jump("a")}, sub("a", limited)}},
		"by two jumps":               {[]*chain{forward("filter", jump("a")), sub("a", jump("b")), sub("b", limited)}, "chain b"},
		"by a verdict map":           {[]*chain{forward("filter", byMap), sub("mapped", limited)}, "chain mapped"},
		"in a circle":                {[]*chain{forward("filter", jump("a")), sub("a", jump("b")), sub("b", append(jump("a"), limited...))}, "chain b"},
		"state from nat":             {chains: []*chain{forward("nat", jump("a")), sub("a", state)}},
		"state from nat and filter":  {[]*chain{forward("nat", jump("a")), {name: "filter", kind: "filter", rules: jump("a")}, sub("a", state)}, "chain a"},
		"state in input":             {chains: []*chain{{name: "input", kind: "filter", hook: unix.NF_INET_LOCAL_IN, rules: state}}},
		"state in input and forward": {[]*chain{{name: "input", kind: "filter", hook: unix.NF_INET_LOCAL_IN, rules: jump("a")}, forward("filter", jump("a")), sub("a", state)}, "chain a"},
		"a jump to what has gone":    {chains: []*chain{forward("filter", jump("gone"))}},
		"a limit behind fine things": {[]*chain{forward("filter", [][]expression{{exp("counter")}, {meta(unix.NFT_META_MARK), exp("cmp"), exp("limit")}})}, "chain forward"},
	} {
		t.Run(name, func(t *testing.T) {
			in := table{family: unix.NFPROTO_INET, name: "other", chains: test.chains, sets: map[string]*set{"m": {chains: []string{"mapped"}}}}
			got := objectionOf([]table{in}, nil)
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	chains := []*chain{forward("filter", limited)}
	for _, family := range []byte{unix.NFPROTO_INET, unix.NFPROTO_BRIDGE} {
		if got := objectionOf([]table{{family: family, name: "falcon", chains: chains}}, nil); got != "" {
			t.Errorf("our own table: %s", got)
		}
	}
	want := "table ip falcon, chain forward: a rule limits rates, which needs every packet"
	if got := objectionOf([]table{{family: unix.NFPROTO_IPV4, name: "falcon", chains: chains}}, nil); got != want {
		t.Errorf("got %q", got)
	}
}
