package overlay

import (
	"net/netip"
	"slices"
	"testing"
	"testing/quick"
)

// Every node computes every other's, so they must never change.
func TestMACsAreWhatTheyWere(t *testing.T) {
	for _, tc := range []struct {
		address string
		vni     uint32
		vtep    string
		bridge  string
	}{
		{"192.0.2.1", 1, "2e:8c:32:7a:6f:f2", "56:74:37:cc:90:e1"},
		{"2001:db8::1", MaxVNI, "aa:b0:7f:38:71:54", "02:c2:a1:f1:b1:1a"},
	} {
		if got := VTEPMAC(netip.MustParseAddr(tc.address), tc.vni).String(); got != tc.vtep {
			t.Errorf("VTEPMAC(%s, %d) = %s, not %s", tc.address, tc.vni, got, tc.vtep)
		}
		if got := BridgeMAC(tc.vni).String(); got != tc.bridge {
			t.Errorf("BridgeMAC(%d) = %s, not %s", tc.vni, got, tc.bridge)
		}
	}
}

func TestMACsAreLocalUnicastAndDiffer(t *testing.T) {
	seen := make(map[string]string)
	check := func(a [16]byte, v4 bool, vni uint32) bool {
		address := netip.AddrFrom16(a)
		if v4 {
			address = netip.AddrFrom4([4]byte(a[:4]))
		}
		vni = vni%MaxVNI + 1
		for _, m := range []struct{ of, mac string }{
			{address.Unmap().String() + " " + Device(vni), VTEPMAC(address, vni).String()},
			{Bridge(vni), BridgeMAC(vni).String()},
		} {
			if of, ok := seen[m.mac]; ok && of != m.of {
				t.Logf("%s and %s have the same MAC", of, m.of)
				return false
			}
			seen[m.mac] = m.of
		}
		mac := VTEPMAC(address, vni)
		return len(mac) == 6 && mac[0]&1 == 0 && mac[0]&2 == 2 && slices.Equal(mac, VTEPMAC(address, vni))
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 5000}); err != nil {
		t.Error(err)
	}
	// Neighbours, as they are in practice.
	for i := range 20000 {
		a := [16]byte{10, byte(i >> 8), 0, byte(i)}
		if !check(a, true, 1) || !check(a, true, 2) {
			t.Fatal("two nodes have the same MAC")
		}
	}
}

func TestMACOfMappedAddressIsThatOfIPv4(t *testing.T) {
	if VTEPMAC(netip.MustParseAddr("192.0.2.1"), 7).String() != VTEPMAC(netip.MustParseAddr("::ffff:192.0.2.1"), 7).String() {
		t.Error("they differ")
	}
}

func TestNamesFitTheKernel(t *testing.T) {
	for _, vni := range []uint32{1, 4096, MaxVNI} {
		for _, name := range []string{Bridge(vni), Device(vni)} {
			if len(name) > 15 {
				t.Errorf("%s is too long", name)
			}
		}
	}
	if Bridge(7) != "fb7" || Device(7) != "fx7" {
		t.Error(Bridge(7), Device(7))
	}
}

func TestNextHop(t *testing.T) {
	m := mac{0x02, 0x11, 0x22, 0x33, 0x44, 0x55}
	for subnet, want := range map[string]string{
		"10.1.2.0/24":   "10.1.2.0",
		"fd00:1:2::/64": "fe80::11:22ff:fe33:4455",
	} {
		if got := nextHop(netip.MustParsePrefix(subnet), m).String(); got != want {
			t.Errorf("%s: %s, not %s", subnet, got, want)
		}
	}
}

func BenchmarkVTEPMAC(b *testing.B) {
	a := netip.MustParseAddr("192.0.2.1")
	for b.Loop() {
		VTEPMAC(a, 7)
	}
}
