// Package control answers plasmactl and other plasmads over gRPC. What is the global manager's is
// handed on to the node that is it.
package control

// MaxMessage bounds what is said at once, in bytes.
const MaxMessage = 64 << 20
