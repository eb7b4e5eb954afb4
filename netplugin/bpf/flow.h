// SPDX-License-Identifier: Apache-2.0
// What is known of flows: how they come to be, which class they have, when they take the
// shortcut.
#pragma once

#include "parse.h"

#define SETTLE_GAP 100000000ULL    // ns without a packet after which none is under way
#define SETTLE_LIMIT 5000000000ULL // ns after which none is waited for: some were dropped

static __always_inline void note(enum reason reason)
{
	__u32 i = reason;
	struct count *c = bpf_map_lookup_elem(&falcon_counts, &i);

	if (c)
		c->packets++;
}

static __always_inline struct settings *get_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&falcon_settings, &zero);
}

// attended tells whether there is an agent. Without one packets are not even looked at.
static __always_inline bool attended(const struct settings *s)
{
	return bpf_ktime_get_coarse_ns() < s->valid_until;
}

static __always_inline struct slot *get_slot(__u32 i)
{
	return bpf_map_lookup_elem(&falcon_slots, &i);
}

static __always_inline __u32 endpoint_of(__u32 vni, const struct address *a)
{
	struct endpoint_key key = { .vni = vni, .address = *a };
	__u32 *slot = bpf_map_lookup_elem(&falcon_ips, &key);

	return slot ? *slot : 0; // slot 0 is nobody's
}

static __always_inline __u32 peer_of(__u32 vni, const struct address *a)
{
	struct prefix_key key = { .bits = 32 + 128, .vni = bpf_htonl(vni), .address = *a };
	__u32 *peer = bpf_map_lookup_elem(&falcon_prefixes, &key);

	return peer ? *peer : 0; // 0 is nobody
}

// matches has no branches: the verifier follows each, as often as there are rules.
static __always_inline bool matches(const struct rule *r, const struct flow_key *key, const struct address *other)
{
	__u32 differ = r->protocol & ~((r->protocol == (key->network & 0xff)) * ~0U);

	differ |= r->port & ~(((r->port == key->source_port) | (r->port == key->destination_port)) * ~0U);
#pragma unroll
	for (int i = 0; i < 4; i++)
		differ |= (other->word[i] ^ r->cidr.word[i]) & r->mask.word[i];
	return differ == 0;
}

// by_dscp is the class that a packet asks for itself; a negative number if it doesn't.
static __always_inline int by_dscp(__u8 tos)
{
	switch (tos >> 2) {
	case 46: // EF, RFC 3246
	case 44: // VA, RFC 5865
	case 40: // CS5
	case 48: // CS6
	case 56: // CS7
		return CLASS_HIGH;
	case 8: // CS1
	case 1: // LE, RFC 8622
		return CLASS_LOW;
	}
	return -1;
}

struct question {
	struct flow_key key;
	__u32 slot;
	__u32 flags;
	__u8 tos, outgoing;
};

// class_of is the class of a flow of a slot's container: what was reserved, then the first
// rule that matches, then DSCP if that is trusted, then the container's own. The verifier
// judges a global function once, not for each caller.
__noinline int class_of(struct question *q)
{
	if (!q)
		return CLASS_NORMAL;
	__u32 index = q->slot; // Linux 6.1 takes no key that an argument points to
	struct slot *slot = get_slot(index);

	if (!slot)
		return CLASS_NORMAL;
	if (slot->reserved)
		return slot->reserved - 1;
	struct rules *rules = slot->rules ? bpf_map_lookup_elem(&falcon_rules, &index) : 0;

	if (rules) {
		struct address other = q->outgoing ? q->key.destination : q->key.source;

		for (int i = 0; i < RULES; i++) {
			struct rule *r = &rules->rule[i];

			if (i >= slot->rules)
				break;
			if (matches(r, &q->key, &other))
				return r->class;
		}
	}
	if (q->flags & FLAG_DSCP) {
		int class = by_dscp(q->tos);

		if (class >= 0)
			return class;
	}
	return slot->class;
}

static __always_inline void classify(struct flow *f, const struct packet *p, const struct settings *s)
{
	struct question q = {
		.key = p->key, .slot = f->endpoint, .flags = s->flags, .tos = p->tos,
		.outgoing = f->direction == DIRECTION_OUT,
	};

	f->class = class_of(&q);
	if (f->direction == DIRECTION_LOCAL && f->class == CLASS_NORMAL) {
		q.slot = f->source;
		q.outgoing = 1;
		f->class = class_of(&q);
	}
	f->classes = s->classes;
}

// current tells whether what is known of a flow still holds.
static __always_inline bool current(const struct flow *f, const struct settings *s)
{
	struct slot *slot = get_slot(f->endpoint);

	if (f->epoch != s->epoch || !slot || slot->generation != f->endpoint_generation)
		return false;
	if (f->direction == DIRECTION_LOCAL) {
		slot = get_slot(f->source);
		return slot && slot->generation == f->source_generation;
	}
	struct peer *peer = bpf_map_lookup_elem(&falcon_peers, &f->source);

	return peer && peer->generation == f->source_generation;
}

// sender_of is the slot of the container of this node that sends a flow, 0 if none does.
static __always_inline __u32 sender_of(const struct flow *f)
{
	switch (f->direction) {
	case DIRECTION_OUT:
		return f->endpoint;
	case DIRECTION_LOCAL:
		return f->source;
	case DIRECTION_IN:
		break;
	}
	return 0;
}

// keep puts a new flow into the table, with what its predecessor counted.
static __always_inline struct flow *keep(const struct packet *p, struct flow *f, const struct flow *old, const struct settings *s)
{
	f->epoch = s->epoch;
	f->created = bpf_ktime_get_ns();
	if (old) {
		f->packets = old->packets;
		f->bytes = old->bytes;
	}
	classify(f, p, s);
	if (bpf_map_update_elem(&falcon_flows, &p->key, f, BPF_ANY))
		return 0;
	return bpf_map_lookup_elem(&falcon_flows, &p->key);
}

// come_in makes a flow from another node to a container. outer is that node's address, or
// null where the kernel has judged it. p->key is complete.
static __always_inline struct flow *come_in(const struct packet *p, const struct flow *old, const struct address *outer,
					    const struct ethhdr *eth, const struct settings *s, int *reason)
{
	__u32 vni = p->key.network >> 8;
	struct flow f = { .direction = DIRECTION_IN };

	f.source = peer_of(vni, &p->key.source);
	f.endpoint = endpoint_of(vni, &p->key.destination);
	struct peer *peer = bpf_map_lookup_elem(&falcon_peers, &f.source);
	struct slot *slot = get_slot(f.endpoint);

	if (!f.source || !f.endpoint || !peer || !slot) {
		*reason = REASON_UNKNOWN;
		return 0;
	}
	if (outer && !same_address(outer, &peer->address)) {
		*reason = REASON_PEER;
		return 0;
	}
	f.source_generation = peer->generation;
	f.endpoint_generation = slot->generation;
	if (slot->slow) {
		f.state = STATE_SLOW;
		f.reason = REASON_SHAPED;
	}
	__builtin_memcpy(f.came_to, eth->h_dest, MAC_LEN);
	struct flow *kept = keep(p, &f, old, s);

	if (!kept)
		*reason = REASON_FULL;
	return kept;
}

// go_out makes a flow of a container of this node, to another node or to a container here.
static __always_inline struct flow *go_out(const struct packet *p, const struct flow *old, __u32 own,
					   const struct slot *slot, const struct ethhdr *eth, const struct settings *s, int *reason)
{
	struct flow f = { .direction = DIRECTION_OUT, .endpoint = own, .endpoint_generation = slot->generation };

	*reason = REASON_UNKNOWN;
	if (endpoint_of(slot->vni, &p->key.source) != own)
		return 0;
	f.source = peer_of(slot->vni, &p->key.destination);
	if (f.source) {
		struct peer *peer = bpf_map_lookup_elem(&falcon_peers, &f.source);

		if (!peer)
			return 0;
		f.source_generation = peer->generation;
	} else {
		f.direction = DIRECTION_LOCAL;
		f.source = own;
		f.source_generation = slot->generation;
		f.endpoint = endpoint_of(slot->vni, &p->key.destination);
		struct slot *to = get_slot(f.endpoint);

		if (!f.endpoint || !to)
			return 0;
		f.endpoint_generation = to->generation;
		if (to->slow) {
			f.state = STATE_SLOW;
			f.reason = REASON_SHAPED;
		}
	}
	if (slot->slow) {
		f.state = STATE_SLOW;
		f.reason = REASON_SHAPED;
	}
	__builtin_memcpy(f.came_to, eth->h_dest, MAC_LEN);
	struct flow *kept = keep(p, &f, old, s);

	if (!kept)
		*reason = REASON_FULL;
	return kept;
}

// ready tells why a flow's next packet can't take the shortcut, as far as the flow goes.
static __always_inline int ready(struct flow *f, const struct settings *s)
{
	__u64 now;

	if (!(s->flags & FLAG_SHORTCUT))
		return REASON_OFF; // flows are known, counted and classed nevertheless

	switch (f->state) {
	case STATE_FAST:
		return REASON_NONE;
	case STATE_SLOW:
		return f->reason;
	case STATE_NEW:
		return REASON_NEW;
	case STATE_SEEN:
		break;
	}
	// A packet that takes the shortcut overtakes those before it, which wait in queues.
	now = bpf_ktime_get_ns();
	if (f->sent != f->arrived && now - f->seen < SETTLE_GAP && now - f->created < SETTLE_LIMIT)
		return REASON_SETTLING;
	f->state = STATE_FAST;
	return REASON_NONE;
}

// leave_to_kernel is for a packet that goes on by the kernel's path.
static __always_inline void leave_to_kernel(struct flow *f)
{
	if (f->state == STATE_FAST)
		return; // an exception, which is not waited for
	f->seen = bpf_ktime_get_ns();
	__sync_fetch_and_add(&f->sent, 1);
}

// arrive is for a packet at the end of the kernel's path, with the Ethernet header that it
// got there.
static __always_inline void arrive(struct flow *f, const struct ethhdr *eth, __u32 ifindex)
{
	__sync_fetch_and_add(&f->arrived, 1);
	if (f->state != STATE_NEW)
		return;
	__builtin_memcpy(f->leaves_to, eth->h_dest, MAC_LEN);
	__builtin_memcpy(f->leaves_from, eth->h_source, MAC_LEN);
	f->target = ifindex;
	f->state = STATE_SEEN;
}

static __always_inline void count_flow(struct flow *f, const struct packet *p)
{
	__sync_fetch_and_add(&f->packets, p->packets ?: 1);
	__sync_fetch_and_add(&f->bytes, p->length);
}

// count_pair counts a packet between two containers, where it is sent or received.
static __always_inline void count_pair(const struct packet *p, bool sent)
{
	struct pair_key key = { .source = p->key.source, .destination = p->key.destination, .vni = p->key.network >> 8 };
	struct pair *pair = bpf_map_lookup_elem(&falcon_pairs, &key);

	if (!pair) {
		struct pair none = {};

		bpf_map_update_elem(&falcon_pairs, &key, &none, BPF_NOEXIST); // another core may be first
		pair = bpf_map_lookup_elem(&falcon_pairs, &key);
		if (!pair) {
			note(REASON_PAIRS);
			return;
		}
	}
	if (sent) {
		pair->sent_packets += p->packets ?: 1;
		pair->sent_bytes += p->length;
	} else {
		pair->received_packets += p->packets ?: 1;
		pair->received_bytes += p->length;
	}
}
