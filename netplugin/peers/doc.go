// Package peers tells a node of the overlay which other nodes there are: from a file
// that is the same on every node, or from etcd, where each node publishes itself.
//
// A [Source] gives complete lists, so that whoever uses them has only to bring the kernel
// to what the last one says. What it gives can be used without further checks: [Select]
// left out every node whose record could disturb this node or another.
//
// An outage takes nothing away. As long as a source can't be read, or reads as nonsense,
// the last list holds; containers go on talking to the nodes that were known. A node goes
// only when the source says so: its entry is taken out of the file, it leaves
// ([Leaver]), or its record in etcd expires.
package peers
