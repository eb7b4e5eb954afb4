// Package pool keeps ready parts for package claim to take, and reports on them. The
// directory protocol is described there.
//
// # Who survives whom
//
// A [Keeper] may be killed at any time. Ready parts go on waiting and are claimed, claimed
// parts go on serving their containers: a part is in a session of its own and nothing in
// it ends with its parent. The next keeper adopts what it finds. Only what a dead part
// leaves is not removed meanwhile.
//
// # Demand
//
// How many parts are kept follows from the claims: the largest burst of the last minutes,
// which has to be taken from stock because nothing is built while claims come in, and as
// many as are claimed on average while one is built. Both are bounded by configuration and
// by memory. See [Demand], [Limits] and [Pace], which know neither files nor clocks.
package pool
