package ipam

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestWithRanges(t *testing.T) {
	both := []netip.Prefix{netip.MustParsePrefix("fd01::/64"), netip.MustParsePrefix("10.1.0.9/24"), netip.MustParsePrefix("10.2.0.0/24")}
	const sets = `[[{"subnet":"10.1.0.0/24"},{"subnet":"10.2.0.0/24"}],[{"subnet":"fd01::/64"}]]`
	for _, test := range []struct{ config, want string }{
		{`{"name":"n"}`, `{"name":"n","ipam":{"type":"host-local","ranges":` + sets + `}}`},
		{`{"ipam":null}`, `{"ipam":{"type":"host-local","ranges":` + sets + `}}`},
		{`{"ipam":{}}`, `{"ipam":{"type":"host-local","ranges":` + sets + `}}`},
		{`{"big":12345678901234567890,"ipam":{"type":"host-local","dataDir":"/d","ranges":[],"routes":[{"dst":"0.0.0.0/0"}]}}`, `{"big":12345678901234567890,"ipam":{"type":"host-local","dataDir":"/d","routes":[{"dst":"0.0.0.0/0"}],"ranges":` + sets + `}}`},
		{`{"ipam":{"type":"host-local","subnet":"10.9.0.0/24"}}`, ``},
		{`{"ipam":{"type":"host-local","ranges":[[{"subnet":"10.9.0.0/24"}]]}}`, ``},
		{`{"ipam":{"type":"host-local"},"runtimeConfig":{"ipRanges":[[{"subnet":"10.9.0.0/24"}]]}}`, ``},
		{`{"ipam":{"type":"dhcp"}}`, ``},
		{`{"ipam":{"typo":"x"}}`, ``},
	} {
		got, err := WithRanges([]byte(test.config), both)
		if err != nil {
			t.Errorf("%s: %v", test.config, err)
			continue
		}
		if test.want == "" {
			if string(got) != test.config {
				t.Errorf("%s was changed to %s", test.config, got)
			}
			continue
		}
		var is, want any
		if err := errors.Join(json.Unmarshal(got, &is), json.Unmarshal([]byte(test.want), &want)); err != nil || !reflect.DeepEqual(is, want) {
			t.Errorf("%s: %s, want %s, %v", test.config, got, test.want, err)
		}
	}
	for _, config := range []string{``, `null`, `[]`, `{"ipam":7}`, `{"ipam":{"type":7}}`, `{"runtimeConfig":7}`} {
		var e *types.Error
		if got, err := WithRanges([]byte(config), both); !errors.As(err, &e) || e.Code != types.ErrDecodingFailure {
			t.Errorf("%s: %s, %v", config, got, err)
		}
	}
	var e *types.Error
	if got, err := WithRanges([]byte(`{}`), nil); !errors.As(err, &e) || e.Code != types.ErrInvalidNetworkConfig {
		t.Errorf("without subnets: %s, %v", got, err)
	}
}

// A container gets one address of each family, and the gateway is the first of the subnet.
func TestWithRangesAdd(t *testing.T) {
	config, err := WithRanges([]byte(`{"name":"net","cniVersion":"1.1.0","ipam":{"type":"host-local","dataDir":"`+t.TempDir()+`"}}`),
		[]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd01::/64")})
	if err != nil {
		t.Fatal(err)
	}
	result, err := Add(t.Context(), Request{ContainerID: "a", IfName: "eth0", NetNS: "x", Config: config})
	if err != nil || len(result.IPs) != 2 || result.IPs[0].Gateway.String() != "10.1.0.1" || result.IPs[1].Gateway.String() != "fd01::1" {
		t.Errorf("%v, %v", result, err)
	}
}
