package firewall

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Firewall is the two tables of one network namespace. Its methods may be called from any
// thread and concurrently; each is one transaction, done as a whole or not at all.
type Firewall struct {
	mu     sync.Mutex
	kernel kernel
	kept   tally // drops counted by tables that Replace replaced, and of links that are gone

	// Of the last Replace of this process and what came after it.
	allowed held // nil before it
	denied  int  // since the last sweep
	placed  placed
}

// Open connects to the calling thread's network namespace. It changes nothing there; tables
// of an earlier process stay as they are. The caller closes it.
func Open() (*Firewall, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open this thread's network namespace: %w", err)
	}
	f := &Firewall{kernel: kernel{ns: ns}, kept: make(tally)}
	if _, err := f.kernel.dial(); err != nil {
		ns.Close()
		return nil, fmt.Errorf("firewall: %w", explain(err))
	}
	return f, nil
}

// Close disconnects. The rules stay in force.
func (f *Firewall) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kernel.hangUp()
	return f.kernel.ns.Close()
}

// Replace makes the rules those of the state, at one instant for all packets. An endpoint
// that was allowed and is not in the state is denied: the caller sees to it that a state is
// not older than its last Allow or Deny. Connections and their translations go on.
//
// Drops keeps what was counted before, apart from drops of the instant. It returns
// errdefs.ErrInvalidArgument for a state that has no sense, and then changes nothing.
func (f *Firewall) Replace(s State) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	inet, inetContents := inetTable(s.Port), inetElements(s)
	bridge, bridgeContents := bridgeTable(), endpointElements(s.Endpoints...)

	f.mu.Lock()
	defer f.mu.Unlock()
	counted, err := f.kernel.counters()
	if err != nil {
		return fmt.Errorf("firewall: read the counters: %w", err)
	}
	before, err := f.kernel.generation()
	if err != nil {
		return fmt.Errorf("firewall: %w", explain(err))
	}
	err = f.kernel.transact(func(conn *nftables.Conn) error {
		return errors.Join(remake(conn, inet, inetContents), remake(conn, bridge, bridgeContents))
	})
	if err != nil {
		return fmt.Errorf("firewall: replace the tables %q: %w", tableName, err)
	}
	f.kept.add(counted)
	f.allowed, f.denied = make(held), 0
	f.allowed.add(bridgeContents)
	f.kept.forget(f.allowed.has)
	f.placed = f.kernel.place(before)
	return nil
}

// Allow lets an endpoint send. It adds to what its link is allowed: to take an address from
// a link, Deny the endpoint as it was. Before the first Replace there is nothing to add to,
// and the error is errdefs.ErrFailedPrecondition.
func (f *Firewall) Allow(e Endpoint) error {
	if err := e.validate(); err != nil {
		return fmt.Errorf("firewall: allow: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	contents := endpointElements(e)
	err := f.kernel.changeSets(contents, (*nftables.Conn).SetAddElements)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("firewall: allow %s: the tables %q are not there; replace them whole first: %w", e.Link, tableName, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("firewall: allow %s: %w", e.Link, err)
	}
	f.allowed.add(contents)
	return nil
}

// Deny takes from an endpoint what Allow gave it. One that was not allowed, or only in part,
// is no error. Every 256th time it reads the counters, so that those of links that have gone
// don't fill the kernel's set.
func (f *Firewall) Deny(e Endpoint) error {
	if err := e.validate(); err != nil {
		return fmt.Errorf("firewall: deny: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	contents := endpointElements(e)
	err := f.kernel.changeSets(contents, (*nftables.Conn).SetDeleteElements)
	if errors.Is(err, unix.ENOENT) {
		// The kernel deletes all or nothing, and something is absent (before 6.3 it has
		// no request that doesn't mind): one by one.
		err = f.kernel.deleteEach(contents)
	}
	if err != nil {
		return fmt.Errorf("firewall: deny %s: %w", e.Link, err)
	}
	f.allowed.remove(contents)
	if f.denied++; f.allowed != nil && f.denied >= sweepAfter {
		if err := f.sweep(); err != nil {
			return fmt.Errorf("firewall: take the counters of links that are gone: %w", err)
		}
		f.denied = 0
	}
	return nil
}

func (k *kernel) deleteEach(contents elements) error {
	for name, all := range contents {
		for i := range all {
			one := elements{name: all[i : i+1]}
			if err := k.changeSets(one, (*nftables.Conn).SetDeleteElements); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return nil
}

// changeSets changes elements of the endpoints' sets in one transaction.
func (k *kernel) changeSets(contents elements, how func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	bridge := &nftables.Table{Family: nftables.TableFamilyBridge, Name: tableName}
	return k.transact(func(conn *nftables.Conn) error {
		for i, s := range endpointSets {
			if len(contents[s.name]) == 0 {
				continue
			}
			if err := how(conn, s.in(bridge, uint32(i+1)), contents[s.name]); err != nil {
				return fmt.Errorf("set %s: %w", s.name, err)
			}
		}
		return nil
	})
}

// Remove takes both tables away, and with them all protection and all counts. That they are
// gone already is no error.
func (f *Firewall) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.kernel.transact(func(conn *nftables.Conn) error {
		remove(conn, nftables.TableFamilyINet)
		remove(conn, nftables.TableFamilyBridge)
		return nil
	})
	if err != nil {
		return fmt.Errorf("firewall: remove the tables %q: %w", tableName, err)
	}
	f.kept, f.allowed, f.denied, f.placed = make(tally), nil, 0, placed{}
	return nil
}
