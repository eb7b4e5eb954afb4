package netconf

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

func conf(more string) []byte {
	return []byte(`{"cniVersion": "1.0.0", "name": "n", "type": "falcon", ` + more + `}`)
}

func TestPriority(t *testing.T) {
	for text, want := range map[string]priority.Policy{
		`null`:                             {},
		`{}`:                               {},
		`{"default": null, "rules": null}`: {},
		`{"default": "low", "rules": []}`:  {Default: priority.Low},
		`{"rules": [{"proto": "udp", "port": 11211, "cidr": "10.88.0.0/16", "class": "high"}, {"class": "normal"}], "default": "low"}`: {
			Default: priority.Low,
			Rules:   []priority.Rule{{Proto: priority.UDP, Port: 11211, CIDR: netip.MustParsePrefix("10.88.0.0/16"), Class: priority.High}, {}},
		},
		`{"rules": [{"proto": "", "port": 0, "cidr": "", "class": "low"}]}`: {Rules: []priority.Rule{{Class: priority.Low}}},
	} {
		c, err := Parse(conf(`"priority": ` + text))
		if err != nil || !reflect.DeepEqual(c.Priority, want) {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
}

func TestPriorityErrors(t *testing.T) {
	many := strings.Repeat(`{"class": "low"}, `, priority.MaxRules) + `{"class": "low"}`
	for _, c := range []struct {
		text string
		code uint
		says string
	}{
		{`"high"`, types.ErrInvalidNetworkConfig, "priority"},
		{`[]`, types.ErrInvalidNetworkConfig, "priority"},
		{`{"defualt": "high"}`, types.ErrUnsupportedField, `priority has the unknown key "defualt"`},
		{`{"Default": "high"}`, types.ErrUnsupportedField, "Default"},
		{`{"default": "urgent"}`, types.ErrInvalidNetworkConfig, "use high, normal or low"},
		{`{"default": ""}`, types.ErrInvalidNetworkConfig, "use high, normal or low"},
		{`{"default": 1}`, types.ErrInvalidNetworkConfig, "priority.default"},
		{`{"rules": {}}`, types.ErrInvalidNetworkConfig, "priority.rules"},
		{`{"rules": [null]}`, types.ErrInvalidNetworkConfig, "rule 1 of priority has no class"},
		{`{"rules": [{"class": "low"}, 7]}`, types.ErrInvalidNetworkConfig, "rule 2 of priority"},
		{`{"rules": [{"port": 1}]}`, types.ErrInvalidNetworkConfig, "has no class"},
		{`{"rules": [{"class": null}]}`, types.ErrInvalidNetworkConfig, "has no class"},
		{`{"rules": [{"class": "low", "dport": 1}]}`, types.ErrUnsupportedField, `rule 1 of priority has the unknown key "dport"`},
		{`{"rules": [{"class": "low", "port": 70000}]}`, types.ErrInvalidNetworkConfig, "70000"},
		{`{"rules": [{"class": "low", "port": "80"}]}`, types.ErrInvalidNetworkConfig, "rule 1"},
		{`{"rules": [{"class": "low", "proto": "icmp"}]}`, types.ErrInvalidNetworkConfig, "use tcp or udp"},
		{`{"rules": [{"class": "low", "cidr": "10.0.0.1"}]}`, types.ErrInvalidNetworkConfig, "10.0.0.1"},
		{`{"rules": [{"class": "low", "cidr": "10.0.0.1/8"}]}`, types.ErrInvalidNetworkConfig, "write 10.0.0.0/8"},
		{`{"rules": [` + many + `]}`, types.ErrInvalidNetworkConfig, "17 rules"},
	} {
		_, err := Parse(conf(`"priority": ` + c.text))
		var e *types.Error
		if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Error(), c.says) {
			t.Errorf("%.60s: got %v, want code %d and %q", c.text, err, c.code, c.says)
		}
	}
}

func TestPriorityWish(t *testing.T) {
	annotation := func(v string) string {
		return fmt.Sprintf(`"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"x": "y", %q: %q}}`, PriorityLabel, v)
	}
	label := func(v string) string {
		return fmt.Sprintf(`"args": {"cni": {"labels": [{"key": "x", "value": "y"}, {"key": %q, "value": %q}]}}`, PriorityLabel, v)
	}
	for _, c := range []struct {
		name, conf, args string
		want             priority.Class
		wished           bool
		says             string
	}{
		{name: "nothing", conf: `"args": {"cni": {"labels": []}}, "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {}}`},
		{name: "annotation", conf: annotation("high"), want: priority.High, wished: true},
		{name: "label", conf: label("low"), want: priority.Low, wished: true},
		{name: "CNI_ARGS", conf: `"dns": {}`, args: "high", want: priority.High, wished: true},
		{name: "normal is a wish", conf: annotation("normal"), wished: true},
		{name: "annotation before the others", conf: annotation("high") + "," + label("low"), args: "low", want: priority.High, wished: true},
		{name: "label before CNI_ARGS", conf: label("low"), args: "high", want: priority.Low, wished: true},
		{name: "bad annotation", conf: annotation("urgent") + "," + label("low"), says: "annotation peregrine.dev/priority"},
		{name: "empty annotation", conf: annotation(""), says: "use high, normal or low"},
		{name: "bad label", conf: label("HIGH"), says: "args.cni.labels"},
		{name: "bad CNI_ARGS", conf: `"dns": {}`, args: "1", says: "CNI_ARGS"},
		{name: "labels of no list", conf: `"args": {"cni": {"labels": {"a": "b"}}}`, says: "args.cni.labels"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parsed, err := Parse(conf(c.conf))
			if err != nil {
				t.Fatal(err)
			}
			class, wished, err := parsed.PriorityWish(c.args)
			if c.says == "" {
				if err != nil || class != c.want || wished != c.wished {
					t.Errorf("%s, %t, %v", class, wished, err)
				}
				return
			}
			var e *types.Error
			if !errors.As(err, &e) || e.Code != types.ErrInvalidNetworkConfig || !strings.Contains(e.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

// Whatever the key has, it is refused with a code or is a policy that can be in force.
func FuzzPriority(f *testing.F) {
	for _, seed := range []string{
		`null`, `{"default": "low"}`, `{"default": "high", "rules": [{"proto": "udp", "port": 11211, "cidr": "10.88.0.0/16", "class": "high"}]}`,
		`{"rules": [{"class": "low", "cidr": "fd00::/8"}, {"class": "low", "port": 70000}]}`, `{"rules": [{"CLASS": "low"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := readPriority(text)
		if err != nil {
			var e *types.Error
			if !errors.As(err, &e) || e.Msg == "" {
				t.Errorf("%v has no code", err)
			}
			return
		}
		if err := p.Validate(); err != nil || p.Fixed {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
	})
}
