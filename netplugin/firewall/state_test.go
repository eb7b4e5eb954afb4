package firewall

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestValidate(t *testing.T) {
	for want, spoil := range map[string]func(*State){
		"port is 0":                            func(s *State) { s.Port = 0 },
		"an empty address":                     func(s *State) { s.VTEPs[0] = netip.Addr{} },
		"::ffff:192.0.2.1 is an IPv4":          func(s *State) { s.VTEPs[0] = addr("::ffff:192.0.2.1") },
		"has a zone":                           func(s *State) { s.VTEPs[0] = addr("fe80::1%eth0") },
		"224.0.0.1 is not that of one host":    func(s *State) { s.VTEPs[0] = addr("224.0.0.1") },
		"0.0.0.0 is not that of one host":      func(s *State) { s.Endpoints[1].Addresses[0] = addr("0.0.0.0") },
		"ff02::1 is not that of one host":      func(s *State) { s.Endpoints[1].Addresses[0] = addr("ff02::1") },
		`"" is no link's name`:                 func(s *State) { s.Networks[0].Bridge = "" },
		`"a/b" is no link's name`:              func(s *State) { s.Networks[0].Device = "a/b" },
		"has 16 bytes and may have 15":         func(s *State) { s.Networks[0].Bridge = "fb12345678901234" },
		"are for the host's ends":              func(s *State) { s.Networks[0].Bridge = "fv1" },
		"link fb1 is named twice":              func(s *State) { s.Networks = append(s.Networks, s.Networks[0]) },
		"link fx1 is named twice":              func(s *State) { s.Networks[0].Bridge = "fx1" },
		"link fv00000000000 is named twice":    func(s *State) { s.Endpoints[1].Link = s.Endpoints[0].Link },
		`must begin with "fv"`:                 func(s *State) { s.Endpoints[0].Link = "veth0" },
		"is no Ethernet address":               func(s *State) { s.Endpoints[0].MAC = nil },
		`"ff:ff:ff:ff:ff:ff" is no Ethernet`:   func(s *State) { s.Endpoints[0].MAC = everyone },
		`"00:00:00:00:00:00" is no Ethernet`:   func(s *State) { s.Endpoints[0].MAC = make(net.HardwareAddr, 6) },
		"an empty prefix":                      func(s *State) { s.Networks[0].Subnets[0] = netip.Prefix{} },
		"write 10.1.0.0/16":                    func(s *State) { s.Networks[0].Subnets[0] = prefix("10.1.0.1/16") },
		"prefix ::ffff:10.0.0.0/104 is an IPv": func(s *State) { s.Networks[0].Cluster[0] = prefix("::ffff:10.0.0.0/104") },
		"subnet 10.1.0.0/16 of fb1 and subnet 10.1.2.0/24 of fb2 overlap": func(s *State) {
			s.Networks = append(s.Networks, Network{Bridge: "fb2", Device: "fx2", Subnets: []netip.Prefix{prefix("10.1.2.0/24")}})
		},
	} {
		s := many(2)
		if err := s.validate(); err != nil {
			t.Fatal(err)
		}
		spoil(&s)
		err := s.validate()
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestEndpointElements(t *testing.T) {
	e := endpointElements(Endpoint{
		Link: "fv0", MAC: net.HardwareAddr{0x02, 0x11, 0x22, 0x33, 0x44, 0x55},
		Addresses: []netip.Addr{addr("10.1.2.3"), addr("fd01::5")},
	})
	link := "fv0" + strings.Repeat("\x00", 13)
	for set, want := range map[string][]string{
		setLinks: {link},
		setMACs:  {link + "\x02\x11\x22\x33\x44\x55\x00\x00"},
		setIPv4:  {link + "\x0a\x01\x02\x03"},
		setIPv6: {
			link + "\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x11\x22\xff\xfe\x33\x44\x55",
			link + "\xfd\x01" + strings.Repeat("\x00", 13) + "\x05",
		},
	} {
		var got []string
		for _, x := range e[set] {
			got = append(got, string(x.Key))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", set, got, want)
		}
	}
}

// Nothing that another container or link could use is among an endpoint's elements.
func TestEndpointsShareNoElement(t *testing.T) {
	seen := make(map[string]int)
	for i := range 300 {
		for set, all := range endpointElements(numbered(i)) {
			for _, x := range all {
				key := set + string(x.Key)
				if other, ok := seen[key]; ok {
					t.Fatalf("%s: endpoints %d and %d share %q", set, i, other, x.Key)
				}
				seen[key] = i
			}
		}
	}
}

func TestLast(t *testing.T) {
	for p, want := range map[string]string{
		"10.1.0.0/16": "10.1.255.255", "10.1.2.3/32": "10.1.2.3", "0.0.0.0/0": "255.255.255.255",
		"10.128.0.0/9": "10.255.255.255", "fd01::/48": "fd01:0:0:ffff:ffff:ffff:ffff:ffff",
	} {
		if got := last(prefix(p)); got != addr(want) {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
}

// outermost keeps what was covered, and no two that overlap.
func TestOutermost(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(4)), byte(r.IntN(256))}) }
	for range 2000 {
		var all []netip.Prefix
		for range r.IntN(8) {
			all = append(all, netip.PrefixFrom(random(), 20+r.IntN(13)).Masked())
		}
		kept := outermost(all)
		for i, a := range kept {
			for _, b := range kept[i+1:] {
				if a.Overlaps(b) {
					t.Fatalf("%v: %s and %s are both kept", all, a, b)
				}
			}
		}
		covers := func(in []netip.Prefix, a netip.Addr) bool {
			return slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Contains(a) })
		}
		for range 20 {
			if a := random(); covers(all, a) != covers(kept, a) {
				t.Fatalf("%v became %v: %s", all, kept, a)
			}
		}
	}
}

func TestReasonsFit(t *testing.T) {
	for _, reason := range slices.Concat(inetReasons, bridgeReasons) {
		if s, ok := parseSeries(concat(linkName(reason), linkName("fv0123456789a"))); !ok || s != (series{reason, "fv0123456789a"}) {
			t.Errorf("%q became %+v", reason, s)
		}
	}
}

func FuzzParseSeries(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(concat(linkName(Crossed), linkName("fb1")))
	f.Fuzz(func(t *testing.T, key []byte) {
		if s, ok := parseSeries(key); ok && (len(s.reason) > 16 || len(s.link) > 16) {
			t.Errorf("%+v", s)
		}
	})
}

func TestTallyForgets(t *testing.T) {
	kept := tally{
		{Crossed, "fb1"}: {1, 10}, {SpoofedMAC, "fv1"}: {2, 20}, {SpoofedMAC, "fv2"}: {3, 30},
		{SpoofedMAC, "fv3"}: {4, 40}, {SpoofedMAC, ""}: {5, 50},
	}
	kept.forget(func(link string) bool { return link == "fv2" })
	want := tally{{Crossed, "fb1"}: {1, 10}, {SpoofedMAC, "fv2"}: {3, 30}, {SpoofedMAC, ""}: {11, 110}}
	if len(kept) != len(want) {
		t.Errorf("got %v", kept)
	}
	for s, c := range want {
		if kept[s] != c {
			t.Errorf("%v: got %v, want %v", s, kept[s], c)
		}
	}
}
