package firewall

import "github.com/google/nftables"

// held is what the endpoints' sets should hold: keys by the set's name. Nothing is kept in
// a nil one.
type held map[string]map[string]bool

func (h held) add(e elements) {
	if h == nil {
		return
	}
	for name, all := range e {
		if h[name] == nil {
			h[name] = make(map[string]bool)
		}
		for _, x := range all {
			h[name][string(x.Key)] = true
		}
	}
}

func (h held) remove(e elements) {
	for name, all := range e {
		for _, x := range all {
			delete(h[name], string(x.Key))
		}
	}
}

// has tells whether a link is allowed.
func (h held) has(link string) bool { return h[setLinks][string(linkName(link))] }

// equal tells whether the elements of a set are those it should hold. A walk can meet an
// element twice.
func (h held) equal(set string, all []nftables.SetElement) bool {
	seen := make(map[string]bool, len(all))
	for _, x := range all {
		if !h[set][string(x.Key)] {
			return false
		}
		seen[string(x.Key)] = true
	}
	return len(seen) == len(h[set])
}
