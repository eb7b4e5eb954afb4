// SPDX-License-Identifier: Apache-2.0
// The programs at XDP's hooks: which packets go first (PRISM, ICDCS'22), and on which core
// they are processed (FALCON, EuroSys'21). They change no packet.
#pragma once

#include "flow.h"

// longest is what may be moved, in bytes: a frame is one packet there. Longer ones are
// several that were put together already, and a queue between cores would forget how.
#define LONGEST 3500

#define STAY (-1)
#define DRAIN 100000000LL // ns after which none of a flow's packets is in a queue
#define GOLDEN 0x9e3779b9

static __always_inline __u32 mix(__u32 h)
{
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	h ^= h >> 16;
	return h;
}

static __always_inline __u32 hash_flow(const struct flow_key *key)
{
	const __u32 *word = (const __u32 *)key;
	__u32 h = 0;

#pragma unroll
	for (int i = 0; i < sizeof(*key) / 4; i++)
		h = mix(h ^ word[i]) + i;
	return h;
}

static __always_inline __u32 load_of(__u32 core)
{
	__u32 *load = bpf_map_lookup_elem(&falcon_loads, &core);

	return load ? *load : 0;
}

// choose is pipeline.Choose.
static __always_inline __s32 choose(__u32 flow, __u32 ifindex, const struct stage_cores *set, const struct settings *s)
{
	__u32 n = set->count, h, i, j, one, two;

	if (n == 0 || n > SET || s->average > s->threshold)
		return STAY;
	h = mix(flow + ifindex);
	i = (__u64)h * n >> 32;
	if (i >= SET)
		return STAY;
	one = set->core[i];
	if (n == 1 || load_of(one) <= s->threshold)
		return one;
	j = (__u64)mix(h + GOLDEN) * (n - 1) >> 32;
	j += j >= i;
	if (j >= SET)
		return one;
	two = set->core[j];
	if (load_of(two) >= load_of(one))
		return one;
	note(REASON_SECOND);
	return two;
}

// core_of is the core of a flow's next packet at a stage, pipeline.Entry.Next.
static __always_inline __s32 core_of(const struct flow_key *flow, enum stage stage, __u32 ifindex, const struct settings *s)
{
	struct steer_key key = { .flow = *flow, .stage = stage };
	struct stage_cores *set = bpf_map_lookup_elem(&falcon_stages, &key.stage);
	struct steer *e = bpf_map_lookup_elem(&falcon_steers, &key);
	__u64 now = bpf_ktime_get_ns();

	if (!set)
		return STAY;
	if (!e) {
		struct steer fresh = { .core = choose(hash_flow(flow), ifindex, set, s), .generation = set->generation, .seen = now };

		if (bpf_map_update_elem(&falcon_steers, &key, &fresh, BPF_NOEXIST) == 0)
			return fresh.core;
		e = bpf_map_lookup_elem(&falcon_steers, &key);
		if (!e)
			return STAY;
	}
	// now may be a little before seen, which another core wrote: hence the sign.
	if (e->generation != set->generation || (__s64)(now - e->seen) > DRAIN) {
		e->core = choose(hash_flow(flow), ifindex, set, s);
		e->generation = set->generation;
	}
	e->seen = now;
	return e->core;
}

// affords takes a packet of class high from its rate on this core: a virtual scheduling
// algorithm, ITU-T I.371.
static __always_inline bool affords(const struct settings *s)
{
	__u32 zero = 0;
	struct bucket *b = bpf_map_lookup_elem(&falcon_buckets, &zero);
	__u64 now = bpf_ktime_get_ns();

	if (!b || !s->high_interval)
		return true;
	if (b->until + s->high_burst < now)
		b->until = now - s->high_burst;
	if (b->until > now)
		return false;
	b->until += s->high_interval;
	return true;
}

// class_in is the class of a packet from another node: its flow's, or before that is known
// what it will be.
static __always_inline int class_in(const struct packet *p, const struct settings *s)
{
	struct flow *f = p->ported ? bpf_map_lookup_elem(&falcon_flows, &p->key) : 0;

	if (f && f->direction == DIRECTION_IN && f->classes == s->classes)
		return f->class;
	struct question q = {
		.key = p->key, .slot = endpoint_of(p->key.network >> 8, &p->key.destination), .flags = s->flags, .tos = p->tos,
	};

	return class_of(&q);
}

static __always_inline int at_wire(struct xdp_md *ctx)
{
	struct settings *s = get_settings();
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 length = end - data, core = bpf_get_smp_processor_id();
	struct outer o = {};
	struct packet p = {};

	if (!s || !(s->flags & (FLAG_PRIORITY | FLAG_PIPELINE)) || !attended(s))
		return XDP_PASS;
	if (length > LONGEST || parse_outer(data, end, length, s, &o))
		return XDP_PASS;
	int reason = parse_ip(data + o.headers, end, length - o.headers - sizeof(struct ethhdr), &p);

	if (reason == REASON_MALFORMED || !p.length)
		return XDP_PASS;
	// Over a veth the rest may come as segments that were never cut, and in one flow with
	// packets that were: all of it stays in its place.
	if ((s->flags & FLAG_VETH) && (p.protocol != IPPROTO_UDP || !p.ported))
		return XDP_PASS;
	p.key.network |= o.vni << 8;
	int class = CLASS_NORMAL;
	__s32 to = STAY;

	if (s->flags & FLAG_PRIORITY) {
		class = class_in(&p, s);
		if (class == CLASS_HIGH) {
			if (affords(s)) {
				note(REASON_PROMOTED);
				return s->flags & FLAG_BATCH ? bpf_redirect_map(&falcon_high, core, XDP_PASS) : XDP_PASS;
			}
			note(REASON_CAPPED);
		}
	}
	if (s->flags & FLAG_PIPELINE)
		to = core_of(&p.key, STAGE_DRIVER, ctx->ingress_ifindex, s);
	if (to != STAY && to != core) {
		note(REASON_STEERED);
		return bpf_redirect_map(&falcon_driver, to, XDP_PASS);
	}
	if (!(s->flags & FLAG_PRIORITY))
		return XDP_PASS;
	// What stays on this core must not be in the way of class high.
	note(REASON_DEFERRED);
	if (class == CLASS_LOW)
		return bpf_redirect_map(&falcon_low, core, XDP_PASS);
	return bpf_redirect_map(&falcon_normal, core, XDP_PASS);
}

// at_tunnel is for the VXLAN device, where XDP is generic and sees inner packets, before
// from_tunnel does. What the shortcut takes at the NIC does not come here.
static __always_inline int at_tunnel(struct xdp_md *ctx)
{
	struct settings *s = get_settings();
	__u32 ifindex = ctx->ingress_ifindex, core = bpf_get_smp_processor_id();
	__u32 *vni = bpf_map_lookup_elem(&falcon_devices, &ifindex);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 length = end - data;
	struct packet p = {};

	if (!s || !vni || !(s->flags & FLAG_PIPELINE) || !attended(s) || length < sizeof(struct ethhdr))
		return XDP_PASS;
	if (parse_ip(data, end, length - sizeof(struct ethhdr), &p) == REASON_MALFORMED || !p.length)
		return XDP_PASS;
	p.key.network |= *vni << 8;
	if ((s->flags & FLAG_PRIORITY) && class_in(&p, s) == CLASS_HIGH)
		return XDP_PASS; // it runs to its end, and waits behind nobody
	__s32 to = core_of(&p.key, STAGE_VXLAN, ifindex, s);

	if (to == STAY || to == core)
		return XDP_PASS;
	note(REASON_STEERED);
	return bpf_redirect_map(&falcon_vxlan, to, XDP_PASS);
}
