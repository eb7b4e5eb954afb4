package priority

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
)

// MaxRules is how many rules an attachment may have: the kernel's programs look at each, for
// the first packet of a flow.
const MaxRules = 16

// Proto is the number of an IP protocol. Rules know those that have ports.
type Proto uint8

// AnyProto matches every protocol.
const (
	AnyProto Proto = 0
	TCP      Proto = 6
	UDP      Proto = 17
)

// MarshalText implements encoding.TextMarshaler: tcp, udp, or nothing for any.
func (p Proto) MarshalText() ([]byte, error) {
	switch p {
	case AnyProto:
		return nil, nil
	case TCP:
		return []byte("tcp"), nil
	case UDP:
		return []byte("udp"), nil
	}
	return nil, fmt.Errorf("rules know no protocol %d: %w", uint8(p), errdefs.ErrInvalidArgument)
}

// UnmarshalText reads what MarshalText writes.
func (p *Proto) UnmarshalText(text []byte) error {
	switch string(text) {
	case "":
		*p = AnyProto
	case "tcp":
		*p = TCP
	case "udp":
		*p = UDP
	default:
		return fmt.Errorf("the protocol %.40q is unknown, use tcp or udp, or leave it out: %w", text, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Rule gives a class to the packets that all of it matches.
type Rule struct {
	Proto Proto `json:"proto,omitzero"`
	// Port is that of either side, so that a rule is the same for who serves and who asks; 0
	// is any. Packets without ports, as later fragments, are matched by rules without one.
	Port uint16 `json:"port,omitzero"`
	// CIDR has the address of the other side; the zero Prefix has all.
	CIDR  netip.Prefix `json:"cidr,omitzero"`
	Class Class        `json:"class"`
}

// Policy is how the packets of one attachment are classed, those to it and those from it.
type Policy struct {
	// Default is of packets that no rule matches.
	Default Class `json:"default,omitzero"`
	// Rules: the first that matches decides.
	Rules []Rule `json:"rules,omitempty"`
	// Fixed is that all packets are of class Default, without a look at rules and DSCP. A
	// reservation makes it so; it is never configured.
	Fixed bool `json:"-"`
}

// IsZero tells whether all is normal, for encoding/json.
func (p Policy) IsZero() bool { return p.Default == Normal && len(p.Rules) == 0 && !p.Fixed }

// Equal tells whether both say the same.
func (p Policy) Equal(o Policy) bool {
	return p.Default == o.Default && p.Fixed == o.Fixed && slices.Equal(p.Rules, o.Rules)
}

// Validate refuses, with errdefs.ErrInvalidArgument, what the kernel's programs can't do or
// what can't be meant.
func (p Policy) Validate() error {
	if _, err := p.Default.MarshalText(); err != nil {
		return fmt.Errorf("default: %w", err)
	}
	if len(p.Rules) > MaxRules {
		return fmt.Errorf("there are %d rules and may be %d: %w", len(p.Rules), MaxRules, errdefs.ErrInvalidArgument)
	}
	for i, r := range p.Rules {
		if err := r.validate(); err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return nil
}

func (r Rule) validate() error {
	if _, err := r.Class.MarshalText(); err != nil {
		return err
	}
	if _, err := r.Proto.MarshalText(); err != nil {
		return err
	}
	switch c := r.CIDR; {
	case c == netip.Prefix{}:
	case !c.IsValid() || c.Addr().Is4In6():
		return fmt.Errorf("cidr %s is no prefix of IPv4 or IPv6: %w", c, errdefs.ErrInvalidArgument)
	case c != c.Masked():
		return fmt.Errorf("cidr %s has bits behind its length, write %s: %w", c, c.Masked(), errdefs.ErrInvalidArgument)
	}
	return nil
}

// NoDSCP stands for the DSCP of packets where the node doesn't trust it.
const NoDSCP = -1

// Of is the class of a packet of the attachment. proto is its IP protocol; the ports are 0 if
// it has none, or none that can be read; remote is the other side's address; dscp is 0 to
// 63, or NoDSCP. What decides is, in this order: a reservation, the first rule that matches,
// the DSCP, the default.
func (p Policy) Of(proto Proto, localPort, remotePort uint16, remote netip.Addr, dscp int) Class {
	if p.Fixed {
		return p.Default
	}
	for _, r := range p.Rules {
		if r.matches(proto, localPort, remotePort, remote.Unmap()) {
			return r.Class
		}
	}
	if dscp >= 0 && dscp < 64 {
		if c, asks := OfDSCP(uint8(dscp)); asks {
			return c
		}
	}
	return p.Default
}

func (r Rule) matches(proto Proto, localPort, remotePort uint16, remote netip.Addr) bool {
	return (r.Proto == AnyProto || r.Proto == proto) &&
		(r.Port == 0 || (proto == TCP || proto == UDP) && (r.Port == localPort || r.Port == remotePort)) &&
		(r.CIDR == netip.Prefix{} || r.CIDR.Contains(remote))
}
