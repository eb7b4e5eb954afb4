package attach

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLinkName(t *testing.T) {
	seen := map[string]bool{}
	for _, of := range [][2]string{{"c", "eth0"}, {"c", "eth1"}, {"ce", "th0"}, {"", "ceth0"}, {strings.Repeat("f", 64), "eth0"}} {
		name := LinkName(of[0], of[1])
		if !IsLinkName(name) || len(name) >= unix.IFNAMSIZ || seen[name] {
			t.Errorf("LinkName(%q) = %q", of, name)
		}
		if LinkName(of[0], of[1]) != name {
			t.Errorf("LinkName(%q) isn't stable", of)
		}
		seen[name] = true
	}
	for _, name := range []string{"", "eth0", "fv", "fb7", "fv0123456789", "fv0123456789ab", "fv0123456789g", "fv0123456789A", "xv01234567890"} {
		if IsLinkName(name) {
			t.Errorf("IsLinkName(%q)", name)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := spec(1).validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Spec){
		"somebody's link":       func(s *Spec) { s.Link = "eth0" },
		"no bridge":             func(s *Spec) { s.Bridge = "" },
		"long bridge":           func(s *Spec) { s.Bridge = strings.Repeat("b", 16) },
		"path":                  func(s *Spec) { s.Name = "../lo" },
		"dots":                  func(s *Spec) { s.Name = ".." },
		"blank":                 func(s *Spec) { s.Name = "a b" },
		"MTU":                   func(s *Spec) { s.MTU = -1 },
		"MAC":                   func(s *Spec) { s.MAC = net.HardwareAddr{1} },
		"no address":            func(s *Spec) { s.Addresses = append(s.Addresses, netip.Prefix{}) },
		"mapped address":        func(s *Spec) { s.Addresses = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.1/120")} },
		"no gateway":            func(s *Spec) { s.Gateways = append(s.Gateways, netip.Addr{}) },
		"route to nowhere":      func(s *Spec) { s.Routes = []Route{{}} },
		"route without gateway": func(s *Spec) { s.Gateways = nil; s.Routes = []Route{{Destination: anyIPv4}} },
		"gateway of the other family": func(s *Spec) {
			s.Routes = []Route{{Destination: anyIPv4, Via: netip.MustParseAddr("fd07::1")}}
		},
	} {
		s := spec(1)
		spoil(&s)
		if err := s.validate(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var anyIPv4 = netip.MustParsePrefix("0.0.0.0/0")

func TestRoutes(t *testing.T) {
	for name, test := range map[string]struct {
		spec Spec
		want []hop
	}{
		"none": {spec: Spec{}},
		"default of both families": {spec: spec(1), want: []hop{
			{anyIPv4, netip.MustParseAddr("10.7.0.1"), false},
			{netip.MustParsePrefix("::/0"), netip.MustParseAddr("fd07::1"), false},
		}},
		"gateway outside of the subnet": {
			spec: Spec{Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32")}, Gateways: []netip.Addr{netip.MustParseAddr("169.254.1.1")}},
			want: []hop{{anyIPv4, netip.MustParseAddr("169.254.1.1"), true}},
		},
		"given": {
			spec: Spec{
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/24")},
				Gateways:  []netip.Addr{netip.MustParseAddr("10.7.0.1"), netip.MustParseAddr("10.7.0.99")},
				Routes:    []Route{{Destination: netip.MustParsePrefix("10.9.1.1/16")}, {netip.MustParsePrefix("10.10.0.0/16"), netip.MustParseAddr("10.7.0.7")}},
			},
			want: []hop{
				{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParseAddr("10.7.0.1"), false},
				{netip.MustParsePrefix("10.10.0.0/16"), netip.MustParseAddr("10.7.0.7"), false},
			},
		},
	} {
		got, err := test.spec.routes()
		if err != nil || len(got) != len(test.want) {
			t.Errorf("%s: %v, %v", name, got, err)
			continue
		}
		for i := range got {
			if got[i] != test.want[i] {
				t.Errorf("%s: %v, want %v", name, got[i], test.want[i])
			}
		}
	}
}

func TestDifferencesOfNothing(t *testing.T) {
	wrong := differences(spec(1), state{})
	if got := strings.Join(wrong, "; "); got != "the host's link is gone; the container has no link eth0" {
		t.Error(got)
	}
	attrs := &netlink.LinkAttrs{Index: 7}
	wrong = differences(spec(1), state{host: attrs, inside: attrs})
	for _, want := range []string{"bridge fb7 is gone", "host's link is down", "not the other end", "lacks address 10.7.1.3/16", "route to ::/0 via fd07::1", "MAC , not 02:01"} {
		if !strings.Contains(strings.Join(wrong, "; "), want) {
			t.Errorf("%q is missing in %q", want, wrong)
		}
	}
}
