// Package place keeps in etcd who is there and who has which actor. It decides nothing: the
// global manager decides, nodes carry out, and both tell each other through this package.
//
// All keys begin with /peregrine/plasma/CLUSTER/. Values are JSON unless noted. Texts that users
// choose are escaped in keys as in a URL's path.
//
//	members/NODE                 Member; on the node's lease
//	leader/LEASE                 the node's name, plain; the oldest key's node is the global manager
//	services/SERVICE             Service
//	servers/SERVICE/SERVER       Server
//	registered/SERVICE/SERVER    the number of the server's last instance, decimal
//	instances/SERVICE/SERVER     Instance; on the node's lease
//	moves/SERVICE/TYPE/KEY       Move: at most one of an actor
//	actors/SERVICE/TYPE/KEY      exception: {"s": server, "e": epoch, "m": the move that did it}
//	tables/SERVICE               {"servers": [...], "owners": base64 of 4,096 little-endian uint16,
//	                             "epochs": base64 of 4,096 uvarints}
//	unwatched/next/SERVICE       the number of the newest server, decimal; stays when the service goes
//	unwatched/memories/SERVICE   model.Memory, JSON, gzip
//
// # Who may write what
//
// What the global manager writes is written through a Leadership, in transactions that compare
// that its election still stands: a manager that was deposed and does not know it yet changes
// nothing. A node writes its member key and its servers' instances. An actor changes hands by
// CommitMoves alone, which its owner's node calls (or by Relocate, when the node is gone).
//
// # Instances
//
// Each registration of a server has a number, one more than the last. A commit compares that the
// instances of source and target are still the ones that took part. So once Register has
// returned, nothing that an earlier process of the server asked for takes place any more, and a
// target that has forgotten what it was sent gets nothing.
//
// # Certificates
//
// Services' private keys are stored as they are: whoever may read the prefix may act as a host.
// Give plasmad's etcd TLS and a user of its own.
package place
