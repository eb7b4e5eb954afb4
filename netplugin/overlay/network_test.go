package overlay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func prefixes(words string) []netip.Prefix {
	var list []netip.Prefix
	for w := range strings.FieldsSeq(words) {
		list = append(list, netip.MustParsePrefix(w))
	}
	return list
}

func TestGateways(t *testing.T) {
	for subnets, want := range map[string]string{
		"10.1.2.0/24":                       "[10.1.2.1]",
		"10.1.2.4/30":                       "[10.1.2.5]",
		"fd00:1::/64":                       "[fd00:1::1]",
		"fd00:1::4/126":                     "[fd00:1::5]",
		"10.1.2.0/24 fd00::/64 10.9.0.0/16": "[10.1.2.1 fd00::1 10.9.0.1]",
		"10.1.2.0/31 10.1.2.2/32":           "[]",
		"fd00::/127 fd00::2/128":            "[]",
		"":                                  "[]",
	} {
		if got := fmt.Sprint(Gateways(prefixes(subnets))); got != want {
			t.Errorf("%s: %s, not %s", subnets, got, want)
		}
	}
}

func TestNetworkValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		n    Network
		want string // in the error; "": none
	}{
		"v4":                 {Network{VNI: 1, Subnets: prefixes("10.1.2.0/24")}, ""},
		"dual, with cluster": {Network{VNI: MaxVNI, Subnets: prefixes("10.1.2.0/24 fd00:1::/64"), Cluster: prefixes("10.1.0.0/16 fd00::/16"), MTU: 9000}, ""},
		"no subnets":         {Network{VNI: 1, Cluster: prefixes("10.1.0.0/16")}, ""},
		"VNI 0":              {Network{}, "VNI 0"},
		"VNI too large":      {Network{VNI: MaxVNI + 1}, "VNI 16777216"},
		"MTU":                {Network{VNI: 1, MTU: 65536}, "MTU 65536"},
		"/31":                {Network{VNI: 1, Subnets: prefixes("10.1.2.0/31")}, "too small"},
		"/32":                {Network{VNI: 1, Subnets: prefixes("10.1.2.0/32")}, "too small"},
		"/127":               {Network{VNI: 1, Subnets: prefixes("fd00::/127")}, "too small"},
		"/128":               {Network{VNI: 1, Subnets: prefixes("fd00::/128")}, "too small"},
		"host bits":          {Network{VNI: 1, Subnets: prefixes("10.1.2.1/24")}, "10.1.2.1/24"},
		"zero":               {Network{VNI: 1, Subnets: make([]netip.Prefix, 1)}, "invalid"},
		"multicast":          {Network{VNI: 1, Subnets: prefixes("239.0.0.0/16")}, "239.0.0.0/16"},
		"link-local":         {Network{VNI: 1, Subnets: prefixes("fe80::/64")}, "fe80::/64"},
		"everything":         {Network{VNI: 1, Subnets: prefixes("0.0.0.0/0")}, "0.0.0.0/0"},
		"mapped":             {Network{VNI: 1, Subnets: prefixes("::ffff:10.0.0.0/104")}, "::ffff"},
		"overlap":            {Network{VNI: 1, Subnets: prefixes("10.1.0.0/16 10.1.2.0/24")}, "overlap"},
		"outside":            {Network{VNI: 1, Subnets: prefixes("10.2.0.0/24"), Cluster: prefixes("10.1.0.0/16")}, "none of its cluster"},
		"larger":             {Network{VNI: 1, Subnets: prefixes("10.0.0.0/8"), Cluster: prefixes("10.1.0.0/16")}, "none of its cluster"},
		"cluster":            {Network{VNI: 1, Cluster: prefixes("10.1.2.3/16")}, "cluster prefix 10.1.2.3/16"},
	} {
		err := tc.n.Validate()
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnderlayValidate(t *testing.T) {
	for address, ok := range map[string]bool{
		"192.0.2.1": true, "2001:db8::1": true, "fd00::1": true,
		"127.0.0.1": false, "::1": false, "0.0.0.0": false, "::": false, "224.0.0.1": false,
		"fe80::1%eth0": false, "fe80::1": false, "169.254.1.1": false, "::ffff:192.0.2.1": false,
	} {
		_, err := New(Underlay{netip.MustParseAddr(address), 4789})
		if (err == nil) != ok || !ok && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, u := range []Underlay{{netip.Addr{}, 4789}, {netip.MustParseAddr("192.0.2.1"), 0}, {netip.MustParseAddr("192.0.2.1"), 65536}} {
		if _, err := New(u); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", u, err)
		}
	}
}

func TestMTUs(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tc := range []struct {
		node           netip.Addr
		subnets        string
		mtu, underlay  int
		bridge, device int
		ok             bool
	}{
		{v4, "10.0.0.0/24", 0, 1500, 1450, 1450, true},
		{v6, "10.0.0.0/24", 0, 1500, 1430, 1430, true},
		{v4, "fd00::/64", 0, 9000, 8950, 8950, true},
		{v4, "10.0.0.0/24", 1400, 1500, 1400, 1400, true},
		{v4, "10.0.0.0/24", 1500, 1500, 1500, 1450, true},
		{v4, "10.0.0.0/24", 1400, 0, 1400, 1400, true},
		{v4, "10.0.0.0/24", 0, 0, 0, 0, false},
		{v4, "fd00::/64", 0, 1330, 1280, 1280, true},
		{v4, "fd00::/64", 0, 1329, 0, 0, false},
		{v4, "fd00::/64", 1279, 1500, 0, 0, false},
		{v4, "10.0.0.0/24", 0, 100, 0, 0, false},
		{v4, "10.0.0.0/24", 0, 600, 550, 550, true},
	} {
		bridge, device, err := Underlay{Address: tc.node}.mtus(Network{VNI: 1, Subnets: prefixes(tc.subnets), MTU: tc.mtu}, tc.underlay)
		if bridge != tc.bridge || device != tc.device || (err == nil) != tc.ok || !tc.ok && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%+v: %d %d %v", tc, bridge, device, err)
		}
	}
}

// One remote's nonsense doesn't cut off another, and what is refused is named.
func TestPeers(t *testing.T) {
	u := Underlay{netip.MustParseAddr("192.0.2.1"), 4789}
	n := Network{VNI: 1, Subnets: prefixes("10.1.1.0/24"), Cluster: prefixes("10.1.0.0/16 fd00::/16 192.0.0.0/16")}
	good := Remote{netip.MustParseAddr("192.0.2.2"), prefixes("10.1.2.0/24")}
	for name, tc := range map[string]struct {
		bad  Remote
		want string // in the error
	}{
		"own address":         {Remote{u.Address, prefixes("10.1.3.0/24")}, "this node's"},
		"family":              {Remote{netip.MustParseAddr("2001:db8::2"), prefixes("10.1.3.0/24")}, "same family"},
		"loopback":            {Remote{netip.MustParseAddr("127.0.0.1"), prefixes("10.1.3.0/24")}, "can reach"},
		"no address":          {Remote{netip.Addr{}, prefixes("10.1.3.0/24")}, "can reach"},
		"our subnet":          {Remote{netip.MustParseAddr("192.0.2.3"), prefixes("10.1.1.128/25")}, "of this node"},
		"outside":             {Remote{netip.MustParseAddr("192.0.2.3"), prefixes("10.2.0.0/24")}, "none of the cluster"},
		"too small":           {Remote{netip.MustParseAddr("192.0.2.3"), prefixes("10.1.3.1/32")}, "too small"},
		"contains the node":   {Remote{netip.MustParseAddr("192.0.2.3"), prefixes("192.0.2.0/24")}, "contains a node's address"},
		"another's":           {Remote{netip.MustParseAddr("192.0.2.3"), prefixes("10.1.2.0/24")}, "node 192.0.2.3 has the subnet 10.1.2.0/24, which overlaps 10.1.2.0/24 of node 192.0.2.2"},
		"a part of another's": {Remote{netip.MustParseAddr("192.0.2.3"), prefixes("10.1.2.64/26")}, "overlaps"},
	} {
		for _, remotes := range [][]Remote{{good, tc.bad}, {tc.bad, good}} {
			peers, err := u.peers(n, remotes)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v", name, err)
			}
			if len(peers) != 1 || peers[0].address != good.Address || !slices.Equal(peers[0].subnets, good.Subnets) {
				t.Errorf("%s: %v", name, peers)
			}
		}
	}
	// Families that this node lacks don't count, and a repetition is no conflict.
	peers, err := u.peers(n, []Remote{good, good, {netip.MustParseAddr("192.0.2.3"), prefixes("fd00:3::/64")}})
	if err != nil || len(peers) != 1 {
		t.Error(peers, err)
	}
}
