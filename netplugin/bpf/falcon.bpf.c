// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//go:build ignore

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "shortcut.h"
#include "steer.h"

SEC("tc")
int falcon_wire(struct __sk_buff *skb) { return from_wire(skb); }

SEC("tc")
int falcon_tunnel(struct __sk_buff *skb) { return from_tunnel(skb); }

SEC("tc")
int falcon_out(struct __sk_buff *skb) { return from_container(skb); }

SEC("tc")
int falcon_in(struct __sk_buff *skb) { return to_container(skb); }

SEC("tc")
int falcon_sent(struct __sk_buff *skb) { return to_tunnel(skb); }

SEC("xdp.frags")
int falcon_first(struct xdp_md *ctx) { return at_wire(ctx); }

SEC("xdp.frags")
int falcon_second(struct xdp_md *ctx) { return at_tunnel(ctx); }

char _license[] SEC("license") = "GPL";
