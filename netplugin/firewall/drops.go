package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Drop counts packets that were dropped.
type Drop struct {
	Reason string // one of the constants
	// Link is where the packets came from: a container's (fv*), a bridge or VXLAN device,
	// or a link of the underlay. It is empty for all containers that have gone.
	Link    string
	Packets uint64
	Bytes   uint64 // from the IP header on, or what is in its place
}

// Drops reads the counters, sorted by reason and link. A sum over the links of a reason never
// falls while the process lives, save by Remove.
func (f *Firewall) Drops() ([]Drop, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum, err := f.kernel.counters()
	if err != nil {
		return nil, fmt.Errorf("firewall: read the counters: %w", err)
	}
	sum.add(f.kept)
	drops := make([]Drop, 0, len(sum))
	for s, c := range sum {
		drops = append(drops, Drop{Reason: s.reason, Link: s.link, Packets: c.packets, Bytes: c.bytes})
	}
	slices.SortFunc(drops, func(a, b Drop) int {
		if c := strings.Compare(a.Reason, b.Reason); c != 0 {
			return c
		}
		return strings.Compare(a.Link, b.Link)
	})
	return drops, nil
}

type (
	series struct{ reason, link string }
	count  struct{ packets, bytes uint64 }
	// tally is what was counted by series.
	tally map[series]count
)

func (t tally) add(other tally) {
	for s, c := range other {
		sum := t[s]
		t[s] = count{sum.packets + c.packets, sum.bytes + c.bytes}
	}
}

// forget adds up the links of containers that are no more: their number has no bound.
func (t tally) forget(remain []Endpoint) {
	live := make(map[string]bool, len(remain))
	for _, e := range remain {
		live[e.Link] = true
	}
	gone := make(tally)
	for s, c := range t {
		if strings.HasPrefix(s.link, linkPrefix) && !live[s.link] {
			gone.add(tally{{reason: s.reason}: c})
			delete(t, s)
		}
	}
	t.add(gone)
}

// counters reads what the tables in force have counted; absent ones nothing.
func (k *kernel) counters() (tally, error) {
	t := make(tally)
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		found, err := k.tableCounters(family)
		if err != nil {
			k.hangUp()
			return nil, explain(err)
		}
		t.add(found)
	}
	return t, nil
}

func (k *kernel) tableCounters(family nftables.TableFamily) (tally, error) {
	conn, err := k.dial()
	if err != nil {
		return nil, err
	}
	// The library's reading of a set hides which error it was; this one doesn't.
	nt, err := conn.ListTableOfFamily(tableName, family)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := conn.GetSetElements(drops.in(nt, 0))
	if err != nil {
		return nil, err
	}
	t := make(tally)
	for _, e := range all {
		if s, ok := parseSeries(e.Key); ok && e.Counter != nil {
			// Set, not added: a walk can meet an element twice while packets add others.
			t[s] = count{e.Counter.Packets, e.Counter.Bytes}
		}
	}
	return t, nil
}

// parseSeries takes a key of the set of drops apart.
func parseSeries(key []byte) (series, bool) {
	if len(key) != 2*unix.IFNAMSIZ {
		return series{}, false
	}
	reason, link := key[:unix.IFNAMSIZ], key[unix.IFNAMSIZ:]
	return series{string(bytes.TrimRight(reason, "\x00")), string(bytes.TrimRight(link, "\x00"))}, true
}
