// SPDX-License-Identifier: Apache-2.0
// The programs at tc's hooks. Each lets a packet go on (TC_ACT_OK) unless it knows that the
// kernel's path would bring it, unchanged but for what is done here, to where it sends it.
#pragma once

#include <linux/pkt_cls.h>

#include "flow.h"

// Newer than the headers that this is compiled with (Linux 6.3): the family changes.
#define DECAP_IPV4 (1ULL << 7)
#define DECAP_IPV6 (1ULL << 8)

// by_wire tells whether from_wire is where packets of a kind take the shortcut. TCP does
// so behind the VXLAN device, which puts its segments together (GRO).
static __always_inline bool by_wire(const struct packet *p, const struct settings *s)
{
	return p->protocol == IPPROTO_UDP && (s->flags & FLAG_WIRE);
}

// pull makes headers readable, where the stack has them elsewhere than in the skb's head.
static __always_inline void pull(struct __sk_buff *skb, __u32 want)
{
	if (skb->data + want > skb->data_end)
		bpf_skb_pull_data(skb, skb->len < want ? skb->len : want);
}

#define PLAIN (sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + sizeof(struct udphdr))
#define ENCAPSULATED (PLAIN + sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + sizeof(struct udphdr) + sizeof(struct vxlanhdr))

// forwarded changes what a router changes: the Ethernet header, TTL, and by it the
// checksum of IPv4. The sum over an IPv4 header stays what it was, and so does the skb's
// checksum; of IPv6 it changes. ce marks congestion, RFC 6040.
static __always_inline int forwarded(struct __sk_buff *skb, const struct flow *f, const struct packet *p, bool ce)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *e = data;

	if (p->v6) {
		struct ipv6hdr *ip = (void *)(e + 1);

		if ((void *)(ip + 1) > end)
			return -1;
		__builtin_memcpy(e->h_dest, f->leaves_to, MAC_LEN);
		__builtin_memcpy(e->h_source, f->leaves_from, MAC_LEN);
		e->h_proto = bpf_htons(ETH_P_IPV6);
		__u8 ttl = p->ttl - 1, class = ip->flow_lbl[0] | ECN_CE << 4;

		if (ce && bpf_skb_store_bytes(skb, sizeof(*e) + 1, &class, 1, BPF_F_RECOMPUTE_CSUM))
			return -1;
		return bpf_skb_store_bytes(skb, sizeof(*e) + __builtin_offsetof(struct ipv6hdr, hop_limit), &ttl, 1, BPF_F_RECOMPUTE_CSUM);
	}
	struct iphdr *ip = (void *)(e + 1);

	if ((void *)(ip + 1) > end)
		return -1;
	__builtin_memcpy(e->h_dest, f->leaves_to, MAC_LEN);
	__builtin_memcpy(e->h_source, f->leaves_from, MAC_LEN);
	e->h_proto = bpf_htons(ETH_P_IP);
	__u32 check = bpf_ntohs(ip->check);

	// In the kernel's order: of 0 and 0xffff, which are the same, it depends on that.
	if (ce) { // the lower byte of its word grows
		check += 0xffff - (ECN_CE - (ip->tos & ECN_MASK));
		check = (check & 0xffff) + (check >> 16);
		ip->tos |= ECN_CE;
	}
	check += 0x100; // RFC 1141; TTL is the upper byte of its word
	ip->check = bpf_htons((check + (check >= 0xffff)) & 0xffff);
	ip->ttl--;
	return 0;
}

// unfinished tells whether a UDP checksum is what a sender leaves to its NIC to finish: the
// sum of addresses, length and protocol alone (CHECKSUM_PARTIAL in skbuff.h).
static __always_inline bool unfinished(void *eth, void *end, bool v6)
{
	struct ethhdr *e = eth;
	struct udphdr *udp;
	__u32 sum = bpf_htons(IPPROTO_UDP);

	if (v6) {
		struct ipv6hdr *ip = (void *)(e + 1);
		__u16 *word = (void *)&ip->saddr;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return false;
#pragma unroll
		for (int i = 0; i < 16; i++)
			sum += word[i];
	} else {
		struct iphdr *ip = (void *)(e + 1);
		__u16 *word = (void *)&ip->saddr;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return false;
#pragma unroll
		for (int i = 0; i < 4; i++)
			sum += word[i];
	}
	sum += udp->len;
	sum = (sum & 0xffff) + (sum >> 16);
	return udp->check == (__u16)((sum & 0xffff) + (sum >> 16));
}

// decap takes a VXLAN packet to the container that it is for.
//
//	eth | ip | udp | vxlan | eth | ip | ...   ->   eth | ip | ...
static __always_inline int decap(struct __sk_buff *skb, const struct outer *o, const struct flow *f, const struct packet *p, bool ce, bool veth)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	bool trusted = veth && unfinished(data + o->headers, end, p->v6);

	if (p->v6 != o->v6)
		flags |= p->v6 ? DECAP_IPV6 : DECAP_IPV4;
	// What is taken away lies behind the outer Ethernet header, whose place the inner takes.
	if (bpf_skb_adjust_room(skb, -(__s32)o->headers, BPF_ADJ_ROOM_MAC, flags))
		return REASON_UNSUPPORTED;
	if (trusted)
		bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	if (forwarded(skb, f, p, ce))
		return REASON_MALFORMED;
	return REASON_NONE;
}

// vouch is for packets that went through a queue of XDP's from a veth, over which senders
// leave checksums unfinished and the skb says so. The queue forgets that. Where the sum is
// the unfinished one it is trusted as it was before; a damaged packet has that sum as rarely
// as the right one. Packets that came otherwise aren't changed.
static __always_inline void vouch(struct __sk_buff *skb, const struct outer *o, const struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (p->ported && p->protocol == IPPROTO_UDP && unfinished(data + o->headers, end, p->v6)) {
		bpf_csum_level(skb, BPF_CSUM_LEVEL_INC); // the outer, made of the inner
		bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	} else if (unfinished(data, end, o->v6)) {
		bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	}
}

static __always_inline int wire_exception(const struct outer *o, const struct ethhdr *eth, const struct flow *f, const struct packet *p)
{
	struct slot *slot = get_slot(f->endpoint);

	if (!same_mac(eth->h_dest, f->came_to) || same_mac(eth->h_source, f->came_to))
		return REASON_ADDRESS;
	if (p->ttl <= 1)
		return REASON_TTL;
	if (!slot || p->length > slot->mtu)
		return REASON_MTU;
	if (!p->checksum)
		return REASON_CHECKSUM;
	// RFC 6040 section 4.2; what it drops or logs is the kernel's.
	if (o->ecn == ECN_CE && (p->tos & ECN_MASK) == 0)
		return REASON_ECN;
	if (o->ecn == ECN_ECT_1 && (p->tos & ECN_MASK) == ECN_ECT_0)
		return REASON_ECN;
	return REASON_NONE;
}

// pin leaves a flow to the kernel from its first fragment on: later ones have no ports,
// and the rest of the flow must not overtake them. own is the container that it comes from, 0
// if it comes from another node.
static __always_inline void pin(struct packet *p, __u32 vni, int reason, __u32 own)
{
	if (reason != REASON_FRAGMENT || !p->ported)
		return;
	p->key.network |= vni << 8;
	struct flow *f = bpf_map_lookup_elem(&falcon_flows, &p->key);

	if (f && (!own || own == sender_of(f))) {
		f->state = STATE_SLOW;
		f->reason = REASON_FRAGMENT;
	}
}

static __always_inline int from_wire(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	struct outer o = {};
	struct packet p = { .packets = skb->gso_segs };
	struct flow *f;
	int reason;

	if (!s || skb->pkt_type != 0 /* PACKET_HOST */ || skb->vlan_present || skb->gso_size)
		return TC_ACT_OK;
	pull(skb, ENCAPSULATED);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	reason = parse_outer(data, end, skb->len, s, &o);
	if (reason == NOT_OURS)
		return TC_ACT_OK;
	struct ethhdr *eth = data + o.headers;

	if (!reason) {
		reason = parse_ip(eth, end, skb->len - o.headers - sizeof(*eth), &p);
		pin(&p, o.vni, reason, 0);
	}
	if (!attended(s)) // what is read is for vouch
		reason = REASON_OFF;
	if (reason) {
		// Fragments of UDP and the like: from_tunnel would count them once more.
		goto slow;
	}
	if (!by_wire(&p, s))
		return TC_ACT_OK;
	p.key.network |= o.vni << 8;
	f = bpf_map_lookup_elem(&falcon_flows, &p.key);
	if (!f || !current(f, s)) {
		if ((void *)(eth + 1) > end)
			return TC_ACT_OK;
		f = come_in(&p, f, &o.source, eth, s, &reason);
		if (!f)
			goto slow;
	}
	if (f->tunnel) {
		if (s->flags & FLAG_VETH)
			vouch(skb, &o, &p);
		return TC_ACT_OK;
	}
	if (f->classes != s->classes)
		classify(f, &p, s);
	count_flow(f, &p);
	struct peer *peer = bpf_map_lookup_elem(&falcon_peers, &f->source);

	reason = ready(f, s);
	if (!reason && (void *)(eth + 1) <= end)
		reason = !peer || !same_address(&o.source, &peer->address) ? REASON_PEER : wire_exception(&o, eth, f, &p);
	if (!reason && !checksum_holds(data, end, &o, eth, &p, s))
		reason = REASON_CHECKSUM;
	if (reason) {
		leave_to_kernel(f);
		goto slow;
	}
	reason = decap(skb, &o, f, &p, o.ecn == ECN_CE && (p.tos & ECN_MASK) != ECN_CE, s->flags & FLAG_VETH);
	if (reason == REASON_UNSUPPORTED) { // it is as it was
		f->tunnel = 1;
		goto slow;
	}
	if (reason) {
		note(reason);
		return TC_ACT_SHOT;
	}
	count_pair(&p, false);
	note(REASON_WIRE);
	return bpf_redirect_peer(f->target, 0);
slow:
	note(reason);
	if (s->flags & FLAG_VETH)
		vouch(skb, &o, &p);
	return TC_ACT_OK;
}

// too_long tells whether a packet, or a segment of one that is to be segmented, exceeds the
// MTU of the link that it is for.
static __always_inline bool too_long(struct __sk_buff *skb, __u32 ifindex)
{
	__u32 length = 0; // in: the packet's; out: the MTU

	return bpf_check_mtu(skb, ifindex, &length, 0, BPF_MTU_CHK_SEGS) != 0;
}

static __always_inline int from_tunnel(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	__u32 ifindex = skb->ifindex;
	__u32 *vni = bpf_map_lookup_elem(&falcon_devices, &ifindex);
	struct packet p = { .packets = skb->gso_segs };
	struct flow *f;
	int reason;

	if (!s || !vni || skb->pkt_type != 0 /* PACKET_HOST */ || skb->vlan_present)
		return TC_ACT_OK;
	if (!attended(s))
		return TC_ACT_OK; // counted at the wire
	pull(skb, PLAIN);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	reason = parse_ip(data, end, skb->len - sizeof(*eth), &p);
	if (reason) {
		pin(&p, *vni, reason, 0);
		return TC_ACT_OK;
	}
	p.key.network |= *vni << 8;
	f = bpf_map_lookup_elem(&falcon_flows, &p.key);
	if (by_wire(&p, s) && !skb->gso_size && !(f && f->tunnel))
		return TC_ACT_OK; // from_wire has dealt with it
	if (!f || !current(f, s)) {
		if ((void *)(eth + 1) > end)
			return TC_ACT_OK;
		f = come_in(&p, f, 0, eth, s, &reason);
		if (!f)
			goto slow;
	}
	f->tunnel = 1;
	if (f->classes != s->classes)
		classify(f, &p, s);
	count_flow(f, &p);
	reason = ready(f, s);
	if (!reason && p.ttl <= 1)
		reason = REASON_TTL;
	if (!reason && too_long(skb, f->target))
		reason = REASON_MTU;
	if (reason) {
		leave_to_kernel(f);
		goto slow;
	}
	if (forwarded(skb, f, &p, false)) {
		note(REASON_MALFORMED);
		return TC_ACT_SHOT;
	}
	count_pair(&p, false);
	note(REASON_TUNNEL);
	return bpf_redirect_peer(f->target, 0);
slow:
	note(reason);
	return TC_ACT_OK;
}

// seen_off marks packets that the shortcut sends to the VXLAN device, for the program there.
#define SEEN_OFF 0x66616c63

// priority_of is what the kernel gives a packet that it forwards, ip_tos2prio in
// net/ipv4/route.c, unless it has a class.
static __always_inline __u32 priority_of(const struct flow *f, const struct packet *p, const struct settings *s)
{
	if (s->flags & FLAG_PRIORITY) {
		if (f->class == CLASS_HIGH)
			return 6; // TC_PRIO_INTERACTIVE
		if (f->class == CLASS_LOW)
			return 2; // TC_PRIO_BULK
	}
	switch (p->tos & 0x18) {
	case 0x08:
		return 2;
	case 0x10:
		return 6;
	case 0x18:
		return 4;
	}
	return 0;
}

static __always_inline int from_container(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	__u32 ifindex = skb->ifindex;
	__u32 *own = bpf_map_lookup_elem(&falcon_links, &ifindex);
	struct slot *slot;
	struct packet p = { .packets = skb->gso_segs };
	struct flow *f;
	int reason;

	if (!s || !own || skb->vlan_present || !attended(s))
		return TC_ACT_OK;
	slot = get_slot(*own);
	if (!slot || !(slot->generation & 1))
		return TC_ACT_OK;
	pull(skb, PLAIN);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	reason = parse_ip(data, end, skb->len - sizeof(*eth), &p);
	if (reason) {
		pin(&p, slot->vni, reason, *own);
		goto slow;
	}
	if ((void *)(eth + 1) > end || !same_mac(eth->h_source, slot->mac)) {
		reason = REASON_ADDRESS;
		goto slow;
	}
	p.key.network |= slot->vni << 8;
	f = bpf_map_lookup_elem(&falcon_flows, &p.key);
	if (!f || !current(f, s)) {
		f = go_out(&p, f, *own, slot, eth, s, &reason);
		if (!f)
			goto slow;
	}
	if (sender_of(f) != *own) {
		reason = REASON_ADDRESS; // another's flow: the kernel's rules drop it
		goto slow;
	}
	if (f->classes != s->classes)
		classify(f, &p, s);
	count_flow(f, &p);
	count_pair(&p, true);
	if (s->flags & FLAG_PRIORITY)
		skb->priority = priority_of(f, &p, s);
	reason = ready(f, s);
	if (!reason && !same_mac(eth->h_dest, f->came_to))
		reason = REASON_ADDRESS;
	if (!reason && f->direction == DIRECTION_OUT && p.ttl <= 1)
		reason = REASON_TTL;
	if (!reason && too_long(skb, f->target))
		reason = REASON_MTU;
	if (!reason && skb->pkt_type != 0 && bpf_skb_change_type(skb, 0 /* PACKET_HOST */))
		reason = REASON_ADDRESS;
	if (reason) {
		leave_to_kernel(f);
		goto slow;
	}
	if (f->direction == DIRECTION_LOCAL) {
		count_pair(&p, false);
		note(REASON_LOCAL);
		return bpf_redirect_peer(f->target, 0);
	}
	if (forwarded(skb, f, &p, false)) {
		note(REASON_MALFORMED);
		return TC_ACT_SHOT;
	}
	skb->priority = priority_of(f, &p, s);
	skb->cb[0] = SEEN_OFF;
	skb->cb[1] = ~SEEN_OFF;
	note(REASON_OUT);
	return bpf_redirect(f->target, 0);
slow:
	note(reason);
	return TC_ACT_OK;
}

// arrived is for the end of the kernel's path.
static __always_inline int arrived(struct __sk_buff *skb, __u32 vni, enum direction direction, __u32 own)
{
	struct settings *s = get_settings();
	struct packet p = { .packets = skb->gso_segs };

	if (!s || !attended(s) || skb->vlan_present)
		return TC_ACT_OK;
	pull(skb, PLAIN);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if (parse_ip(data, end, skb->len - sizeof(*eth), &p) || (void *)(eth + 1) > end)
		return TC_ACT_OK;
	p.key.network |= vni << 8;
	struct flow *f = bpf_map_lookup_elem(&falcon_flows, &p.key);

	if (!f)
		return TC_ACT_OK;
	if (direction == DIRECTION_OUT) {
		if (f->direction != DIRECTION_OUT)
			return TC_ACT_OK;
	} else {
		if (f->direction == DIRECTION_OUT || f->endpoint != own)
			return TC_ACT_OK;
		count_pair(&p, false);
	}
	if (current(f, s))
		arrive(f, eth, skb->ifindex);
	return TC_ACT_OK;
}

static __always_inline int to_container(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	__u32 *own = bpf_map_lookup_elem(&falcon_links, &ifindex);
	struct slot *slot = own ? get_slot(*own) : 0;

	if (!own || !slot || !(slot->generation & 1))
		return TC_ACT_OK;
	return arrived(skb, slot->vni, DIRECTION_IN, *own);
}

static __always_inline int to_tunnel(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	__u32 *vni = bpf_map_lookup_elem(&falcon_devices, &ifindex);

	if (!vni || (skb->cb[0] == SEEN_OFF && skb->cb[1] == ~SEEN_OFF))
		return TC_ACT_OK;
	return arrived(skb, *vni, DIRECTION_OUT, 0);
}
