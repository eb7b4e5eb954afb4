// Package foreign tells what others configured on this node that has to see every packet.
//
// Packets that take the shortcut pass by the kernel's own path: by netfilter, routing and
// queueing disciplines. The shortcut takes a flow only after one of its packets was seen to
// come out of the kernel's path unchanged, so what decides by addresses, ports and
// interfaces alone has decided for the whole flow, and flows that are refused or translated
// never get there. What can't be left out is all that counts, limits, logs or changes
// packets, that asks for the state of connections (a flow that connection tracking doesn't
// see is forgotten there), or that goes by what differs between packets of one flow.
//
// [Judge] reads all of that and says who objects; its decisions (rules.go, expression.go,
// xtables.go, links.go) are pure. Anything that it doesn't know is an objection.
//
// [Subscribe] and [Watcher.Run] tell when it may have changed. The order that misses
// nothing: Subscribe, then Judge, then Run, and Judge again whenever Run says so; what
// changes in between waits in the socket. Two things are not told, and are seen only by
// judging from time to time: tables of iptables-legacy, and BPF programs that are attached
// by tcx or XDP. Tables of ebtables-legacy aren't seen at all.
//
// Not objected to, because the packet that is seen passes by it: policy routing. Not looked
// at: IPsec policies, and flags of the bridge's ports.
package foreign
