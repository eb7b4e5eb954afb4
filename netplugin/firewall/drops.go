package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Drop counts packets that were dropped.
type Drop struct {
	Reason string // one of the constants
	// Link is where the packets came from: a container's (fv*), a bridge or VXLAN device,
	// or a link of the underlay. It is empty for all containers that are not allowed now:
	// they have gone, or never were, and their number has no bound.
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
	if f.allowed != nil { // otherwise it is not known who is
		sum.forget(f.allowed.has)
	}
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

// forget adds up the links of containers that are not allowed.
func (t tally) forget(allowed func(link string) bool) {
	gone := make(tally)
	for s, c := range t {
		if s.ofContainer() && !allowed(s.link) {
			gone.add(tally{{reason: s.reason}: c})
			delete(t, s)
		}
	}
	t.add(gone)
}

func (s series) ofContainer() bool { return strings.HasPrefix(s.link, linkPrefix) }

// sweepAfter is how many endpoints are denied before their counters leave the kernel,
// where their number is bounded. Each has a few at most.
const sweepAfter = 256

// sweep takes the counters of links that are not allowed from the kernel, and keeps their
// sums. What such a link drops meanwhile is not counted. The caller holds mu.
func (f *Firewall) sweep() error {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		found, err := f.kernel.tableCounters(family)
		if err != nil {
			f.kernel.hangUp()
			return explain(err)
		}
		gone, old := make(tally), make(elements)
		for s, c := range found {
			if s.ofContainer() && !f.allowed.has(s.link) {
				gone[s] = c
				old.key(setDrops, linkName(s.reason), linkName(s.link))
			}
		}
		set := drops.in(&nftables.Table{Family: family, Name: tableName}, 1)
		err = f.kernel.transact(func(conn *nftables.Conn) error {
			for part := range slices.Chunk(old[setDrops], maxElements) {
				if err := conn.SetDeleteElements(set, part); err != nil {
					return err
				}
			}
			return nil
		})
		if errors.Is(err, unix.ENOENT) { // somebody else deleted some
			continue
		}
		if err != nil {
			return err
		}
		gone.forget(f.allowed.has)
		f.kept.add(gone)
	}
	return nil
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
	// The library's reading of a set hides which error it was; this doesn't. A table of
	// our name without our sets is one that somebody emptied.
	_, err := k.ask(unix.NFT_MSG_GETSET, 0, family,
		text(unix.NFTA_SET_TABLE, tableName), text(unix.NFTA_SET_NAME, setDrops))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := k.elements(family, drops)
	if err != nil {
		return nil, err
	}
	t := make(tally)
	for _, e := range all {
		if s, ok := parseSeries(e.Key); ok {
			if e.Counter == nil { // added by hand
				e.Counter = new(expr.Counter)
			}
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
