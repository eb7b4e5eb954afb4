// Package claim is how a container gets its shim: a ready part of the pool is taken by
// one rename, without a daemon, or a shim is started cold. It is imported by a program
// that containerd executes twice per container and waits for, so it imports syscall and
// next to nothing else; what only daemons need is in package pool.
//
// # The directory protocol
//
// Everything is below /run/flashcube, or $FLASHCUBE_ROOT, of mode 0700:
//
//	flashcubed.sock          health of the daemon
//	default/                 a profile: parts that are alike
//	  building/N/            parts in the making
//	  ready/N/               parts that anybody may claim
//	  claimed/N/             parts that belong to a container, or did
//	  retired/N/             parts taken out of the pool, to be killed and removed
//	  failure                why the last build failed; absent when it didn't
//	  stats/hit              one byte per claim of a ready part
//	  stats/miss             one byte per cold start
//	  stats/fallback/REASON  one byte per container that another runtime ran
//
// A part is a directory and a process. N is any name that is unique among all; a name
// that begins with "cold-" is a part that was never in the pool. A part's directory has:
//
//	shim.sock    the listener of its Task service, mode 0600
//	pid          a line "PID STARTTIME" per process of the part, its shim's first;
//	             STARTTIME is field 22 of /proc/PID/stat, in clock ticks
//	claim.json   the [Request] of the claimer, there once the part is claimed
//	log          what the shim wrote to its standard error, if it was built by flashcubed
//	flashcube.json  what the shim has made for a container that isn't created yet; when
//	             the shim dies and the bundle is gone, flashcubed takes that away
//
// The part builds itself: `flashcube-shim -dir DIR/building/N` prepares everything,
// listens on shim.sock and then renames its own directory to ready/N. Nothing connects
// to a ready part but its claimer. flashcubed adds `-init 3` and the sealed memory with
// flashcube-init as descriptor 3, which parts then share. It builds at low priority; the
// part takes the usual one, [priority.Normal] for each of its processes, before the
// rename. On SIGTERM a part without a container ends and removes its directory.
//
// The claimer
//
//  1. renames ready/N to claimed/N: of many claimers one succeeds, the others get ENOENT
//     and try the next;
//  2. writes claim.json, under another name first;
//  3. connects to claimed/N/shim.sock and closes the connection: a part that is dead
//     refuses, is removed, and the next is tried; a part that lives learns by it that it
//     is claimed, and by whom;
//  4. makes the link flashcube in the bundle point to claimed/N and, for a containerd
//     without bootstrap protocol, writes the file address there;
//  5. answers the address unix://DIR/claimed/N/shim.sock and counts.
//
// A part exits by itself, and removes its directory, when no container is created within
// a minute of its first connection. A claimer that dies between 1 and 3 leaves a part that
// doesn't know it is claimed: flashcubed connects in its place.
//
// With nothing ready the claimer makes claimed/cold-N, listens on shim.sock in it, writes
// claim.json and starts `flashcube-shim -dir DIR/claimed/cold-N -cold` with the listener
// as descriptor 3. It answers at once: who connects waits in the listener's queue.
//
// The shim keeps two things in the bundle: flashcube.json from before Create returns
// until the end of Delete, and the link, which it removes in Delete too. When neither is there,
// nothing of the container is left and `delete` has nothing to do.
//
// Whoever dies, nothing else does: flashcubed is needed only to have parts ready.
//
// [priority.Normal]: https://pkg.go.dev/github.com/peregrine-dev/peregrine/shim/pool/priority#Normal
package claim
