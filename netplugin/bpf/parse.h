// SPDX-License-Identifier: Apache-2.0
// Reads packets. Nothing here has a side effect.
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

#define IP_FRAGMENT_BITS 0x3fff // more fragments, and the offset
#define IP_OFFSET_BITS 0x1fff

#define ECN_MASK 3
#define ECN_ECT_1 1
#define ECN_ECT_0 2
#define ECN_CE 3

// vxlanhdr is of RFC 7348, section 5.
struct vxlanhdr {
	__be32 flags; // bit I alone
	__be32 vni;   // and 8 reserved bits
};

#define VXLAN_FLAGS 0x08000000

// ports begin TCP and UDP.
struct ports {
	__be16 source, destination;
};

// packet is an IP packet behind an Ethernet header.
struct packet {
	struct flow_key key; // without the VNI
	__u32 length;        // from the IP header on
	__u32 packets;       // that were put together, 0 or 1 if none
	__u8 ttl, tos, protocol, v6;
	__u8 checksum; // UDP has one
	__u8 ported;   // the key has its ports
};

static __always_inline void map_ip4(struct address *a, __be32 ip)
{
	a->word[0] = 0;
	a->word[1] = 0;
	a->word[2] = bpf_htonl(0xffff);
	a->word[3] = ip;
}

static __always_inline void copy_ip6(struct address *a, const struct in6_addr *ip)
{
	__builtin_memcpy(a, ip, sizeof(*a));
}

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	return ((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) | (a->word[3] ^ b->word[3])) == 0;
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2])) == 0;
}

// header_sum is the one's complement sum of an IPv4 header without options: 0xffff if
// its checksum is right.
static __always_inline __u32 header_sum(const struct iphdr *ip)
{
	const __u16 *word = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// mapped tells whether an address is an IPv4 one, which no IPv6 packet may have: the kernel
// drops it, and here it would be taken for a packet of IPv4.
static __always_inline bool mapped(const struct address *a)
{
	return (a->word[0] | a->word[1] | (a->word[2] ^ bpf_htonl(0xffff))) == 0;
}

static __always_inline int parse_ports(void *at, void *end, struct packet *p)
{
	struct udphdr *udp = at;
	struct ports *ports = at;

	if (p->protocol == IPPROTO_UDP) {
		if ((void *)(udp + 1) > end)
			return REASON_MALFORMED;
		p->checksum = udp->check != 0;
	} else if (p->protocol != IPPROTO_TCP) {
		return REASON_PROTOCOL;
	}
	if ((void *)(ports + 1) > end)
		return REASON_MALFORMED;
	p->key.source_port = ports->source;
	p->key.destination_port = ports->destination;
	p->ported = 1;
	return REASON_NONE;
}

// parse_ip reads the packet behind the Ethernet header eth. length counts what there is
// from the IP header on. p is zero. Where a reason is returned, addresses may be set, and
// the ports of a first fragment are.
static __always_inline int parse_ip(void *eth, void *end, __u32 length, struct packet *p)
{
	struct ethhdr *e = eth;

	if ((void *)(e + 1) > end)
		return REASON_MALFORMED;
	if (e->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(e + 1);

		if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5 || bpf_ntohs(ip->tot_len) != length)
			return REASON_MALFORMED;
		if (ip->ihl == 5 && header_sum(ip) != 0xffff)
			return REASON_MALFORMED;
		p->length = length;
		p->ttl = ip->ttl;
		p->tos = ip->tos;
		p->protocol = ip->protocol;
		map_ip4(&p->key.source, ip->saddr);
		map_ip4(&p->key.destination, ip->daddr);
		p->key.network = p->protocol;
		if (ip->ihl > 5)
			return REASON_OPTIONS;
		if (ip->frag_off & bpf_htons(IP_OFFSET_BITS))
			return REASON_FRAGMENT;
		int reason = parse_ports(ip + 1, end, p);
		if (ip->frag_off & bpf_htons(IP_FRAGMENT_BITS))
			return REASON_FRAGMENT;
		return reason;
	}
	if (e->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(e + 1);

		if ((void *)(ip + 1) > end || ip->version != 6 || bpf_ntohs(ip->payload_len) + sizeof(*ip) != length)
			return REASON_MALFORMED;
		p->v6 = 1;
		p->length = length;
		p->ttl = ip->hop_limit;
		p->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
		p->protocol = ip->nexthdr;
		copy_ip6(&p->key.source, &ip->saddr);
		copy_ip6(&p->key.destination, &ip->daddr);
		if (mapped(&p->key.source) || mapped(&p->key.destination))
			return REASON_MALFORMED;
		p->key.network = p->protocol;
		switch (ip->nexthdr) {
		case IPPROTO_TCP:
		case IPPROTO_UDP:
			return parse_ports(ip + 1, end, p);
		case IPPROTO_FRAGMENT:
			return REASON_FRAGMENT;
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_AH:
			return REASON_OPTIONS;
		}
		return REASON_PROTOCOL;
	}
	return REASON_PROTOCOL;
}

// outer is what encapsulates a packet.
struct outer {
	struct address source;
	__u32 vni;
	__u32 headers; // bytes before the inner Ethernet header
	__u8 ecn, v6;
};

#define NOT_OURS (-1)

// parse_outer reads a VXLAN packet for this node; NOT_OURS if it is none. length counts
// from the outer Ethernet header on.
static __always_inline int parse_outer(void *data, void *end, __u32 length, const struct settings *s, struct outer *o)
{
	struct ethhdr *e = data;
	struct udphdr *udp;

	if ((void *)(e + 1) > end)
		return NOT_OURS;
	if (e->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(e + 1);
		struct address to;

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP || ip->ihl != 5 || ip->version != 4)
			return NOT_OURS;
		map_ip4(&to, ip->daddr);
		if (!same_address(&to, &s->node))
			return NOT_OURS;
		udp = (void *)(ip + 1);
		if (ip->frag_off & bpf_htons(IP_OFFSET_BITS)) // without a UDP header
			return NOT_OURS;
		if ((void *)(udp + 1) > end || udp->dest != s->port)
			return NOT_OURS;
		if (ip->frag_off & bpf_htons(IP_FRAGMENT_BITS))
			return REASON_FRAGMENT;
		if (bpf_ntohs(ip->tot_len) + sizeof(*e) != length || header_sum(ip) != 0xffff)
			return REASON_MALFORMED;
		map_ip4(&o->source, ip->saddr);
		o->ecn = ip->tos & ECN_MASK;
	} else if (e->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(e + 1);
		struct address to;

		if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_UDP || ip->version != 6)
			return NOT_OURS;
		copy_ip6(&to, &ip->daddr);
		if (!same_address(&to, &s->node) || mapped(&to))
			return NOT_OURS;
		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || udp->dest != s->port)
			return NOT_OURS;
		// Over IPv6 the checksum is not optional: the device refuses none.
		if (bpf_ntohs(ip->payload_len) + sizeof(*ip) + sizeof(*e) != length || udp->check == 0)
			return REASON_MALFORMED;
		copy_ip6(&o->source, &ip->saddr);
		o->ecn = ip->flow_lbl[0] >> 4 & ECN_MASK;
		o->v6 = 1;
	} else {
		return NOT_OURS;
	}
	struct vxlanhdr *vxlan = (void *)(udp + 1);

	o->headers = (o->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(*e) + sizeof(*udp) + sizeof(*vxlan);
	if ((void *)(vxlan + 1) > end || vxlan->flags != bpf_htonl(VXLAN_FLAGS) || (vxlan->vni & bpf_htonl(0xff)))
		return REASON_MALFORMED;
	if (bpf_ntohs(udp->len) + o->headers - sizeof(*udp) - sizeof(*vxlan) != length)
		return REASON_MALFORMED;
	o->vni = bpf_ntohl(vxlan->vni) >> 8;
	return REASON_NONE;
}

static __always_inline __u64 address_sum(const struct address *a)
{
	return (__u64)a->word[0] + a->word[1] + a->word[2] + a->word[3]; // 0xffff adds nothing
}

static __always_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// checksum_holds tells whether the outer checksum of UDP is right if the inner one is, at
// which the container looks: it is all that protects the VNI. By the inner one, the inner
// datagram sums up to what its pseudo header is short of, so only headers are read. It is how
// senders compute it ("LCO" in the kernel's Documentation/networking/checksum-offloads.rst).
// The inner packet is UDP with a checksum; parse_outer and parse_ip found nothing wrong.
static __always_inline bool checksum_holds(void *data, void *end, const struct outer *o, void *eth,
					   const struct packet *p, const struct settings *s)
{
	__u32 header = p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct udphdr *udp = data + sizeof(struct ethhdr) + (o->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	void *ip = eth + sizeof(struct ethhdr);
	struct udphdr *inner = ip + header;
	const __u32 *word = (void *)udp; // of UDP, VXLAN, Ethernet: 30 bytes

	if ((void *)(word + 8) > end || (void *)(inner + 1) > end)
		return false;
	if (bpf_ntohs(inner->len) != p->length - header)
		return false;
	if (udp->check == 0)
		return true; // over IPv4 it is optional
	__u64 pseudo = address_sum(&o->source) + address_sum(&s->node) + bpf_htons(IPPROTO_UDP) + udp->len;
	__u64 sum = pseudo + (__u16)~bpf_htons(IPPROTO_UDP) + *(const __u16 *)(word + 7);

#pragma unroll
	for (int i = 0; i < 7; i++)
		sum += word[i];
	// The inner IP header less the inner pseudo header.
	if (p->v6) {
		sum += *(const __u32 *)ip + *(const __u16 *)(ip + __builtin_offsetof(struct ipv6hdr, nexthdr));
	} else { // it sums up to nothing
		sum += (__u64)(__u32)~p->key.source.word[3] + (__u32)~p->key.destination.word[3] + (__u16)~inner->len;
	}
	// A sender on this machine may leave the payload's part of the sum to hardware.
	return fold(sum) == 0xffff || udp->check == fold(pseudo);
}
