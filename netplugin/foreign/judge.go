package foreign

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Link is a link that packets of the overlay pass by.
type Link struct {
	Index int
	Name  string
	NIC   bool // towards the other nodes; of a network or a container otherwise
}

// Verdict says what needs every packet. Each reason is a sentence for the operator that
// names the culprit.
type Verdict struct {
	// Node is why no packet of the node may leave the kernel's path, or "".
	Node string
	// Links has, by its index, why packets that pass by a link may not: of a container's
	// its own, of fb* and fx* the network's. Links without an objection are not in it.
	Links map[int]string
}

// Judge reads what others configured in the calling thread's network namespace; the caller
// locks its goroutine to the thread. It takes some dumps, and longer with many rules, and
// it changes nothing. Links that have gone are no error. Without a verdict, on an error,
// packets should stay on the kernel's path.
func Judge(links []Link) (Verdict, error) {
	v, err := judge(links)
	if err != nil {
		return Verdict{}, fmt.Errorf("look for what needs every packet: %w", err)
	}
	return v, nil
}

func judge(links []Link) (Verdict, error) {
	v := Verdict{Links: make(map[int]string)}
	places := make([]place, len(links))
	for i, l := range links {
		places[i] = place{l.Name, l.NIC}
	}
	tables, err := readTables()
	if err != nil {
		return v, err
	}
	v.Node = objectionOf(tables, places)
	if v.Node == "" {
		if v.Node, err = legacyObjection(); err != nil {
			return v, err
		}
	}
	qdiscs, err := readQdiscs()
	if err != nil {
		return v, err
	}
	xdp, err := readXDP()
	if err != nil {
		return v, err
	}
	for _, l := range links {
		why, err := judgeLink(l, qdiscs, xdp)
		switch {
		case err != nil:
			return v, err
		case why == "":
		case !l.NIC:
			v.Links[l.Index] = why
		case v.Node == "":
			v.Node = why
		}
	}
	return v, nil
}

func judgeLink(l Link, qdiscs []qdisc, xdp []program) (string, error) {
	var filters []filter
	for _, q := range qdiscs {
		if q.link != l.Index || !q.holdsFilters() {
			continue
		}
		some, err := readFilters(q, l.NIC)
		if err != nil {
			return "", fmt.Errorf("link %s: %w", l.Name, err)
		}
		filters = append(filters, some...)
	}
	programs, err := readPrograms(l)
	if !l.NIC { // where XDP comes before the shortcut
		programs = append(programs, xdp...)
	}
	return linkObjection(l, qdiscs, filters, programs), err
}

// legacyObjection finds tables of iptables-legacy. What is in them isn't read: the kernel
// gives it as structures that only that program knows, and tells no changes.
func legacyObjection() (string, error) {
	for _, of := range []struct{ file, program string }{{"ip_tables_names", "iptables"}, {"ip6_tables_names", "ip6tables"}} {
		names, err := os.ReadFile("/proc/thread-self/net/" + of.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if all := strings.Fields(string(names)); len(all) > 0 {
			return fmt.Sprintf("%[1]s-legacy: the tables %[2]s are loaded, and changes in them can't be heard; use %[1]s-nft, and unload the modules of the legacy tables or restart the node",
				of.program, strings.Join(all, ", ")), nil
		}
	}
	return "", nil
}
