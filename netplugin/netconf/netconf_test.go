package netconf

import (
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestParse(t *testing.T) {
	c, err := Parse([]byte(`{
		"cniVersion": "1.1.0", "name": "n", "type": "falcon", "network": "blue",
		"ipam": {"type": "host-local", "anything": 1}, "dns": {"nameservers": ["10.0.0.53"]},
		"capabilities": {"mac": true}, "args": {"cni": {}},
		"runtimeConfig": {"mac": "02:00:00:00:00:01", "ips": ["10.0.0.7"], "portMappings": []},
		"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.7/24"}]},
		"cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}], "cni.dev/to-come": 1
	}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Network != "blue" || c.IPAM.Type != "host-local" || c.PlainIPAM || len(c.Prev.IPs) != 1 ||
		!reflect.DeepEqual(c.Valid, []types.GCAttachment{{ContainerID: "c", IfName: "eth0"}}) ||
		net.HardwareAddr(c.RuntimeConfig.MAC).String() != "02:00:00:00:00:01" {
		t.Errorf("%+v", c)
	}
	for text, want := range map[string][]types.GCAttachment{
		`"cni.dev/valid-attachments": null`:                               {},
		`"cni.dev/attachments": [{"containerID": "c", "ifname": "eth0"}]`: {{ContainerID: "c", IfName: "eth0"}},
	} {
		c, err := Parse([]byte(`{"cniVersion": "1.1.0", "name": "n", ` + text + `}`))
		if err != nil || !reflect.DeepEqual(c.Valid, want) {
			t.Errorf("%s: %v, %v", text, c.Valid, err)
		}
	}
	for _, v := range Versions {
		c, err := Parse([]byte(`{"cniVersion": "` + v + `", "name": "n", "type": "falcon"}`))
		if err != nil || c.Network != "n" || c.Valid != nil || c.Prev != nil {
			t.Errorf("%s: %+v, %v", v, c, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct {
		name, text string
		code       uint
		says       string
	}{
		{"nothing", ``, types.ErrDecodingFailure, ""},
		{"no object", `[]`, types.ErrDecodingFailure, ""},
		{"cut short", `{"name": "n"`, types.ErrDecodingFailure, ""},
		{"version of no string", `{"cniVersion": 1, "name": "n"}`, types.ErrDecodingFailure, ""},
		{"no version", `{"name": "n"}`, types.ErrIncompatibleCNIVersion, "0.1.0"},
		{"old version", `{"cniVersion": "0.2.0", "name": "n"}`, types.ErrIncompatibleCNIVersion, "0.2.0"},
		{"version to come", `{"cniVersion": "2.0.0", "name": "n"}`, types.ErrIncompatibleCNIVersion, "2.0.0"},
		{"unknown key", `{"cniVersion": "1.0.0", "name": "n", "isolate": true}`, types.ErrUnsupportedField, "isolate"},
		{"no name", `{"cniVersion": "1.0.0"}`, types.ErrInvalidNetworkConfig, "name"},
		{"name of a path", `{"cniVersion": "1.0.0", "name": "../x"}`, types.ErrInvalidNetworkConfig, "../x"},
		{"ipam of no object", `{"cniVersion": "1.0.0", "name": "n", "ipam": 7}`, types.ErrInvalidNetworkConfig, "ipam"},
		{"itself for addresses", `{"cniVersion": "1.0.0", "name": "n", "type": "falcon", "ipam": {"type": "falcon"}}`, types.ErrInvalidNetworkConfig, "falcon"},
		{"bad MAC", `{"cniVersion": "1.0.0", "name": "n", "runtimeConfig": {"mac": "x"}}`, types.ErrInvalidNetworkConfig, "x"},
		{"MAC of a group", `{"cniVersion": "1.0.0", "name": "n", "runtimeConfig": {"mac": "01:00:00:00:00:01"}}`, types.ErrInvalidNetworkConfig, "01:00"},
		{"bad previous result", `{"cniVersion": "1.0.0", "name": "n", "prevResult": 7}`, types.ErrDecodingFailure, "prevResult"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.text))
			var e *types.Error
			if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Error(), c.says) {
				t.Errorf("got %v, want code %d and %q", err, c.code, c.says)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"cniVersion": "1.1.0", "name": "n", "type": "falcon", "prevResult": {"ips": [{"address": "10.0.0.7/24"}]}}`))
	f.Add([]byte(`{"cniVersion": "0.3.1", "name": "n", "prevResult": {"ips": [{"version": "4", "address": "10.0.0.7/24"}]}, "runtimeConfig": {"mac": "02:00:00:00:00:01"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err != nil {
			var e *types.Error
			if !errors.As(err, &e) {
				t.Errorf("%v has no code", err)
			}
			return
		}
		if c.Name == "" || c.Network == "" || strings.Contains(c.Name, "/") {
			t.Errorf("%+v", c)
		}
	})
}
