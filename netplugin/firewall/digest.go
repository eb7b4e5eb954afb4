package firewall

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

type digest [sha256.Size]byte

// structure is the digest of the tables, chains and rules as the kernel sends them.
func (k *kernel) structure() (digest, error) {
	h := sha256.New()
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		for _, kind := range []netlink.HeaderType{unix.NFT_MSG_GETTABLE, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE} {
			all, err := k.ask(kind, netlink.Dump, family, text(tableAttribute, tableName))
			if err != nil {
				return digest{}, err
			}
			for _, m := range all {
				// The header has a part of the generation in it.
				if attributes := m.Data[nfgenmsg:]; ofOurs(attributes) {
					h.Write(attributes)
				}
			}
			h.Write([]byte{byte(kind)})
		}
	}
	return digest(h.Sum(nil)), nil
}

// contents is the digest of the elements of the inet table's sets. If the structure is ours
// the sets are there: rules that use them hold them.
func (k *kernel) contents() (digest, error) {
	h := sha256.New()
	for _, s := range inetSets {
		if s.counters {
			continue
		}
		all, err := k.elements(nftables.TableFamilyINet, s)
		if err != nil {
			return digest{}, err
		}
		// The kernel's order changes as its tables grow, and a walk can meet one twice.
		var keys []string
		for _, x := range all {
			keys = append(keys, fmt.Sprintf("%x-%x %t\n", x.Key, x.KeyEnd, x.IntervalEnd))
		}
		slices.Sort(keys)
		fmt.Fprintln(h, s.name, slices.Compact(keys))
	}
	return digest(h.Sum(nil)), nil
}

// generation is a number that changes with each transaction of anybody in the namespace.
func (k *kernel) generation() (uint32, error) {
	all, err := k.ask(unix.NFT_MSG_GETGEN, 0, nftables.TableFamilyUnspecified)
	if err != nil {
		return 0, err
	}
	for _, m := range all {
		d, err := netlink.NewAttributeDecoder(m.Data[nfgenmsg:])
		if err != nil {
			return 0, fmt.Errorf("the generation of the rules: %w", err)
		}
		d.ByteOrder = binary.BigEndian
		for d.Next() {
			if d.Type() == unix.NFTA_GEN_ID {
				return d.Uint32(), nil
			}
		}
	}
	return 0, errors.New("the kernel doesn't tell the generation of the rules")
}

// nfgenmsg is the size of the header before the attributes
// (include/uapi/linux/netfilter/nfnetlink.h).
const nfgenmsg = 4

// ask sends one question by a socket of its own: the library shows no
// message as it came.
func (k *kernel) ask(kind netlink.HeaderType, flags netlink.HeaderFlags, family nftables.TableFamily, about ...netlink.Attribute) ([]netlink.Message, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(k.ns.Fd())})
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	defer conn.Close()
	data, err := netlink.MarshalAttributes(about)
	if err != nil {
		return nil, err
	}
	all, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: netlink.Request | flags},
		Data:   append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil {
		return nil, fmt.Errorf("list the rules: %w", err)
	}
	return all, nil
}

func text(kind uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: []byte(s + "\x00")}
}

// tableAttribute is NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and NFTA_RULE_TABLE.
const tableAttribute = unix.NFTA_TABLE_NAME

// ofOurs tells whether an answer is about our table: lists of tables and chains are of all.
func ofOurs(attributes []byte) bool {
	d, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return false
	}
	for d.Next() {
		if d.Type() == tableAttribute {
			return d.String() == tableName
		}
	}
	return false
}
