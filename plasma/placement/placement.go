// Package placement is who has which actor: a table of shards, and the actors that are elsewhere.
// It decides nothing and stores nothing: package place keeps it in etcd, hosts hold a View.
package placement

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

// Shards is into how many parts a service's actors are divided, by the hash of their names.
const Shards = 4096

// Actor names an actor of a service.
type Actor struct{ Type, Key string }

func (a Actor) String() string { return a.Type + "/" + a.Key }

// Of gives an actor as the protocol has it.
func Of(a *api.Actor) Actor { return Actor{a.GetType(), a.GetKey()} }

// API gives an actor for the protocol.
func (a Actor) API() *api.Actor { return &api.Actor{Type: a.Type, Key: a.Key} }

// Shard is the part that an actor belongs to. It is the same in all versions.
func (a Actor) Shard() int {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(a.Type)
	_, _ = d.Write([]byte{0})
	_, _ = d.WriteString(a.Key)
	return int(d.Sum64() % Shards)
}

// Owner is who has an actor. Epochs of an actor only grow, whoever gets it.
type Owner struct {
	Server string
	Epoch  uint64
}

// Table is the owner of each shard. The zero value has none. It is a value: methods return a
// changed copy.
type Table struct {
	Servers []string       // sorted
	Owners  [Shards]uint16 // indices into Servers
	Epochs  [Shards]uint64
}

// Owner gives a shard's owner, false if no server is there.
func (t *Table) Owner(shard int) (Owner, bool) {
	if len(t.Servers) == 0 {
		return Owner{}, false
	}
	return Owner{t.Servers[t.Owners[shard]], t.Epochs[shard]}, true
}

// Count gives how many shards a server has.
func (t *Table) Count(server string) (n int) {
	i, ok := slices.BinarySearch(t.Servers, server)
	if !ok {
		return 0
	}
	for _, o := range t.Owners {
		if int(o) == i {
			n++
		}
	}
	return n
}

// Counts gives how many shards each server has.
func (t *Table) Counts() map[string]int {
	all := make(map[string]int, len(t.Servers))
	if len(t.Servers) == 0 {
		return all
	}
	n := make([]int, len(t.Servers))
	for _, o := range t.Owners {
		n[o]++
	}
	for i, server := range t.Servers {
		all[server] = n[i]
	}
	return all
}

// Assign divides the shards among servers as evenly as can be, with as few as possible changing
// hands; those that do get a new epoch. Without servers the table stays as it is: its shards
// wait.
func (t Table) Assign(servers []string) Table {
	if len(servers) == 0 {
		return t
	}
	next := Table{Servers: slices.Clone(servers), Epochs: t.Epochs}
	slices.Sort(next.Servers)
	next.Servers = slices.Compact(next.Servers)
	n := len(next.Servers)
	held := make([][]int, n)
	var free []int
	for shard := range Shards {
		o, ok := t.Owner(shard)
		i, stays := slices.BinarySearch(next.Servers, o.Server)
		if !ok || !stays {
			free = append(free, shard)
			continue
		}
		held[i] = append(held[i], shard)
	}
	// Those who have most keep the odd ones.
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(held[b]), len(held[a])) })
	quota := make([]int, n)
	for rank, i := range order {
		quota[i] = Shards / n
		if rank < Shards%n {
			quota[i]++
		}
		if extra := len(held[i]) - quota[i]; extra > 0 {
			free = append(free, held[i][quota[i]:]...)
			held[i] = held[i][:quota[i]]
		}
	}
	slices.Sort(free)
	for i := range held {
		for _, shard := range held[i] {
			next.Owners[shard] = uint16(i)
		}
		for range quota[i] - len(held[i]) {
			shard := free[0]
			free = free[1:]
			next.Owners[shard] = uint16(i)
			next.Epochs[shard]++
		}
	}
	return next
}

// Without gives the shards of one server to others, by turns. If there are no others it keeps
// them. They get an epoch that no move away from that server would give.
func (t Table) Without(server string, others []string) Table {
	next := t
	next.Servers = slices.Clone(t.Servers)
	var left []string
	for _, s := range others {
		if s != server {
			left = append(left, s)
		}
	}
	if len(left) == 0 {
		return t
	}
	slices.Sort(left)
	next.Servers = append(next.Servers, left...)
	slices.Sort(next.Servers)
	next.Servers = slices.Compact(next.Servers)
	next.Servers = slices.DeleteFunc(next.Servers, func(s string) bool { return s == server })
	turn := 0
	for shard := range Shards {
		o, ok := t.Owner(shard)
		if !ok || o.Server == server {
			o.Server = left[turn%len(left)]
			turn++
			next.Epochs[shard] += 2
		}
		i, _ := slices.BinarySearch(next.Servers, o.Server)
		next.Owners[shard] = uint16(i)
	}
	return next
}

// API gives a table for the protocol.
func (t *Table) API() *api.Shards {
	s := &api.Shards{Servers: slices.Clone(t.Servers), Owners: make([]uint32, Shards), Epochs: slices.Clone(t.Epochs[:])}
	for i, o := range t.Owners {
		s.Owners[i] = uint32(o)
	}
	return s
}
