// Package offer makes network namespaces ahead and offers them to FlashCube, whose
// containers then start without waiting for a network.
//
// It is the network plugin's side of a protocol of directories. A network's directory,
// /run/flashcube/network/NAME, has in it, N being the ID of an offer:
//
//	making/N    in the making, or being taken back: nobody's but the Keeper's
//	ready/N     offered: whoever renames it to taken/N has it
//	taken/N     a container's
//	done/N      the container is gone
//
// and N itself:
//
//	ns              the namespace, a bind mount
//	owner           "PID STARTTIME" of the shim that took it, field 22 of /proc/PID/stat
//	container.json  whose it is, {"id", "namespace", "bundle", "pid"}, before it runs
//
// An offer moves by rename only, so that of all who want to move it one does, and the
// others find it gone. What is in making or done is the Keeper's to take apart, and so is
// what was abandoned in taken: the owner is dead and the bundle gone, or nobody has said
// for a minute whose it is. No namespace and no ID is offered twice.
//
// A Keeper holds nothing but what is in the directory. Without one, ready offers are
// taken, and containers run and end, as ever; only no offer is made or taken apart. The
// next Keeper goes on from what it finds, wherever the last one was stopped or killed.
//
// The mounts are for the shims, so a Keeper has to be in containerd's mount namespace,
// or in one whose mounts propagate there, and it must see the shims' processes in /proc.
package offer
