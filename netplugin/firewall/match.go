package firewall

import (
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The kernel's 16-byte registers 1 and 2 lie side by side: a link's name in the first and
// an address in the second are one key. second4 is the second 4 bytes of the first.
const (
	first   = unix.NFT_REG_1
	second  = unix.NFT_REG_2
	second4 = unix.NFT_REG32_01
)

// field is where a header's field lies.
type field struct {
	base        expr.PayloadBase
	offset, len uint32
}

var (
	etherDestination = field{expr.PayloadBaseLLHeader, 0, 6}
	etherSource      = field{expr.PayloadBaseLLHeader, 6, 6}
	// etherType is the outermost: the kernel puts a VLAN tag it has taken off back in
	// for a load from here (net/netfilter/nft_payload.c, nft_payload_copy_vlan).
	etherType = field{expr.PayloadBaseLLHeader, 12, 2}

	arpFormat       = field{expr.PayloadBaseNetworkHeader, 0, 6} // RFC 826
	arpOperation    = field{expr.PayloadBaseNetworkHeader, 6, 2}
	arpSenderMAC    = field{expr.PayloadBaseNetworkHeader, 8, 6}
	arpSenderIP     = field{expr.PayloadBaseNetworkHeader, 14, 4}
	ip4Source       = field{expr.PayloadBaseNetworkHeader, 12, 4}
	ip4Destination  = field{expr.PayloadBaseNetworkHeader, 16, 4}
	ip6Source       = field{expr.PayloadBaseNetworkHeader, 8, 16}
	ip6Destination  = field{expr.PayloadBaseNetworkHeader, 24, 16}
	udpDestination  = field{expr.PayloadBaseTransportHeader, 2, 2}
	icmp6Type       = field{expr.PayloadBaseTransportHeader, 0, 1}
	neighbourTarget = field{expr.PayloadBaseTransportHeader, 8, 16} // RFC 4861, 4.3 and 4.4
)

// rule is a list of expressions: matches, then a statement or a verdict.
type rule []expr.Any

func when(parts ...rule) rule { return slices.Concat(parts...) }

func (f field) load(register uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: f.base, Offset: f.offset, Len: f.len}
}

func meta(key expr.MetaKey, register uint32) *expr.Meta {
	return &expr.Meta{Key: key, Register: register}
}

func compare(op expr.CmpOp, data ...byte) *expr.Cmp {
	return &expr.Cmp{Op: op, Register: first, Data: data}
}

func lookup(set string) *expr.Lookup { return &expr.Lookup{SourceRegister: first, SetName: set} }

// is matches a field's exact bytes.
func is(f field, data ...byte) rule { return rule{f.load(first), compare(expr.CmpOpEq, data...)} }

// masked matches the bytes of a field that a mask selects.
func masked(f field, mask, data []byte) rule {
	return rule{
		f.load(first),
		&expr.Bitwise{SourceRegister: first, DestRegister: first, Len: f.len, Mask: mask, Xor: make([]byte, f.len)},
		compare(expr.CmpOpEq, data...),
	}
}

// below matches a field less than data, both big-endian.
func below(f field, data ...byte) rule {
	return rule{f.load(first), compare(expr.CmpOpLt, data...)}
}

// readable matches a packet that has the field, whatever is in it.
func readable(f field) rule {
	return rule{f.load(first), compare(expr.CmpOpGte, make([]byte, f.len)...)}
}

// in matches a field that is in a set.
func in(f field, set string) rule { return rule{f.load(first), lookup(set)} }

// fromLink matches the input link alone.
func fromLink(set string) rule { return rule{meta(expr.MetaKeyIIFNAME, first), lookup(set)} }

// fromLinkWith matches the input link together with a field.
func fromLinkWith(f field, set string) rule {
	return rule{meta(expr.MetaKeyIIFNAME, first), f.load(second), lookup(set)}
}

// between matches the input link together with the output link.
func between(set string) rule {
	return rule{meta(expr.MetaKeyIIFNAME, first), meta(expr.MetaKeyOIFNAME, second), lookup(set)}
}

// toLink matches the output link.
func toLink(set string) rule { return rule{meta(expr.MetaKeyOIFNAME, first), lookup(set)} }

// fromLinkLike matches the input link by the beginning of its name.
func fromLinkLike(prefix string) rule {
	return rule{meta(expr.MetaKeyIIFNAME, first), compare(expr.CmpOpEq, []byte(prefix)...)}
}

// family4 and family6 must precede a load from an IP header in the inet table.
func family4() rule { return familyIs(unix.NFPROTO_IPV4) }
func family6() rule { return familyIs(unix.NFPROTO_IPV6) }

func familyIs(family byte) rule {
	return rule{meta(expr.MetaKeyNFPROTO, first), compare(expr.CmpOpEq, family)}
}

// protocol matches the transport protocol behind IPv6's extension headers.
func protocol(p byte) rule { return rule{meta(expr.MetaKeyL4PROTO, first), compare(expr.CmpOpEq, p)} }

func otherProtocol(p byte) rule {
	return rule{meta(expr.MetaKeyL4PROTO, first), compare(expr.CmpOpNeq, p)}
}

// laterFragment matches an IPv6 fragment that isn't the first of its packet.
func laterFragment() rule {
	return rule{
		&expr.Exthdr{DestRegister: first, Type: unix.IPPROTO_FRAGMENT, Offset: 2, Len: 2, Op: expr.ExthdrOpIpv6},
		&expr.Bitwise{SourceRegister: first, DestRegister: first, Len: 2, Mask: []byte{0xff, 0xf8}, Xor: []byte{0, 0}},
		compare(expr.CmpOpNeq, 0, 0),
	}
}

// routedBack matches a source that is routed by the link the packet came by.
func routedBack() rule {
	return rule{
		&expr.Fib{Register: first, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		compare(expr.CmpOpNeq, 0, 0, 0, 0),
	}
}

// accept ends the base chain: other tables are asked all the same.
func accept() rule { return rule{&expr.Verdict{Kind: expr.VerdictAccept}} }

// to goes on in another chain and doesn't come back.
func to(chain string) rule { return rule{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

// refuse goes on in the chain that counts and drops for a reason.
func refuse(reason string) rule { return to(dropChain(reason)) }
