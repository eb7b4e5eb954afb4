// Package pipeline decides on which cores the stages of receiving a packet run, after
// FALCON ("Parallelizing Packet Processing in Container Overlay Networks", EuroSys'21).
//
// A packet for a container passes three stages, each of which the kernel would run on the
// core that took the interrupt:
//
//	driver   what follows the NIC's XDP program: the packet's buffer, GRO, IP, UDP, VXLAN
//	vxlan    what follows the VXLAN device: bridge or route, netfilter
//	veth     what follows the container's end of its veth: IP, TCP or UDP, the socket
//
// BPF moves packets into the first two (cpumap), RPS into the third. This package has what
// decides, which is pure: [Plan] gives cores to stages, [Choose] a core to a packet,
// [Entry] keeps packets of a flow in order, [Meter] measures how busy cores are, and
// [Governor] turns it all on and off. What touches the kernel is thin: [UsableCPUs],
// [ReadStat] and [RPS].
//
// # Three sets, not one list
//
// FALCON takes one list of cores and relies on hash(flow + ifindex) to give the stages of
// one flow different ones. With n cores, two stages of a flow collide for one flow in n,
// and then that flow has no pipeline at all. Here a flow's stages are on different cores
// always: [Plan] makes three disjoint sets. To turn one list by a flow's hash would do as
// well where BPF chooses, but the third stage's core is chosen by RPS, with the kernel's
// hash and out of one mask for all flows.
//
// The hash still has the ifindex in it, so that two flows which share a core at one stage
// don't at the next.
//
// # What it costs: a model
//
// Measured on 2 cores, 64 B UDP, ns of CPU for a packet: 1898 for all stages on one core;
// 1221 + 1605 with the VXLAN device's packets moved; 346 + 2936 with the NIC's moved. So
// about 900 to 1400 ns are added by each hand-over: to queue, wake and fetch, and to miss
// the cache. As a model, not a measurement: with both hand-overs and RPS a packet costs
// some 4500 ns over four cores, of which the largest stage has some 2000. One flow gains
// little if anything over a core that does nothing else; a core with several hot flows is
// relieved. Nothing here prints these estimates; [Governor] goes by what it measures and
// turns off what doesn't pay.
//
// # The same in BPF
//
// [Mix], [Choose] and [Entry.Next] are models of this, and tests hold them to its output:
//
//	struct flow_core {          // value of an LRU hash by stage and flow
//		__s32 cpu;          // STAY: packets aren't moved
//		__u32 generation;   // of the sets; 0 in a new entry, never in use
//		__u64 last_seen;    // bpf_ktime_get_ns
//	};
//
//	#define STAY  (-1)
//	#define LIMIT 800           // per mille
//	#define DRAIN 100000000     // ns
//
//	static __always_inline __u32 mix(__u32 h)
//	{
//		h ^= h >> 16;
//		h *= 0x85ebca6b;
//		h ^= h >> 13;
//		h *= 0xc2b2ae35;
//		h ^= h >> 16;
//		return h;
//	}
//
//	// The stage's set has n cores. load has one element for each possible CPU.
//	static __always_inline __s32 choose(__u32 flow, __u32 ifindex, const __u32 *set, __u32 n,
//					    const __u32 *load, __u32 average)
//	{
//		__u32 h, i, j, one, two;
//
//		if (n == 0 || average > LIMIT)
//			return STAY;
//		h = mix(flow + ifindex);
//		i = (__u64)h * n >> 32;
//		one = set[i];
//		if (n == 1 || load[one] <= LIMIT)
//			return one;
//		j = (__u64)mix(h + 0x9e3779b9) * (n - 1) >> 32;
//		j += j >= i;
//		two = set[j];
//		return load[two] < load[one] ? two : one;
//	}
//
//	// now may be a little before last_seen, which another core wrote: hence the sign.
//	if (e->generation != generation || (__s64)(now - e->last_seen) > DRAIN) {
//		e->cpu = choose(...);
//		e->generation = generation;
//	}
//	e->last_seen = now;
package pipeline
