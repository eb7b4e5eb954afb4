package priority

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var (
	near = netip.MustParseAddr("10.88.3.4")
	far  = netip.MustParseAddr("192.0.2.7")
	six  = netip.MustParseAddr("fd00:88::7")
)

func TestOf(t *testing.T) {
	cidr := netip.MustParsePrefix
	memcached := Rule{Proto: UDP, Port: 11211, CIDR: cidr("10.88.0.0/16"), Class: High}
	for _, c := range []struct {
		name          string
		policy        Policy
		proto         Proto
		local, remote uint16
		address       netip.Addr
		dscp          int
		want          Class
	}{
		{"nothing said", Policy{}, TCP, 1, 2, near, NoDSCP, Normal},
		{"default", Policy{Default: Low}, TCP, 1, 2, near, NoDSCP, Low},
		{"who serves", Policy{Rules: []Rule{memcached}}, UDP, 11211, 40000, near, NoDSCP, High},
		{"who asks", Policy{Rules: []Rule{memcached}}, UDP, 40000, 11211, near, NoDSCP, High},
		{"other protocol", Policy{Rules: []Rule{memcached}}, TCP, 11211, 40000, near, NoDSCP, Normal},
		{"other port", Policy{Rules: []Rule{memcached}}, UDP, 40000, 11212, near, NoDSCP, Normal},
		{"other network", Policy{Rules: []Rule{memcached}}, UDP, 11211, 40000, far, NoDSCP, Normal},
		{"IPv4 in IPv6", Policy{Rules: []Rule{memcached}}, UDP, 11211, 40000, netip.AddrFrom16(near.As16()), NoDSCP, High},
		{"other family", Policy{Rules: []Rule{{CIDR: cidr("0.0.0.0/0"), Class: High}}}, UDP, 1, 2, six, NoDSCP, Normal},
		{"fragment", Policy{Rules: []Rule{memcached}}, UDP, 0, 0, near, NoDSCP, Normal},
		{"fragment of a network", Policy{Rules: []Rule{{Proto: UDP, CIDR: cidr("10.88.0.0/16"), Class: Low}}}, UDP, 0, 0, near, NoDSCP, Low},
		{"port of any protocol", Policy{Rules: []Rule{{Port: 53, Class: High}}}, TCP, 9, 53, six, NoDSCP, High},
		{"no port is none", Policy{Rules: []Rule{{Port: 53, Class: High}}}, 132, 53, 53, six, NoDSCP, Normal},
		{"ICMP by network", Policy{Rules: []Rule{{CIDR: cidr("fd00:88::/48"), Class: High}}}, 58, 0, 0, six, NoDSCP, High},
		{"first rule", Policy{Rules: []Rule{{Port: 53, Class: Low}, {Proto: UDP, Class: High}}}, UDP, 53, 9, near, NoDSCP, Low},
		{"second rule", Policy{Rules: []Rule{{Port: 53, Class: Low}, {Proto: UDP, Class: High}}}, UDP, 54, 9, near, NoDSCP, High},
		{"rule says normal", Policy{Default: High, Rules: []Rule{{Port: 53}}}, UDP, 53, 9, near, NoDSCP, Normal},
		{"rules before EF", Policy{Rules: []Rule{{Class: Low}}}, UDP, 1, 2, near, 46, Low},
		{"EF before default", Policy{Default: Low}, UDP, 1, 2, near, 46, High},
		{"LE before default", Policy{Default: High, Rules: []Rule{{Port: 9}}}, UDP, 1, 2, near, 1, Low},
		{"best effort asks for nothing", Policy{Default: High}, UDP, 1, 2, near, 0, High},
		{"reserved", Policy{Default: Low, Fixed: true, Rules: []Rule{{Class: High}}}, UDP, 1, 2, near, 46, Low},
		{"no DSCP", Policy{}, UDP, 1, 2, near, 46 + 64, Normal},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.policy.Of(c.proto, c.local, c.remote, c.address, c.dscp); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestOfDSCP(t *testing.T) {
	want := map[uint8]Class{46: High, 44: High, 40: High, 48: High, 56: High, 8: Low, 1: Low}
	for dscp := range uint8(64) {
		c, asks := OfDSCP(dscp)
		if w, known := want[dscp]; asks != known || c != w {
			t.Errorf("%d: %s, %t", dscp, c, asks)
		}
	}
}

func TestValidate(t *testing.T) {
	for says, p := range map[string]Policy{
		"default: class 3":           {Default: 3},
		"17 rules and may be 16":     {Rules: make([]Rule, 17)},
		"rule 2: class 9":            {Rules: []Rule{{}, {Class: 9}}},
		"rule 1: rules know no":      {Rules: []Rule{{Proto: 1}}},
		"write 10.88.0.0/16":         {Rules: []Rule{{CIDR: netip.MustParsePrefix("10.88.1.0/16")}}},
		"no prefix of IPv4 or IPv6":  {Rules: []Rule{{CIDR: netip.PrefixFrom(near, 33)}}},
		"::ffff:10.0.0.0/104 is no":  {Rules: []Rule{{CIDR: netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104)}}},
		"cidr fd00::1/64 has bits b": {Rules: []Rule{{CIDR: netip.MustParsePrefix("fd00::1/64")}}},
	} {
		if err := p.Validate(); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if err := (Policy{Default: Low, Rules: make([]Rule, MaxRules)}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestText(t *testing.T) {
	for text, want := range map[string]Policy{
		`{}`:                 {},
		`{"default":"high"}`: {Default: High},
		`{"rules":[{"class":"normal"}]}`: {
			Rules: []Rule{{}},
		},
		`{"default":"low","rules":[{"proto":"udp","port":11211,"cidr":"10.88.0.0/16","class":"high"},{"proto":"tcp","class":"low"}]}`: {
			Default: Low, Rules: []Rule{{UDP, 11211, netip.MustParsePrefix("10.88.0.0/16"), High}, {Proto: TCP, Class: Low}},
		},
	} {
		var p Policy
		if err := json.Unmarshal([]byte(text), &p); err != nil || !reflect.DeepEqual(p, want) {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
		if got, err := json.Marshal(want); err != nil || string(got) != text {
			t.Errorf("%s, %v, want %s", got, err, text)
		}
		if p.IsZero() != (text == `{}`) {
			t.Errorf("%s is zero: %t", text, p.IsZero())
		}
	}
	for _, text := range []string{
		`{"default":"urgent"}`, `{"default":"High"}`, `{"default":""}`, `{"default":1}`, `{"rules":[{"proto":"sctp","class":"low"}]}`,
		`{"rules":[{"port":65536,"class":"low"}]}`, `{"rules":[{"port":-1,"class":"low"}]}`, `{"rules":[{"cidr":"10.0.0.0","class":"low"}]}`,
	} {
		var p Policy
		if err := json.Unmarshal([]byte(text), &p); err == nil {
			t.Errorf("%s: %+v", text, p)
		}
	}
	if text, err := json.Marshal(Policy{Rules: []Rule{{Class: 7}}}); err == nil {
		t.Errorf("%s", text)
	}
	if text, err := json.Marshal(Policy{Rules: []Rule{{Proto: 7}}}); err == nil {
		t.Errorf("%s", text)
	}
}

// random makes policies and packets of few values each, so that they meet.
type random struct{ *rand.Rand }

func (r random) class() Class { return Class(r.IntN(3)) }

func (r random) proto() Proto { return []Proto{AnyProto, TCP, UDP}[r.IntN(3)] }

func (r random) policy() Policy {
	p := Policy{Default: r.class()}
	cidrs := []string{"10.88.0.0/16", "10.88.3.4/32", "0.0.0.0/0", "::/0", "fd00:88::/48", "192.0.2.0/24"}
	for range r.IntN(MaxRules + 1) {
		rule := Rule{Proto: r.proto(), Port: uint16(r.IntN(4)), Class: r.class()}
		if i := r.IntN(2 * len(cidrs)); i < len(cidrs) {
			rule.CIDR = netip.MustParsePrefix(cidrs[i])
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

// What holds for every policy and every packet.
func TestProperties(t *testing.T) {
	r := random{rand.New(rand.NewPCG(1, 2))}
	for range 4_000 {
		p := r.policy()
		proto, local, remote := []Proto{TCP, UDP, 1}[r.IntN(3)], uint16(r.IntN(4)), uint16(r.IntN(4))
		address, dscp := []netip.Addr{near, far, six}[r.IntN(3)], r.IntN(65)-1
		if err := p.Validate(); err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		got := p.Of(proto, local, remote, address, dscp)
		if back := p.Of(proto, remote, local, address, dscp); back != got {
			t.Fatalf("%+v: %s, with the ports the other way round %s", p, got, back)
		}
		matched := slow(Policy{Default: High, Rules: p.Rules}, proto, local, remote, address) == slow(Policy{Default: Low, Rules: p.Rules}, proto, local, remote, address)
		if asked, asks := OfDSCP(uint8(max(dscp, 0))); asks && dscp >= 0 && !matched && got != asked {
			t.Fatalf("%+v: DSCP %d gives %s", p, dscp, got)
		}
		if want := slow(p, proto, local, remote, address); p.Of(proto, local, remote, address, NoDSCP) != want {
			t.Fatalf("%+v: want %s for %d, %d, %d, %s", p, want, proto, local, remote, address)
		}
		fixed := p
		fixed.Fixed = true
		if fixed.Of(proto, local, remote, address, dscp) != p.Default || fixed.Equal(p) {
			t.Fatalf("%+v is not fixed", fixed)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again Policy
		if err := json.Unmarshal(text, &again); err != nil || !again.Equal(p) {
			t.Fatalf("%s: %+v, %v", text, again, err)
		}
	}
}

// slow goes through the rules from the last to the first, and says what each asks for in
// words of its own.
func slow(p Policy, proto Proto, local, remote uint16, address netip.Addr) Class {
	c := p.Default
	for i := len(p.Rules) - 1; i >= 0; i-- {
		r := p.Rules[i]
		wrong := r.Proto != AnyProto && r.Proto != proto
		if r.Port != 0 {
			wrong = wrong || proto != TCP && proto != UDP || local != r.Port && remote != r.Port
		}
		if r.CIDR.IsValid() {
			masked, err := address.Prefix(r.CIDR.Bits())
			wrong = wrong || err != nil || masked != r.CIDR
		}
		if !wrong {
			c = r.Class
		}
	}
	return c
}
