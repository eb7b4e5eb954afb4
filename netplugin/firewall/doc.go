// Package firewall keeps what containers send, and what the overlay takes from the
// wire, to what is theirs, and masquerades what leaves the overlay.
//
// Two nftables tables of the calling thread's network namespace are ours, and nothing else:
//
//   - "inet falcon": only known nodes reach the VXLAN port and nobody forges its packets
//     from inside, networks don't reach one another, what arrives by a device of ours has
//     a source that lives behind it (or is a node's, by a tunnel), a container's link that
//     is in no bridge passes nothing, and networks that want it are masqueraded.
//   - "bridge falcon": a container sends with its own MAC and addresses only.
//
// Every chain of ours accepts by default and refuses by drop. An accept ends only our own
// chain (net/netfilter/nf_tables_core.c): no packet passes that another table refuses.
// Masquerading comes after source NAT of the usual priority, so an operator's rule wins.
// Each drop is counted by reason and by the link the packet came by.
//
// What must be there for a packet to pass is listed, not what is bad: a match that can't
// read its field, as in a truncated packet, fails (NFT_BREAK), and a packet no rule knows
// is dropped. Sets are looked up by (link, address), so a packet costs the same with one
// endpoint as with a thousand.
//
// Links whose names begin with "fv" are taken for the host's ends of containers, in any
// bridge: one that was not allowed passes nothing. Other ports of a network's bridge are
// the operator's: between ports they are not judged, and into the node by their source alone.
//
// InForce notices what others do to the tables, so that the caller can replace them.
//
// bridge-nf-call-iptables makes bridged packets pass the inet table too, there with the
// bridge as both input and output; the rules are the same and right for both settings.
//
// One thing no table sees: a frame to 01:80:c2:00:00:0e (LLDP), whose source a bridge learns
// before any hook (net/bridge/br_input.c, br_handle_frame), and by it a container could draw
// another's packets. So the networks' bridges must have no_linklocal_learn set
// (BR_BOOLOPT_NO_LL_LEARN, Linux 4.20), or their ports must not learn.
package firewall
