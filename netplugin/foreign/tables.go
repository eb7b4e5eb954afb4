package foreign

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mdlayher/netlink"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

// readTables lists all tables of nftables of the calling thread's network namespace, as
// they were at one moment. The attributes are read as the kernel sends them: the library
// leaves out expressions that it doesn't know.
func readTables() ([]table, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer ns.Close()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Fd())})
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	defer conn.Close()
	r := reader{conn}
	all, err := dump.All(func() ([]table, error) {
		before, err := r.generation()
		if err != nil {
			return nil, err
		}
		tables, err := r.tables()
		// What is deleted meanwhile may be absent for a part of it.
		after, failed := r.generation()
		if failed == nil && after != before {
			return nil, vnl.ErrDumpInterrupted
		}
		return tables, errors.Join(err, failed)
	})
	if err != nil {
		return nil, fmt.Errorf("list the rules of nftables: %w", err)
	}
	return all, nil
}

type reader struct{ conn *netlink.Conn }

// nfgenmsg is the size of the header before the attributes
// (include/uapi/linux/netfilter/nfnetlink.h), whose first byte is the family.
const nfgenmsg = 4

// attributes are those of one level, by type; of several of one type the last.
type attributes = map[uint16][]byte

func (r reader) ask(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, about ...netlink.Attribute) ([]netlink.Message, error) {
	data, err := netlink.MarshalAttributes(about)
	if err != nil {
		return nil, err
	}
	return r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
}

// each dumps and calls f with the family and the attributes of each message.
func (r reader) each(kind netlink.HeaderType, family byte, about []netlink.Attribute, f func(family byte, a attributes) error) error {
	all, err := r.ask(kind, netlink.Dump, family, about...)
	if err != nil {
		return err
	}
	for _, m := range all {
		if len(m.Data) < nfgenmsg {
			return errors.New("a message is too short")
		}
		a, err := decode(m.Data[nfgenmsg:])
		if err != nil {
			return err
		}
		if err := f(m.Data[0], a); err != nil {
			return err
		}
	}
	return nil
}

func (r reader) generation() (uint32, error) {
	all, err := r.ask(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC)
	if err != nil || len(all) == 0 || len(all[0].Data) < nfgenmsg {
		return 0, errors.Join(errors.New("the kernel doesn't tell the generation of the rules"), err)
	}
	a, err := decode(all[0].Data[nfgenmsg:])
	return number(a[unix.NFTA_GEN_ID]), err
}

type tableKey struct {
	family byte
	name   string
}

func (r reader) tables() ([]table, error) {
	var tables []table
	at := make(map[tableKey]int)
	err := r.each(unix.NFT_MSG_GETTABLE, unix.AF_UNSPEC, nil, func(family byte, a attributes) error {
		t := table{
			family: family, name: text(a[unix.NFTA_TABLE_NAME]), sets: make(map[string]*set),
			idle: number(a[unix.NFTA_TABLE_FLAGS])&unix.NFT_TABLE_F_DORMANT != 0,
		}
		at[tableKey{family, t.name}] = len(tables)
		tables = append(tables, t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	chains := make(map[tableKey]map[string]*chain)
	err = r.each(unix.NFT_MSG_GETCHAIN, unix.AF_UNSPEC, nil, func(family byte, a attributes) error {
		key := tableKey{family, text(a[unix.NFTA_CHAIN_TABLE])}
		i, ok := at[key]
		if !ok {
			return nil // a table of a later moment: the generation has changed
		}
		c, err := decodeChain(a)
		if err != nil {
			return err
		}
		if chains[key] == nil {
			chains[key] = make(map[string]*chain)
		}
		chains[key][c.name] = c
		tables[i].chains = append(tables[i].chains, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = r.each(unix.NFT_MSG_GETRULE, unix.AF_UNSPEC, nil, func(family byte, a attributes) error {
		c := chains[tableKey{family, text(a[unix.NFTA_RULE_TABLE])}][text(a[unix.NFTA_RULE_CHAIN])]
		if c == nil {
			return nil
		}
		rule, err := decodeExpressions(a[unix.NFTA_RULE_EXPRESSIONS])
		c.rules = append(c.rules, rule)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = r.each(unix.NFT_MSG_GETSET, unix.AF_UNSPEC, nil, func(family byte, a attributes) error {
		i, ok := at[tableKey{family, text(a[unix.NFTA_SET_TABLE])}]
		if !ok || ours(family, tables[i].name) {
			return nil
		}
		s, err := r.set(family, a)
		tables[i].sets[text(a[unix.NFTA_SET_NAME])] = s
		return err
	})
	return tables, err
}

// Attributes that unix has no names for (include/uapi/linux/netfilter/nf_tables.h).
const (
	hookDevices    = 4  // NFTA_HOOK_DEVS
	devicePrefix   = 2  // NFTA_DEVICE_PREFIX
	setExpression  = 17 // NFTA_SET_EXPR
	setExpressions = 18 // NFTA_SET_EXPRESSIONS
)

func decodeChain(a attributes) (*chain, error) {
	c := &chain{name: text(a[unix.NFTA_CHAIN_NAME]), kind: text(a[unix.NFTA_CHAIN_TYPE]), hook: noHook}
	if a[unix.NFTA_CHAIN_HOOK] == nil {
		return c, nil
	}
	hook, err := decode(a[unix.NFTA_CHAIN_HOOK])
	if err != nil {
		return nil, err
	}
	c.hook = int(number(hook[unix.NFTA_HOOK_HOOKNUM]))
	if name := text(hook[unix.NFTA_HOOK_DEV]); name != "" {
		c.devices = append(c.devices, name)
	}
	err = list(hook[hookDevices], func(kind uint16, b []byte) error {
		name := text(b)
		if kind == devicePrefix {
			name += "*"
		}
		c.devices = append(c.devices, name)
		return nil
	})
	return c, err
}

func (r reader) set(family byte, a attributes) (*set, error) {
	s := &set{
		fleeting: number(a[unix.NFTA_SET_FLAGS])&(unix.NFT_SET_TIMEOUT|unix.NFT_SET_EVAL) != 0,
		object:   number(a[unix.NFTA_SET_OBJ_TYPE]),
	}
	if b := a[setExpression]; b != nil {
		x, err := decodeExpression(b)
		if err != nil {
			return nil, err
		}
		s.expressions = append(s.expressions, x)
	}
	more, err := decodeExpressions(a[setExpressions])
	if err != nil {
		return nil, err
	}
	s.expressions = append(s.expressions, more...)
	if number(a[unix.NFTA_SET_DATA_TYPE]) == unix.NFT_DATA_VERDICT {
		s.chains, err = r.verdicts(family, a)
	}
	return s, err
}

// verdicts are the chains that a verdict map's elements lead to.
func (r reader) verdicts(family byte, a attributes) ([]string, error) {
	about := []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: a[unix.NFTA_SET_TABLE]},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: a[unix.NFTA_SET_NAME]},
	}
	var chains []string
	err := r.each(unix.NFT_MSG_GETSETELEM, family, about, func(_ byte, a attributes) error {
		return list(a[unix.NFTA_SET_ELEM_LIST_ELEMENTS], func(_ uint16, b []byte) error {
			element, err := decode(b)
			if err != nil {
				return err
			}
			name, _, err := decodeVerdict(element[unix.NFTA_SET_ELEM_DATA])
			if name != "" {
				chains = append(chains, name)
			}
			return err
		})
	})
	return chains, err
}

// decodeVerdict tells the chain that a verdict leads to, and whether it queues.
func decodeVerdict(data []byte) (chain string, queue bool, err error) {
	a, err := decode(data)
	if err != nil || a[unix.NFTA_DATA_VERDICT] == nil {
		return "", false, err
	}
	verdict, err := decode(a[unix.NFTA_DATA_VERDICT])
	// The upper half of a code that isn't negative is the queue's number.
	code := int32(number(verdict[unix.NFTA_VERDICT_CODE]))
	const nfQueue = 3 // NF_QUEUE
	return text(verdict[unix.NFTA_VERDICT_CHAIN]), code >= 0 && code&0xff == nfQueue, err
}

func decodeExpressions(data []byte) ([]expression, error) {
	var all []expression
	err := list(data, func(_ uint16, b []byte) error {
		x, err := decodeExpression(b)
		all = append(all, x)
		return err
	})
	return all, err
}

func decodeExpression(data []byte) (expression, error) {
	a, err := decode(data)
	if err != nil {
		return expression{}, err
	}
	x := expression{name: text(a[unix.NFTA_EXPR_NAME])}
	if x.attributes, err = decode(a[unix.NFTA_EXPR_DATA]); err != nil {
		return expression{}, err
	}
	if x.name == "immediate" {
		x.chain, x.queue, err = decodeVerdict(x.attributes[unix.NFTA_IMMEDIATE_DATA])
	}
	return x, err
}

func decode(data []byte) (attributes, error) {
	a := make(attributes)
	err := list(data, func(kind uint16, b []byte) error {
		a[kind] = b
		return nil
	})
	return a, err
}

func list(data []byte, f func(kind uint16, b []byte) error) error {
	d, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	for d.Next() {
		if err := f(d.Type(), d.Bytes()); err != nil {
			return err
		}
	}
	return d.Err()
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// number is 0 for what isn't there.
func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
