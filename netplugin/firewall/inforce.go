package firewall

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
)

// placed is what Replace left in the kernel, as the kernel shows it.
type placed struct {
	known      bool   // whether all that it shows is ours
	generation uint32 // of the rules of the namespace, at which it was found to be there
	structure  digest
	contents   digest
}

// InForce tells whether the tables are as the last Replace and what came after it made them.
// Somebody may have flushed or changed them: all chains, rules and elements are compared
// once anything in the namespace's rules has changed, and until then it costs one message.
//
// It tells false before the first Replace, and after one during which others changed rules:
// what they did is then not known. The caller calls Replace.
//
// Not noticed are: counters that were reset, elements of ours that were deleted and added
// again, and what other tables do.
func (f *Firewall) InForce() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	is, err := f.inForce()
	if err != nil {
		return false, fmt.Errorf("firewall: compare the rules: %w", explain(err))
	}
	return is, nil
}

func (f *Firewall) inForce() (bool, error) {
	if !f.placed.known {
		return false, nil
	}
	for range 3 {
		generation, err := f.kernel.generation()
		if err != nil {
			return false, err
		}
		if generation == f.placed.generation {
			return true, nil
		}
		same, err := f.same()
		if same {
			f.placed.generation = generation
			return true, nil
		}
		// A listing during which others change rules may lack something.
		if now, failed := f.kernel.generation(); failed != nil || now == generation {
			return false, err
		}
	}
	return false, nil
}

// same compares all that is there.
func (f *Firewall) same() (bool, error) {
	structure, err := f.kernel.structure()
	if err != nil || structure != f.placed.structure {
		return false, err
	}
	contents, err := f.kernel.contents()
	if err != nil || contents != f.placed.contents {
		return false, err
	}
	for _, s := range endpointSets {
		all, err := f.kernel.elements(nftables.TableFamilyBridge, s)
		if err != nil {
			return false, err
		}
		if !f.allowed.equal(s.name, all) {
			return false, nil
		}
	}
	return true, nil
}

// place looks at what was just put there; before is the generation before it. If it can't
// be told the result is not known, which costs another Replace.
func (k *kernel) place(before uint32) placed {
	structure, err1 := k.structure()
	contents, err2 := k.contents()
	now, err3 := k.generation()
	// Each transaction that succeeds adds one (net/netfilter/nf_tables_api.c,
	// nf_tables_commit).
	known := errors.Join(err1, err2, err3) == nil && now == before+1
	return placed{known, now, structure, contents}
}

// elements reads a set.
func (k *kernel) elements(family nftables.TableFamily, s set) ([]nftables.SetElement, error) {
	conn, err := k.dial()
	if err != nil {
		return nil, err
	}
	all, err := conn.GetSetElements(s.in(&nftables.Table{Family: family, Name: tableName}, 0))
	if err != nil {
		k.hangUp()
		return nil, fmt.Errorf("read set %s: %w", s.name, err)
	}
	return all, nil
}
