// Package overlay makes and mends what the kernel holds for a container network that
// spans nodes: a VXLAN overlay in which packets between nodes are routed, not bridged.
//
// For the network with a given VNI a node has
//
//   - the bridge fb<vni>, whose ports are the containers. It holds the gateways of the
//     node's subnets. Its MAC depends on the VNI alone, so containers need not learn a
//     new one when the node's address changes.
//   - the VXLAN device fx<vni>, which is no port of the bridge and holds no address. It
//     learns nothing and floods nothing: all it knows are permanent entries.
//   - per remote node an FDB entry (the node's VTEP MAC leads to the node's address) and
//     per remote subnet a route with a next hop on fx<vni>, whose permanent neighbour
//     entry is that VTEP MAC. VTEP MACs are computed, never published: see [VTEPMAC].
//   - per prefix of the whole network an unreachable route of the worst metric, so that
//     packets for a subnet no node has come back as errors and don't leave the node
//     unencapsulated by its default route.
//
// The routes carry a protocol number of their own, [Protocol]; others are never touched.
// The two devices belong to this package whole: addresses, permanent neighbours and FDB
// entries on them that it doesn't want are removed.
//
// [Overlay.Ensure] reads a snapshot, compares it with what should be and carries out the
// difference, until there is none. What decides (network.go, target.go, plan.go) is
// pure; what touches the kernel (snapshot.go, apply.go, sysctl.go) is thin. Nothing that
// is right is touched, so a restart of its caller is not seen by any connection, and
// nothing depends on the process after it has returned.
//
// # Sysctls
//
// Forwarding is turned on for the whole network namespace (net.ipv4.ip_forward, and for
// networks with IPv6 subnets net.ipv6.conf.all.forwarding) and never off: other software
// may rely on it. A kernel that forwards IPv6 ignores router advertisements unless
// accept_ra is 2 and drops the routes it has from them; therefore interfaces that heard
// them get accept_ra=2 before. The devices themselves hear none. rp_filter may be
// strict: every packet arrives from where the route back leads. route_localnet and
// multicast snooping are left alone; with snooping on and no querier the bridge floods
// multicast, so neighbour discovery works.
//
// # MTU
//
// The VXLAN device's MTU is the underlay's less the headers; routing into it answers
// what is too big with ICMP, from the gateway's address. The outer IPv4 header doesn't
// forbid fragments, so a path that is narrower than the node's interface is slow, not
// broken; set the network's MTU then.
//
// # Checksums
//
// The outer UDP checksum is always on, over IPv4 too, where RFC 7348 would rather have
// none: it is all that protects the VNI, which keeps networks apart, and costs next to
// nothing, because the kernel derives it from the inner one ("LCO" in
// Documentation/networking/checksum-offloads.rst).
package overlay
