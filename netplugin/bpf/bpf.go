// Package bpf has the network plugin's programs for the kernel: their source in C, what
// clang makes of it, and the Go types of what they share with the agent. maps.h says what
// the maps hold, shortcut.h and steer.h what the programs do with a packet.
//
// The objects are CO-RE: they carry type information, and run on kernels other than the
// one they were made on. They are part of the repository, so that nobody needs clang to
// build; make generate makes them again.
package bpf

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -tags linux -target bpfel -go-package bpf -type address -type flag -type state -type direction -type priority_class -type reason -type settings -type flow_key -type flow -type slot -type peer -type rule -type rules -type endpoint_key -type prefix_key -type network -type pair_key -type pair -type count -type steer -type steer_key -type stage_cores -type bpf_cpumap_val Falcon falcon.bpf.c -- -O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// Schema is the version of the maps, SCHEMA in maps.h.
const Schema = 1
