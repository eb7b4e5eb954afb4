package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
)

// Holdings is all there is of containers on the node: links, records, addresses reserved
// by host-local, and what the firewall allows; sorted.
func (n *Node) Holdings() ([]string, error) {
	var all []string
	for _, look := range []func() ([]string, error){n.links, n.recorded, n.reserved, n.allowed} {
		some, err := look()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	slices.Sort(all)
	return all, nil
}

// MustHold waits until the node holds what the containers' results say, and nothing else:
// links are deleted behind the plugin's back.
func (n *Node) MustHold(attached ...*Container) {
	n.t.Helper()
	n.Eventually(func() error { return n.Holds(attached...) })
}

// Holds is MustHold at this moment.
func (n *Node) Holds(attached ...*Container) error {
	got, err := n.Holdings()
	if err != nil {
		return err
	}
	return Differ(got, holdingsOf(attached))
}

// Differ tells what one list has too little or too much.
func Differ(got, want []string) error {
	var errs []error
	for _, w := range want {
		if !slices.Contains(got, w) {
			errs = append(errs, fmt.Errorf("missing: %s", w))
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			errs = append(errs, fmt.Errorf("left over: %s", g))
		}
	}
	return errors.Join(errs...)
}

// holdingsOf is what containers that are attached come to.
func holdingsOf(attached []*Container) []string {
	var all []string
	for _, c := range attached {
		link := attach.LinkName(c.ID, c.IfName)
		all = append(all, "link "+link, "record "+c.ID+" "+c.IfName, "allowed "+link)
		for _, i := range c.Result.Interfaces {
			if i.Name != c.IfName || i.Sandbox == "" {
				continue
			}
			mac, _ := net.ParseMAC(i.Mac)
			all = append(all, "allowed "+link+" "+mac.String(), "allowed "+link+" "+linkLocal(mac).String())
		}
		for _, ip := range c.Result.IPs {
			all = append(all, "allowed "+link+" "+ip.Address.IP.String(), "address "+ip.Address.IP.String()+" "+c.ID+" "+c.IfName)
		}
	}
	slices.Sort(all)
	return all
}

// linkLocal is the address that Linux makes of a MAC, RFC 4291 appendix A.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// links are the host's ends, those too that are about to be deleted.
func (n *Node) links() (names []string, err error) {
	var links []netlink.Link
	n.NS.Do(func() {
		err = netlink.ErrDumpInterrupted
		for errors.Is(err, netlink.ErrDumpInterrupted) {
			links, err = netlink.LinkList()
		}
	})
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "fv") {
			names = append(names, "link "+l.Attrs().Name)
		}
	}
	return names, err
}

func (n *Node) recorded() ([]string, error) {
	dir := filepath.Join(n.Root(), "endpoints")
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	store, err := endpoint.Open(dir)
	if err != nil {
		return nil, err
	}
	records, bad, err := store.List()
	var all []string
	for _, r := range records {
		what := "record "
		if !r.Complete {
			what = "record of what is not whole, "
		}
		all = append(all, what+r.ContainerID+" "+r.IfName)
	}
	for file, why := range bad {
		all = append(all, fmt.Sprintf("record %s: %v", file, why))
	}
	return all, err
}

func (n *Node) reserved() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(n.IPAM(), "*", "*"))
	var all []string
	for _, file := range files {
		if _, err := netip.ParseAddr(filepath.Base(file)); err != nil {
			continue // the lock and the last ones reserved
		}
		owner, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, "address "+filepath.Base(file)+" "+strings.Join(strings.Fields(string(owner)), " "))
	}
	return all, err
}

// allowed are the elements of the bridge table's sets that are containers'.
func (n *Node) allowed() ([]string, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.NS.File().Fd())))
	if err != nil {
		return nil, err
	}
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: "falcon"}
	tables, err := conn.ListTablesOfFamily(table.Family)
	if err != nil || !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == table.Name }) {
		return nil, err
	}
	var all []string
	for _, name := range []string{"links", "macs", "ipv4", "ipv6"} {
		elements, err := conn.GetSetElements(&nftables.Set{Table: table, Name: name})
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
		for _, e := range elements {
			const size = 16 // of a link's name
			all = append(all, strings.TrimSpace("allowed "+strings.TrimRight(string(e.Key[:size]), "\x00")+" "+field(name, e.Key[size:])))
		}
	}
	return all, nil
}

// field is what a set has besides the link's name.
func field(set string, key []byte) string {
	switch set {
	case "links":
		return ""
	case "macs":
		return net.HardwareAddr(key[:6]).String()
	default:
		a, _ := netip.AddrFromSlice(key)
		return a.String()
	}
}
