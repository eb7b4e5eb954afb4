// SPDX-License-Identifier: Apache-2.0
// What the programs and the agent share. bpf2go makes Go types of it.
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#define MAC_LEN 6

// address is an IPv6 address, or an IPv4 address mapped into IPv6 (::ffff:a.b.c.d).
struct address {
	__be32 word[4];
};

enum flag {
	FLAG_SHORTCUT = 1 << 0, // flows may leave the kernel's path
	FLAG_PRIORITY = 1 << 1, // somebody asked for class high
	FLAG_BATCH    = 1 << 2, // high goes by a queue of its own
	FLAG_DSCP     = 1 << 3, // DSCP is trusted
	FLAG_PIPELINE = 1 << 4, // stages go to cores of their own
	FLAG_WIRE     = 1 << 5, // from_wire is attached where the underlay's packets come in
	FLAG_VETH     = 1 << 6, // the underlay's link is a veth: see vouch
};

enum reason {
	REASON_NONE,
	REASON_WIRE,    // shortcut at the NIC
	REASON_TUNNEL,  // shortcut after the VXLAN device
	REASON_OUT,     // shortcut to the VXLAN device
	REASON_LOCAL,   // shortcut between containers of the node
	REASON_OFF,        // from here on: the kernel's path. Switched off, or there is no agent
	REASON_NEW,        // not yet seen at the other end
	REASON_SETTLING,   // packets before it are still under way
	REASON_UNKNOWN,    // source or destination is no container that is known
	REASON_PEER,       // outer source isn't the node of the inner source
	REASON_PROTOCOL,   // neither TCP nor UDP
	REASON_FRAGMENT,
	REASON_OPTIONS,    // IPv4 options or IPv6 extension headers
	REASON_MALFORMED,  // lengths, versions, checksums: the kernel judges
	REASON_TTL,
	REASON_MTU,
	REASON_ECN,
	REASON_CHECKSUM,   // UDP without a checksum of its own, or a wrong one
	REASON_SHAPED,     // the container's link needs every packet
	REASON_ADDRESS,    // Ethernet addresses aren't those of the flow
	REASON_FULL,       // no room for the flow
	REASON_PAIRS,      // no room for the pair's counters
	REASON_UNSUPPORTED, // the kernel can't decapsulate this family
	REASON_DEFERRED,   // by XDP: to the queue of normal and low
	REASON_PROMOTED,   // by XDP: of class high
	REASON_CAPPED,     // by XDP: of class high beyond its rate
	REASON_STEERED,    // by XDP: to another core
	REASON_SECOND,     // by XDP: to the second choice
	REASONS,
};

// SCHEMA is the version of all maps. An agent that finds maps of another one starts with
// its own: change it with anything here that an older program would take wrongly.
#define SCHEMA 1

enum state {
	STATE_NEW,  // on the kernel's path, not seen at its end yet
	STATE_SEEN, // seen at its end, unchanged; others may be under way
	STATE_FAST, // takes the shortcut
	STATE_SLOW, // not for the shortcut in this epoch, for a reason
};

enum direction {
	DIRECTION_IN = 0,    // from another node to a container
	DIRECTION_OUT = 1,   // from a container to another node
	DIRECTION_LOCAL = 2, // between containers of this node
};

enum priority_class {
	CLASS_NORMAL = 0,
	CLASS_HIGH = 1,
	CLASS_LOW = 2,
};

// settings is all that the node's programs depend on. The agent writes it.
struct settings {
	__u32 schema;
	enum flag flags;
	__u64 valid_until; // ns of CLOCK_MONOTONIC: later the agent is dead, and nothing takes the shortcut
	__u64 high_interval; // ns that a packet of class high costs; 0: unlimited
	__u64 high_burst;    // ns that may be saved up
	__u32 epoch;   // of what was seen to pass; another one begins when rules or routes change
	__u32 classes; // another one begins when classes change
	struct address node; // this node's in the underlay
	__be16 port;         // of VXLAN
	__u16 padding;
	__u32 threshold;     // per mille of a core's time above which it counts as loaded
	__u32 average;       // per mille, of the pipeline's cores
	__u32 padding2;
};

struct flow_key {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 network; // VNI << 8 | protocol
};

// flow is what is known of one direction of a connection.
struct flow {
	__u32 epoch;
	__u32 classes;
	__u32 endpoint, endpoint_generation; // the container's: of IN and LOCAL the receiver's
	__u32 source, source_generation;     // of LOCAL the sender's slot, of IN the peer's, of OUT too
	__u32 target;                        // ifindex
	enum state state;
	enum direction direction;
	enum priority_class class;
	enum reason reason; // of STATE_SLOW
	__u8 came_to[MAC_LEN];               // Ethernet destination as it came
	__u8 leaves_to[MAC_LEN], leaves_from[MAC_LEN];
	__u8 tunnel; // it takes the shortcut after the VXLAN device, not at the NIC
	__u64 created;  // ns
	__u64 seen;     // ns, the last packet on the kernel's path
	__u64 sent, arrived; // packets into the kernel's path, and out of it
	__u64 packets, bytes; // all of the flow, bytes from the IP header on
};

// slot is a container's interface.
struct slot {
	__u32 generation; // odd: in use
	__u32 ifindex;    // of the host's end
	__u32 vni;
	__u32 mtu;
	__u8 mac[MAC_LEN];
	__u8 slow;    // its link needs every packet
	__u8 class;   // by default
	__u8 rules;   // how many of its rules there are
	__u8 reserved; // a class that wins over all, plus one; 0: none
	__u8 padding[2];
};

struct peer {
	__u32 generation; // odd: in use
	__u32 padding;
	struct address address;
};

#define RULES 16

// rule gives a class to flows of a container. First match wins.
struct rule {
	struct address cidr, mask; // of the other side
	__u32 protocol;            // 0: any
	__be16 port;               // of either side; 0: any
	__u16 class;
};

struct rules {
	struct rule rule[RULES];
};

struct endpoint_key {
	__u32 vni;
	struct address address;
};

struct prefix_key {
	__u32 bits; // 32 of the VNI and up to 128
	__be32 vni;
	struct address address;
};

struct network {
	__u32 device; // ifindex of fx
	__u8 mac[MAC_LEN]; // of fx
	__u8 padding[2];
};

struct pair_key {
	struct address source, destination;
	__u32 vni;
};

// pair counts what passes between two containers: sent by one of this node, received by one.
struct pair {
	__u64 sent_packets, sent_bytes;
	__u64 received_packets, received_bytes;
};

struct count {
	__u64 packets;
};

#define MAX_FLOWS 65536
#define MAX_SLOTS 16384
#define MAX_PEERS 4096
#define MAX_CPUS 256

#define MAP(kind, name_, k, v, n)                  \
	struct {                                   \
		__uint(type, kind);                \
		__type(key, k);                    \
		__type(value, v);                  \
		__uint(max_entries, n);            \
	} name_ SEC(".maps")

MAP(BPF_MAP_TYPE_ARRAY, falcon_settings, __u32, struct settings, 1);
MAP(BPF_MAP_TYPE_LRU_HASH, falcon_flows, struct flow_key, struct flow, MAX_FLOWS);
MAP(BPF_MAP_TYPE_ARRAY, falcon_slots, __u32, struct slot, MAX_SLOTS);
MAP(BPF_MAP_TYPE_ARRAY, falcon_peers, __u32, struct peer, MAX_PEERS);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, falcon_counts, __u32, struct count, REASONS);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct endpoint_key);
	__type(value, __u32); // slot
	__uint(max_entries, MAX_SLOTS * 2);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} falcon_ips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);   // ifindex of a container's link
	__type(value, __u32); // slot
	__uint(max_entries, MAX_SLOTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} falcon_links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);   // slot
	__type(value, struct rules);
	__uint(max_entries, MAX_SLOTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} falcon_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); // VNI
	__type(value, struct network);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} falcon_networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);   // ifindex of a VXLAN device
	__type(value, __u32); // VNI
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} falcon_devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix_key);
	__type(value, __u32); // peer
	__uint(max_entries, MAX_PEERS * 8);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} falcon_prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, struct pair_key);
	__type(value, struct pair);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} falcon_pairs SEC(".maps");

// steer is where packets of a flow go at a stage; see package pipeline.
struct steer {
	__s32 core;       // STAY: they aren't moved
	__u32 generation; // of the sets; 0 in a new entry, never in use
	__u64 seen;       // ns
};

enum stage {
	STAGE_DRIVER, // what follows the NIC
	STAGE_VXLAN,  // what follows the VXLAN device
	STAGES,
};

struct steer_key {
	struct flow_key flow;
	__u32 stage;
};

#define SET 64 // cores that serve a stage, at most

// stage_cores are the cores of a stage.
struct stage_cores {
	__u32 generation;
	__u32 count;
	__u32 core[SET];
};

// bucket is what class high has used of its rate, on one core.
struct bucket {
	__u64 until; // ns: what passed is paid for until then
};

MAP(BPF_MAP_TYPE_LRU_HASH, falcon_steers, struct steer_key, struct steer, MAX_FLOWS);
MAP(BPF_MAP_TYPE_ARRAY, falcon_stages, __u32, struct stage_cores, STAGES);
MAP(BPF_MAP_TYPE_ARRAY, falcon_loads, __u32, __u32, MAX_CPUS); // per mille
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, falcon_buckets, __u32, struct bucket, 1);

// Queues to the kernel's threads cpumap/CPU/map:ID, of which each map has its own.
MAP(BPF_MAP_TYPE_CPUMAP, falcon_high, __u32, struct bpf_cpumap_val, MAX_CPUS);
MAP(BPF_MAP_TYPE_CPUMAP, falcon_normal, __u32, struct bpf_cpumap_val, MAX_CPUS);
MAP(BPF_MAP_TYPE_CPUMAP, falcon_low, __u32, struct bpf_cpumap_val, MAX_CPUS);
MAP(BPF_MAP_TYPE_CPUMAP, falcon_driver, __u32, struct bpf_cpumap_val, MAX_CPUS);
MAP(BPF_MAP_TYPE_CPUMAP, falcon_vxlan, __u32, struct bpf_cpumap_val, MAX_CPUS);
