package agent

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/netconf"
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}

func leased(t *testing.T, text string) *types100.Result {
	t.Helper()
	var r types100.Result
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestPlan(t *testing.T) {
	n := network{name: "n", vni: 7, subnets: prefixes("10.1.0.0/24", "fd00:1::/64"), mtu: 1450}
	dual := `{"ips": [{"address": "10.1.0.9/24"}, {"address": "fd00:1::9/64"}]`
	for _, c := range []struct {
		name, lease string
		conf        netconf.Conf
		mac         string
		addresses   []netip.Prefix
		gateways    string
		routes      []attach.Route
		result      string // of its routes
	}{
		{
			name: "dual stack", lease: dual + `}`, mac: "0a:58:0a:01:00:09", addresses: prefixes("10.1.0.9/24", "fd00:1::9/64"),
			gateways: "[10.1.0.1 fd00:1::1]", result: "0.0.0.0/0 10.1.0.1 ::/0 fd00:1::1",
		},
		{
			name: "routes of the lease", lease: dual + `, "routes": [{"dst": "10.1.0.0/16"}, {"dst": "fd00::/16", "gw": "fd00:1::2"}]}`,
			mac: "0a:58:0a:01:00:09", addresses: prefixes("10.1.0.9/24", "fd00:1::9/64"), gateways: "[10.1.0.1 fd00:1::1]",
			routes: []attach.Route{{Destination: netip.MustParsePrefix("10.1.0.0/16")}, {Destination: netip.MustParsePrefix("fd00::/16"), Via: netip.MustParseAddr("fd00:1::2")}},
			result: "10.1.0.0/16 <nil> fd00::/16 fd00:1::2",
		},
		{
			// The plugin knows another size of the subnet, and another gateway.
			name: "lengths are the node's", lease: `{"ips": [{"address": "10.1.0.9/32", "gateway": "10.1.0.254"}]}`,
			conf: netconf.Conf{RuntimeConfig: netconf.RuntimeConfig{MAC: netconf.MAC{2, 0, 0, 0, 0, 1}}},
			mac:  "02:00:00:00:00:01", addresses: prefixes("10.1.0.9/24"), gateways: "[10.1.0.1]", result: "0.0.0.0/0 10.1.0.1",
		},
		{
			name: "IPv6 only", lease: `{"ips": [{"address": "fd00:1::a0b:c0d/64"}]}`, mac: "0e:58:91:14:48:8e",
			addresses: prefixes("fd00:1::a0b:c0d/64"), gateways: "[fd00:1::1]", result: "::/0 fd00:1::1",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec, result, err := plan(n, "fv0", "eth0", "/ns", &c.conf, leased(t, c.lease))
			if err != nil {
				t.Fatal(err)
			}
			if spec.MAC.String() != c.mac || !slices.Equal(spec.Addresses, c.addresses) || list(spec.Gateways) != c.gateways ||
				!slices.Equal(spec.Routes, c.routes) || spec.Bridge != "fb7" || spec.MTU != 1450 {
				t.Errorf("%+v", spec)
			}
			var routes []string
			for _, r := range result.Routes {
				routes = append(routes, r.Dst.String()+" "+r.GW.String())
			}
			if got := strings.Join(routes, " "); got != c.result {
				t.Errorf("routes %q", got)
			}
			if len(result.Interfaces) != 3 || result.Interfaces[2].Sandbox != "/ns" || result.Interfaces[2].Mac != c.mac || *result.IPs[0].Interface != 2 {
				t.Errorf("%+v", result)
			}
			for _, v := range netconf.Versions {
				if _, err := result.GetAsVersion(v); err != nil {
					t.Errorf("as %s: %v", v, err)
				}
			}
		})
	}
}

func list(addresses []netip.Addr) string {
	var texts []string
	for _, a := range addresses {
		texts = append(texts, a.String())
	}
	return "[" + strings.Join(texts, " ") + "]"
}

func TestPlanErrors(t *testing.T) {
	n := network{name: "n", vni: 7, subnets: prefixes("10.1.0.0/24"), mtu: 1450}
	for name, lease := range map[string]string{
		"no address":           `{}`,
		"address of elsewhere": `{"ips": [{"address": "10.2.0.9/24"}]}`,
		"other family":         `{"ips": [{"address": "fd00::9/64"}]}`,
		"route with a table":   `{"ips": [{"address": "10.1.0.9/24"}], "routes": [{"dst": "10.0.0.0/8", "table": 7}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := plan(n, "fv0", "eth0", "/ns", &netconf.Conf{}, leased(t, lease))
			var coded *types.Error
			if !errors.As(err, &coded) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestLocks(t *testing.T) {
	var l locks
	unlock := l.lock("a")
	l.lock("b")()
	got := make(chan struct{})
	go func() {
		l.lock("a")()
		close(got)
	}()
	select {
	case <-got:
		t.Error("locked twice")
	default:
	}
	unlock()
	<-got
	if len(l.held) != 0 {
		t.Errorf("left %v", l.held)
	}
}

func TestRequest(t *testing.T) {
	usual := map[string]string{
		"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": "/ns", "CNI_PATH": "/a:/b",
	}
	const conf = `{"cniVersion": "1.1.0", "name": "n", "type": "falcon"}`
	for _, c := range []struct {
		name   string
		change map[string]string
		conf   string
		code   uint
	}{
		{name: "usual"},
		{name: "CHECK", change: map[string]string{"CNI_COMMAND": "CHECK"}},
		{name: "DEL without a namespace", change: map[string]string{"CNI_COMMAND": "DEL", "CNI_NETNS": ""}},
		{name: "GC", change: map[string]string{"CNI_COMMAND": "GC", "CNI_CONTAINERID": "", "CNI_IFNAME": "", "CNI_NETNS": ""}},
		{name: "STATUS", change: map[string]string{"CNI_COMMAND": "STATUS", "CNI_CONTAINERID": "", "CNI_IFNAME": "", "CNI_NETNS": "", "CNI_PATH": ""}},
		{name: "no command", change: map[string]string{"CNI_COMMAND": ""}, code: types.ErrInvalidEnvironmentVariables},
		{name: "unknown command", change: map[string]string{"CNI_COMMAND": "add"}, code: types.ErrInvalidEnvironmentVariables},
		{name: "no container", change: map[string]string{"CNI_CONTAINERID": ""}, code: types.ErrInvalidEnvironmentVariables},
		{name: "container of a path", change: map[string]string{"CNI_CONTAINERID": "../x"}, code: types.ErrInvalidEnvironmentVariables},
		{name: "no interface", change: map[string]string{"CNI_IFNAME": ""}, code: types.ErrInvalidEnvironmentVariables},
		{name: "long interface", change: map[string]string{"CNI_IFNAME": "sixteen-letters-"}, code: types.ErrInvalidEnvironmentVariables},
		{name: "ADD without a namespace", change: map[string]string{"CNI_NETNS": ""}, code: types.ErrInvalidEnvironmentVariables},
		{name: "CHECK without a namespace", change: map[string]string{"CNI_COMMAND": "CHECK", "CNI_NETNS": ""}, code: types.ErrInvalidEnvironmentVariables},
		{name: "no path", change: map[string]string{"CNI_PATH": ""}, code: types.ErrInvalidEnvironmentVariables},
		{name: "bad configuration", conf: "{", code: types.ErrDecodingFailure},
		{name: "huge configuration", conf: strings.Repeat(" ", 1<<20) + conf, code: types.ErrDecodingFailure},
	} {
		t.Run(c.name, func(t *testing.T) {
			request := []byte{}
			for name, value := range usual {
				if v, ok := c.change[name]; ok {
					value = v
				}
				if value != "" {
					request = append(request, name+"="+value+"\x00"...)
				}
			}
			text := c.conf
			if text == "" {
				text = conf
			}
			r, err := NewRequest(append(append(request, 0), text...), nil)
			if c.code == 0 {
				if err != nil || r.Conf.Name != "n" {
					t.Errorf("%+v, %v", r, err)
				}
				return
			}
			var coded *types.Error
			if !errors.As(err, &coded) || coded.Code != c.code {
				t.Errorf("got %v, want code %d", err, c.code)
			}
		})
	}
}
